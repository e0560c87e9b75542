"""The four steps of alternating training (Ren et al. 2015), beside joint training in one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residual.data.decode import DamagedImage
from residual.distributed import World
from residual.runs.session import fresh
from residual.tasks.detection import loader
from residual.tasks.detection.datasets import DetectionDataset
from residual.tasks.detection.evaluate import read_ahead
from residual.tasks.detection.faster_rcnn import Detector, build
from residual.tasks.detection.inference import Look
from residual.tasks.detection.losses import PARTS
from residual.tasks.detection.recipe import Recipe, Testing, learning_rate
from residual.training import checkpoint
from residual.training.loop import Learner

# Choice: the four take the parts of the whole that the published schedule for VOC 2007 gives them,
# 80k, 40k, 80k and 40k steps, with a tenth of the rate from three quarters of each on.
LENGTHS = (2, 1, 2, 1)


@dataclass(frozen=True)
class Stage:
    """Steps of a training in which the same losses teach the same layers."""

    number: int  # from 1
    first: int  # step
    end: int
    parts: tuple[str, ...] = PARTS
    proposals: bool = False  # given: those of the stage before
    still: bool = False  # shared layers do not learn


def stages(recipe: Recipe) -> list[Stage]:
    """What a recipe's steps are divided into."""
    if recipe.schedule == "joint":
        return [Stage(1, 0, recipe.steps)]
    ends = [recipe.steps * sum(LENGTHS[: i + 1]) // sum(LENGTHS) for i in range(4)]
    return [
        Stage(i + 1, first, end, PARTS[2:] if i % 2 else PARTS[:2], bool(i % 2), i >= 2)
        for i, (first, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def rate(recipe: Recipe, step: int) -> float:
    """The rate for the step after `step` steps."""
    if recipe.schedule == "joint":
        return learning_rate(recipe, step)
    stage = next(each for each in stages(recipe) if step < each.end)
    late = 4 * (step - stage.first) >= 3 * (stage.end - stage.first)
    return recipe.lr * recipe.factor**late


def enter(stage: Stage, learner: Learner[Detector], begun: checkpoint.Tensors | None) -> None:
    """What changes before a stage's first step. The second begins with the weights that the first
    began with: those of a file, or else those of the seed."""
    net = learner.net
    if stage.number == 2:
        state = begun or {
            f"net.{name}": each for name, each in drawn_anew(net).state_dict().items()
        }
        own = {k: t for k, t in state.items() if k.startswith(("net.shared.", "net.head."))}
        net.load_state_dict({k.removeprefix("net."): t for k, t in own.items()}, strict=False)
    if stage.number == 3:
        # Choice: the layers that propose are drawn anew, as in the published code.
        net.proposing.load_state_dict(drawn_anew(net).proposing.state_dict())
    if stage.number > 1:
        learner.optimizer.state.clear()


def drawn_anew(net: Detector) -> Detector:
    """The same detector as the seed draws it."""
    return fresh(net.recipe.seed, lambda: build(net.recipe, net.classes))


def hold(stage: Stage, net: Detector) -> None:
    """Keep shared layers still, or let them learn, as a stage has it."""
    if stage.still:
        net.shared.requires_grad_(False)
        net.still = len(net.shared)


@torch.no_grad()
def proposed(
    net: Detector, scenes: DetectionDataset, feed: loader.Supply, world: World
) -> dict[int, Tensor]:
    """What a detector proposes on every picture of a set, (P, 4) in resized pixels, by its place;
    nothing on damaged ones."""
    recipe, mine = net.recipe, list(world.shard(len(scenes.examples)))
    sides = [(recipe.shorter, recipe.longest)]
    asking = Testing(candidates=recipe.candidates, proposals=recipe.proposals)
    found: list[tuple[int, Tensor]] = []
    net.eval()
    paths = [scenes.examples[i].path for i in mine]
    for i, picture in zip(mine, read_ahead(paths, sides, feed.workers), strict=True):
        try:
            (seen,) = picture()
        except (DamagedImage, FileNotFoundError):
            continue
        image = loader.input_of(seen, feed.before, feed.device)
        boxes, _ = Look(net, [image], seen.factors).proposed(asking)
        found.append((i, boxes.cpu()))
    return dict(world.all_gather(found))


def kept(run: Path, stage: Stage) -> Path:
    """The file of the proposals that a stage learns from."""
    return run / f"proposals-{stage.number}.safetensors"


def named(found: dict[int, Tensor]) -> checkpoint.Tensors:
    return {str(i): boxes for i, boxes in found.items()}


def of_names(tensors: checkpoint.Tensors) -> dict[int, Tensor]:
    return {int(name): boxes for name, boxes in tensors.items()}


def remaining(recipe: Recipe, step: int) -> Iterator[Stage]:
    """The stages that are not over after `step` steps."""
    return (each for each in stages(recipe) if step < each.end)
