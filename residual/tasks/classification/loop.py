"""Training steps of a classifier: parameter groups, micro-batches of norm groups, gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residual.data.datasets import Data
from residual.data.loader import LoaderOptions
from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig
from residual.models.complexity import HEADS
from residual.tasks.classification import loader
from residual.tasks.classification.losses import TeacherOutput, total_loss
from residual.tasks.classification.recipe import ClassificationRecipe, learning_rate, momentum
from residual.training import batchnorm, loop
from residual.training.batchnorm import GhostBatchNorms
from residual.training.dropout import Dropouts
from residual.training.loop import Step, StepOptions

Batch = tuple[Tensor, Tensor]  # images (N, 3, H, W), and labels (N,), or (N, classes) if soft


@dataclass
class ClassifierLearner(loop.Learner[nn.Module]):
    """A classifier in training."""

    plateaus: int = 0  # of the validation error, for the schedule plateau
    weights: Tensor | None = None  # (classes,), of the classes in the loss
    teacher: Callable[[Tensor], TeacherOutput] | None = None  # unless `lesson` is none


def start(net: nn.Module, recipe: ClassificationRecipe) -> ClassifierLearner:
    """Weight decay is on weights, not on biases or batch-norm scales (the authors' release)."""
    # Deviation: momentum sums gradients, and the learning rate multiplies the sum, as in torch; the
    # authors' Caffe multiplies first. They differ only directly after a drop of the rate.
    groups = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in parameter_groups(net, recipe).items()
    ]
    if recipe.optimizer == "rmsprop":
        optimizer: torch.optim.Optimizer = torch.optim.RMSprop(groups, recipe.lr, alpha=0.9)
    else:
        nesterov = recipe.optimizer == "nesterov"
        optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=nesterov)
    group = recipe.norm_group
    max_norms = tuple((m.weight, m.max_norm) for m in net.modules() if hasattr(m, "max_norm"))
    norms = GhostBatchNorms(net, group, recipe.frozen)
    dropouts = Dropouts(net, group, recipe.seed)
    return ClassifierLearner(net, optimizer, dropouts, norms, max_norms)  # type: ignore[arg-type]


def parameter_groups(
    net: nn.Module, recipe: ClassificationRecipe
) -> dict[tuple[float, float], list[nn.Parameter]]:
    """Parameter groups keyed by (learning-rate multiplier, weight decay)."""
    *_, last = (module for module in net.modules() if [*module.parameters(recurse=False)])
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            scale = 1.0 if module is last else recipe.backbone_rate
            scale *= recipe.convolution_rate if isinstance(module, nn.Conv2d) else 1.0
            scale *= recipe.bias_rate if name == "bias" else 1.0
            scale *= recipe.heads_rate if path.startswith(HEADS) else 1.0
            decay = recipe.weight_decay * (recipe.last_decay if module is last else 1.0)
            key = scale, decay if parameter.ndim > 1 else 0.0
            groups.setdefault(key, []).append(parameter)
    return groups


def train(
    learner: ClassifierLearner,
    batches: Iterator[Batch],
    recipe: ClassificationRecipe,
    options: StepOptions | None = None,
) -> Iterator[Step]:
    """Take the remaining steps, one at a time. Batches are this process's part. Raises
    OutOfMemoryError where the memory does not hold one norm group."""
    options = options or StepOptions()
    group = recipe.norm_group
    micro_batch = options.images or group  # halved as often as memory is short

    def rates(step: int) -> tuple[float, float]:
        return learning_rate(recipe, step, learner.plateaus), momentum(recipe, step)

    def gradients(batch: Batch) -> Tensor:
        nonlocal micro_batch
        while True:
            micro_batch = min(micro_batch, len(batch[0]))
            try:
                return accumulate(learner, batch, recipe, options, micro_batch)
            except torch.OutOfMemoryError:
                half = micro_batch // (2 * group) * group
                if not half:
                    raise torch.OutOfMemoryError(
                        f"the memory does not hold one norm group of {group} images; "
                        f"choose smaller groups (--set norm_group=...), which is another recipe"
                    ) from None
            micro_batch = half
            learner.optimizer.zero_grad()

    steps = loop.train(learner, batches, recipe.steps, rates, gradients, options.world)
    for lr, (loss, wrong) in steps:
        wrong = (wrong * options.world.size).round()
        yield Step(learner.step, lr, loss, wrong, recipe.batch, micro_batch)


def accumulate(
    learner: ClassifierLearner,
    batch: Batch,
    recipe: ClassificationRecipe,
    options: StepOptions,
    micro_batch: int,
) -> Tensor:
    """Accumulate the gradients of the mean loss over micro-batches -> (loss, wrong)."""
    images, labels = batch
    exact = torch.promote_types(next(learner.net.parameters()).dtype, torch.float32)
    values = torch.zeros(2, device=labels.device, dtype=exact)
    learner.norms.begin_step()
    learner.dropouts.first = options.world.rank * (len(images) // recipe.norm_group)
    for x, y in zip(
        torch.split(images, micro_batch), torch.split(labels, micro_batch), strict=True
    ):
        teacher = None
        with options.precision():
            outputs = learner.net(x)
            if learner.teacher is not None:
                with torch.no_grad():
                    teacher = learner.teacher(x)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        outputs = tuple(output.to(exact) for output in outputs)
        if teacher is not None:
            teacher = teacher[0].to(exact), teacher[1].to(exact)
        loss = total_loss(outputs, y, recipe, learner.step, learner.weights, teacher) / len(images)
        loss.backward()  # type: ignore[no-untyped-call]
        learner.norms.accumulate(recipe.norm_group / len(images), len(x) // recipe.norm_group)
        learner.dropouts.first += len(x) // recipe.norm_group
        hard = y if y.ndim == 1 else y.argmax(dim=1)
        wrong = (outputs[0].detach().argmax(dim=1) != hard).sum()
        values += torch.stack([loss.detach(), wrong.to(exact)])
    return values


def precise_batchnorm(
    net: nn.Module,
    recipe: ClassificationRecipe,
    data: Data,
    preprocessing: Preprocessing,
    place: LoaderOptions,
    config: ComputeConfig,
    images: int,
) -> int:
    """Measure the batch-norm statistics over training images, in whole batches of the recipe, as
    the authors' release has them -> the number of images."""
    batches = ((x.contiguous(), y) for x, y in loader.batches(recipe, data, preprocessing, place))
    steps = -(-min(images, len(data.train)) // recipe.batch)
    norms = GhostBatchNorms(net, recipe.norm_group)
    batchnorm.precise_statistics(net, norms, batches, steps, config.autocast, place.world)
    return steps * recipe.batch
