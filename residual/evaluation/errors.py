"""Sections 3.4 and 4.2: the error of a network, counted exactly."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Views = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Count:
    """Wrong answers among the images seen. Counts add; rates are computed at the very end."""

    wrong_top1: int = 0
    wrong_top5: int = 0
    seen: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.wrong_top1 + other.wrong_top1,
            self.wrong_top5 + other.wrong_top5,
            self.seen + other.seen,
        )

    @property
    def error_top1(self) -> float:
        """In percent, as the paper prints it."""
        return 100 * self.wrong_top1 / self.seen

    @property
    def error_top5(self) -> float:
        return 100 * self.wrong_top5 / self.seen


def as_it_is(images: Tensor) -> list[Tensor]:
    """The single view of Section 4.2."""
    return [images]


# How an image's scores come about. CIFAR's protocol is the one view of the original image.
PROTOCOLS: dict[str, Views] = {"1crop": as_it_is}


def best(
    nets: list[nn.Module], batches: Iterable[tuple[Tensor, Tensor]], views: Views, k: int = 5
) -> Tensor:
    """The k best classes (N, k) of each image, best first.

    An image's probabilities are the mean over its views, and over the networks of an ensemble.
    """
    modes = [net.training for net in nets]
    answers = []
    with torch.inference_mode():
        for net in nets:
            net.eval()
        for images, _ in batches:
            scores = [net(view).float().softmax(dim=1) for net in nets for view in views(images)]
            mean = scores[0] if len(scores) == 1 else torch.stack(scores).mean(dim=0)
            answers.append(mean.topk(min(k, mean.shape[1])).indices)
    for net, mode in zip(nets, modes, strict=True):
        net.train(mode)
    return torch.cat(answers)


def count(answers: Tensor, labels: Tensor, damaged: int = 0) -> Count:
    """An answer (N, k), best first, is wrong when the label is not the best, or not among five.

    A damaged picture has no answer; it counts as wrong.
    """
    hits = answers == labels[:, None]
    return Count(
        wrong_top1=int((~hits[:, :1].any(dim=1)).sum()) + damaged,
        wrong_top5=int((~hits[:, :5].any(dim=1)).sum()) + damaged,
        seen=len(labels) + damaged,
    )


def confusion(best: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many images of each class (rows) got which answer (columns): (C, C) int64.

    From the best answers (N,) and the labels (N,). Raises ValueError for one that is no class.
    """
    for name, numbers in (("an answer", best), ("a label", labels)):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            raise ValueError(f"{name} is not one of the {classes} classes, 0 to {classes - 1}")
    cells = labels.long() * classes + best.long()
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
