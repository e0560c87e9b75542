"""Training steps of a detector: parameter groups, images of one size together, gradients."""

from collections.abc import Iterator
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from residual.tasks.detection.faster_rcnn import FasterRCNN, fuse_batchnorm
from residual.tasks.detection.losses import Sample
from residual.tasks.detection.phases import Phase, learning_rate
from residual.tasks.detection.recipe import DetectionRecipe
from residual.training import loop
from residual.training.dropout import Dropouts
from residual.training.loop import Learner, Step, StepOptions


def start(net: FasterRCNN, recipe: DetectionRecipe) -> Learner[FasterRCNN]:
    """The detector with an optimizer. Weight decay is on weights, not on biases."""
    fuse_batchnorm(net)
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum)
    # The regions of an image are one group; see `FasterRCNN.forward`.
    return Learner(net, optimizer, Dropouts(net, recipe.regions, recipe.seed))


def train(
    learner: Learner[FasterRCNN],
    batches: Iterator[list[Sample]],
    recipe: DetectionRecipe,
    options: StepOptions = StepOptions(),  # noqa: B008
    phase: Phase | None = None,
) -> Iterator[Step]:
    """Take the steps of a phase that remain, by default of joint training. Batches are this
    process's part. The losses of a step are means over the images of all processes."""
    phase = phase or Phase(1, 0, recipe.steps)
    gradients = partial(accumulate_gradients, learner, phase.losses, options)

    def rates(step: int) -> tuple[float, float]:
        return learning_rate(recipe, step), recipe.momentum

    for lr, losses in loop.train(learner, batches, phase.end, rates, gradients, options.world):
        loss, parts, last = losses.sum().float(), losses.float(), learner.step == phase.end
        yield Step(learner.step, lr, loss, None, recipe.batch, 1, parts, last)


def accumulate_gradients(
    learner: Learner[FasterRCNN],
    loss_names: tuple[str, ...],
    options: StepOptions,
    samples: list[Sample],
) -> Tensor:
    """Gradients of the mean loss over these images -> the four losses (4,)."""
    exact = torch.promote_types(next(learner.net.parameters()).dtype, torch.float32)
    total = torch.zeros(4, device=samples[0].image.device, dtype=exact)
    by_size = sorted(samples, key=lambda sample: sample.image.shape)
    for _, same_size in groupby(by_size, key=lambda sample: sample.image.shape):
        with options.precision():
            group = list(same_size)
            images = torch.stack([sample.image for sample in group])
            images = images.contiguous(memory_format=options.memory_format)
            losses = learner.net(images, group, loss_names, learner.dropouts)
        (losses.sum() / len(samples)).backward()
        total += losses.detach() / len(samples)
    return total
