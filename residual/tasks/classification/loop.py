"""Steps of a classifier: parameter groups, micro-batches of whole norm groups, gradients."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from residual.distributed import World
from residual.tasks.classification.losses import Lesson, classes_of, several, summed
from residual.tasks.classification.recipe import Recipe, learning_rate, momentum
from residual.training import loop
from residual.training.batchnorm import GhostBatchNorms
from residual.training.dropout import Dropouts
from residual.training.loop import Step


@dataclass
class Run(loop.Learner[nn.Module]):
    """A classifier while it learns."""

    plateaus: int = 0  # of the error on the val set, where the schedule goes by them
    weights: Tensor | None = None  # (classes,), of each class in the loss
    teacher: Callable[[Tensor], Lesson] | None = None  # where the recipe has a lesson


@dataclass(frozen=True)
class Pass:
    """How a batch passes through the network here."""

    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    images: int = 0  # at once; 0: one norm group
    world: World = field(default_factory=World)


def start(net: nn.Module, recipe: Recipe) -> Run:
    """Weight decay is on weights, not on biases or batch-norm scales (the authors' release)."""
    # Deviation: momentum gathers gradients and the rate multiplies them afterwards, as in torch;
    # the authors' Caffe multiplies first. The two differ only right after the rate drops.
    groups = [
        {"params": parameters, "lr_scale": share, "weight_decay": decay}
        for (share, decay), parameters in parameter_groups(net, recipe).items()
    ]
    match recipe.optimizer:
        case "rmsprop":
            optimizer: torch.optim.Optimizer = torch.optim.RMSprop(groups, recipe.lr, alpha=0.9)
        case kind:
            nesterov = kind == "nesterov"
            optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=nesterov)
    group = recipe.norm_group
    limits = tuple((m.weight, m.max_norm) for m in net.modules() if hasattr(m, "max_norm"))
    norms = GhostBatchNorms(net, group, recipe.frozen)
    dropouts = Dropouts(net, group, recipe.seed)
    return Run(net, optimizer, dropouts, norms, limits)  # type: ignore[arg-type]


def parameter_groups(
    net: nn.Module, recipe: Recipe
) -> dict[tuple[float, float], list[nn.Parameter]]:
    """Parameter groups keyed by (learning-rate multiplier, weight decay)."""
    *_, last = (module for module in net.modules() if [*module.parameters(recurse=False)])
    own = set(last.parameters())
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            share = 1.0 if parameter in own else recipe.backbone_rate
            share *= recipe.convolution_rate if isinstance(module, nn.Conv2d) else 1.0
            share *= recipe.bias_rate if name == "bias" else 1.0
            share *= recipe.heads_rate if path.startswith("heads.") else 1.0
            decay = recipe.weight_decay * (recipe.last_decay if parameter in own else 1.0)
            key = share, decay if parameter.ndim > 1 else 0.0
            found.setdefault(key, []).append(parameter)
    return found


def train(
    run: Run,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    how: Pass | None = None,
) -> Iterator[Step]:
    """Take the steps that remain, one at a time. Batches are this process's part: (N, 3, H, W) and
    labels, (N,) or (N, classes) where they are soft."""
    how = how or Pass()
    at_once = how.images or recipe.norm_group

    def rates(step: int) -> tuple[float, float]:
        return learning_rate(recipe, step, run.plateaus), momentum(recipe, step)

    def gradients(batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal at_once
        values, at_once = passed(run, *batch, recipe, how, at_once)
        return values

    for lr, values in loop.train(run, batches, recipe.steps, rates, gradients, how.world):
        loss, wrong = values
        wrong = (wrong * how.world.size).round()
        yield Step(run.step, lr, loss, wrong, recipe.batch, at_once)


def passed(
    run: Run,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    how: Pass,
    at_once: int,
) -> tuple[Tensor, int]:
    """Gradients of a batch, its (loss, wrong), and how many images passed at once: half as many as
    asked for, and again, where the memory does not hold them. Raises OutOfMemoryError where it does
    not hold one norm group."""
    at_once = min(at_once, len(images))
    while True:
        try:
            return accumulated(run, images, labels, recipe, how, at_once), at_once
        except torch.OutOfMemoryError:
            half = at_once // (2 * recipe.norm_group) * recipe.norm_group
            if not half:
                raise torch.OutOfMemoryError(
                    f"the memory does not hold one norm group of {recipe.norm_group} images; "
                    f"choose smaller groups (--set norm_group=...), which is another recipe"
                ) from None
        at_once = half
        run.optimizer.zero_grad()


def accumulated(
    run: Run,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    how: Pass,
    at_once: int,
) -> Tensor:
    """Gradients of the mean loss, gathered over parts of whole groups -> (loss, wrong)."""
    exact = torch.promote_types(next(run.net.parameters()).dtype, torch.float32)
    found = torch.zeros(2, device=labels.device, dtype=exact)
    run.norms.begin()
    run.dropouts.first = how.world.rank * (len(images) // recipe.norm_group)
    for x, y in zip(torch.split(images, at_once), torch.split(labels, at_once), strict=True):
        with how.precision():
            outputs, lesson = several(run.net(x)), taught(run, x)
        outputs = tuple(output.to(exact) for output in outputs)
        loss = summed(outputs, y, recipe, run.step, run.weights, lesson) / len(images)
        loss.backward()  # type: ignore[no-untyped-call]
        run.norms.gather(recipe.norm_group / len(images))
        run.dropouts.first += len(x) // recipe.norm_group
        wrong = (outputs[0].detach().argmax(dim=1) != classes_of(y)).sum()
        found += torch.stack([loss.detach(), wrong.to(exact)])
    return found


@torch.no_grad()
def taught(run: Run, images: Tensor) -> Lesson | None:
    """What the teacher says of images (N, 3, H, W), if there is one."""
    if run.teacher is None:
        return None
    scores, hint = run.teacher(images)
    exact = torch.promote_types(next(run.net.parameters()).dtype, torch.float32)
    return scores.to(exact), hint.to(exact)
