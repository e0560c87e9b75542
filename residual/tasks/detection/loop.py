"""Steps of a detector: parameter groups, pictures of one size together, gradients."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from residual.distributed import World
from residual.tasks.detection.faster_rcnn import FasterRCNN, fuse_batchnorm
from residual.tasks.detection.losses import LOSSES, Sample
from residual.tasks.detection.recipe import Recipe, learning_rate
from residual.training import loop
from residual.training.dropout import Dropouts
from residual.training.loop import Learner, Step


@dataclass(frozen=True)
class Way:
    """How pictures pass through the detector here."""

    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    memory_format: torch.memory_format = torch.contiguous_format
    world: World = field(default_factory=World)


def start(net: FasterRCNN, recipe: Recipe) -> Learner[FasterRCNN]:
    """Weight decay is on weights, not on biases, as for classification."""
    fuse_batchnorm(net)
    learned = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum)
    # A picture's regions are one group; see `FasterRCNN.forward`.
    return Learner(net, optimizer, Dropouts(net, recipe.regions, recipe.seed))


def train(
    learner: Learner[FasterRCNN],
    batches: Iterator[list[Sample]],
    recipe: Recipe,
    way: Way | None = None,
    parts: tuple[str, ...] = LOSSES,
    rate: Callable[[int], float] | None = None,
) -> Iterator[Step]:
    """Take the steps that remain, one at a time. Batches are this process's part. The four losses
    of a step are the mean over the pictures of all processes."""
    way = way or Way()

    def rates(step: int) -> tuple[float, float]:
        return rate(step) if rate else learning_rate(recipe, step), recipe.momentum

    def gradients(samples: list[Sample]) -> Tensor:
        return gathered(learner, samples, parts, way)

    for lr, found in loop.train(learner, batches, recipe.steps, rates, gradients, way.world):
        loss = found.sum().float()
        yield Step(learner.step, lr, loss, None, recipe.batch, 1, parts=found.float())


def gathered(
    learner: Learner[FasterRCNN], samples: list[Sample], parts: tuple[str, ...], way: Way
) -> Tensor:
    """Gradients of the mean loss over these pictures -> the four losses (4,)."""
    exact = torch.promote_types(next(learner.net.parameters()).dtype, torch.float32)
    total = torch.zeros(4, device=samples[0].image.device, dtype=exact)
    alike = sorted(samples, key=lambda sample: sample.image.shape)
    for _, own in groupby(alike, key=lambda sample: sample.image.shape):
        with way.precision():
            group = list(own)
            images = torch.stack([sample.image for sample in group])
            images = images.contiguous(memory_format=way.memory_format)
            found = learner.net(images, group, parts, learner.dropouts)
        (found.sum() / len(samples)).backward()
        total += found.detach() / len(samples)
    return total
