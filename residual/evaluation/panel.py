"""Networks that answer together, in micro-batches: the sums of what they say of each picture."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from residual.evaluation.protocols import Average
from residual.finite import WORDS, NotFinite, is_finite, refuse_answers

NO_ANSWER = -1  # of a picture that could not be read


@dataclass(frozen=True)
class Member:
    """A network of an ensemble; one network is the smallest ensemble."""

    net: nn.Module
    preprocessing: Callable[[Tensor], Tensor]  # pixels (N, 3, H, W) uint8 -> input
    order: Tensor | None = None  # (C,) where each class of the first network stands in this one
    name: str = "the network"

    def scores(self, pixels: Tensor) -> Tensor:
        """(N, C), in the order of the first network's classes."""
        return self._in_order(self.net(self.preprocessing(pixels)))

    def check(self, pixels: Tensor) -> None:
        """Raises NotFinite where a score is not finite, with the layer that it comes from."""
        inputs = self.preprocessing(pixels)
        if not is_finite(self.net(inputs)):
            refuse_answers(self.name, self.net, lambda: self.net.forward(inputs))

    def _in_order(self, scores: Tensor) -> Tensor:
        if scores.dtype != torch.float64:
            scores = scores.float()
        return scores if self.order is None else scores[:, self.order]


@dataclass
class Panel:
    """The members of an ensemble that look at the same views."""

    members: Sequence[Member]
    average: Average
    mirror: bool
    device: torch.device
    limit: int  # pixels of a micro-batch, which holds at least one view
    finite: list[Tensor] = field(default_factory=list)  # of each micro-batch since the last call

    def __call__(self, pixels: Tensor) -> Tensor:
        """Views (N, 3, H, W) uint8 -> (N, C), summed over the members and the mirrored views.

        Where memory is short, the micro-batch is halved for good. Raises RuntimeError where there
        is too little for a single view, and NotFinite, with the network and its layer, where a
        score is not finite.
        """
        sums: list[Tensor] = []
        area, done = pixels.shape[2] * pixels.shape[3], 0
        while done < len(pixels):
            part = pixels[done : done + max(1, self.limit // area)]
            found = self._within_memory(part)
            if found is None:
                if len(part) == 1:
                    raise RuntimeError(
                        f"a single picture of {pixels.shape[2]}x{pixels.shape[3]} pixels does not "
                        f"fit into the memory of {self.device}; smaller --sides would"
                    )
                self.limit = len(part) // 2 * area
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            sums.append(found)
            done += len(part)
        if not bool(torch.stack(self.finite).all()):
            self._refuse(pixels)
        self.finite.clear()
        return torch.cat(sums)

    def _refuse(self, pixels: Tensor) -> None:
        """Raises NotFinite: some score of these views is not finite."""
        for part in torch.split(pixels, max(1, self.limit // (pixels.shape[2] * pixels.shape[3]))):
            for views in self._views(part.to(self.device)):
                for member in self.members:
                    member.check(views)
        raise NotFinite(
            f"the answers of {', '.join(each.name for each in self.members)} hold {WORDS}"
        )

    def _within_memory(self, part: Tensor) -> Tensor | None:
        try:
            return self._said(part.to(self.device, non_blocking=True))
        except torch.OutOfMemoryError:
            return None

    def _views(self, pixels: Tensor) -> list[Tensor]:
        """The mirror is on the pixels, before a per-pixel mean is subtracted."""
        return [pixels, pixels.flip(-1)] if self.mirror else [pixels]

    def _said(self, pixels: Tensor) -> Tensor:
        views = self._views(pixels)
        said = [member.scores(view) for member in self.members for view in views]
        self.finite.append(torch.stack([scores.isfinite().all() for scores in said]).all())
        if self.average == "probabilities":
            said = [scores.softmax(dim=1) for scores in said]
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        total = said[0].to(exact)
        for more in said[1:]:
            total = total + more
        return total


@contextmanager
def judging(nets: Sequence[nn.Module]) -> Iterator[None]:
    """Networks in evaluation mode, without gradients; afterwards each has its mode again."""
    modes = [net.training for net in nets]
    try:
        with torch.inference_mode():
            for net in nets:
                net.eval()
            yield
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)


def summed(
    panels: Sequence[Panel], seen_by: Sequence[int], pictures: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Tensor]:
    """What is said of each picture, summed over views and networks: (n, C), for n that were read.

    And which these n are (n,). A picture is its arrays (views, height, width, 3) uint8, the a-th of
    which the panel `seen_by[a]` looks at, or nothing where it is damaged. Views of one size go
    through the networks together, whichever pictures they are of.
    """
    read = [i for i, arrays in enumerate(pictures) if arrays]
    buckets: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
    for row, i in enumerate(read):
        for panel, array in zip(seen_by, pictures[i], strict=True):
            buckets[panel, *array.shape[1:3]].append((row, array))
    total: Tensor | None = None
    for (panel, *_), views in buckets.items():
        pixels = gathered([array for _, array in views], panels[panel].device)
        said = panels[panel](pixels.permute(0, 3, 1, 2))
        rows = torch.tensor([row for row, array in views for _ in range(len(array))])
        if total is None:
            total = said.new_zeros((len(read), said.shape[1]))
        total.index_add_(0, rows.to(said.device), said)
    return torch.empty(0, 1) if total is None else total, torch.tensor(read, dtype=torch.int64)


def gathered(arrays: Sequence[Tensor], device: torch.device) -> Tensor:
    """Arrays (views, H, W, 3) as one, from where it travels fast to the device."""
    shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    together = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    return torch.cat(list(arrays), out=together)


def best(scores: Tensor, k: int = 5) -> Tensor:
    """The k best classes (N, k), best first, of scores (N, C); fewer where there are fewer.

    Of equal scores the class of the lower number is the better one, on every device: topk promises
    no order.
    """
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
