"""Phases of a training: one in joint training, four in alternating training (Ren et al. 2015)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residual.data.decode import DamagedImage
from residual.distributed import World
from residual.runs.session import fresh
from residual.tasks.detection.datasets import DetectionDataset
from residual.tasks.detection.faster_rcnn import FasterRCNN, build
from residual.tasks.detection.inference import ImageFeatures
from residual.tasks.detection.loader import TrainingLoader, normalize, read_images
from residual.tasks.detection.losses import LOSSES
from residual.tasks.detection.recipe import DetectionRecipe, learning_rate
from residual.training import checkpoint
from residual.training.loop import Learner

# Choice: the four take the parts of the whole that the published schedule for VOC 2007 gives them,
# 80k, 40k, 80k and 40k steps, with a tenth of the rate from three quarters of each on.
LENGTHS = (2, 1, 2, 1)


@dataclass(frozen=True)
class Phase:
    """Steps of a training with the same losses and the same layers that learn."""

    number: int  # from 1
    first: int  # step
    end: int
    losses: tuple[str, ...] = LOSSES
    fixed_proposals: bool = False  # of the detector before this phase
    frozen_backbone: bool = False


def phases(recipe: DetectionRecipe) -> list[Phase]:
    if recipe.schedule == "joint":
        return [Phase(1, 0, recipe.steps)]
    ends = [recipe.steps * sum(LENGTHS[: i + 1]) // sum(LENGTHS) for i in range(4)]
    return [
        Phase(i + 1, first, end, LOSSES[2:] if i % 2 else LOSSES[:2], bool(i % 2), i >= 2)
        for i, (first, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def remaining(recipe: DetectionRecipe, step: int) -> Iterator[Phase]:
    """The phases that are not over after `step` steps."""
    return (phase for phase in phases(recipe) if step < phase.end)


def phase_learning_rate(recipe: DetectionRecipe, step: int) -> float:
    """The learning rate after `step` steps."""
    if recipe.schedule == "joint":
        return learning_rate(recipe, step)
    phase = next(remaining(recipe, step))
    late = 4 * (step - phase.first) >= 3 * (phase.end - phase.first)
    return recipe.lr * recipe.factor**late


def enter(phase: Phase, learner: Learner[FasterRCNN], initial: checkpoint.Tensors | None) -> None:
    """Changes the weights before the first step of a phase. The second starts with the backbone
    that the first started with: `initial`, or the seed's."""
    net = learner.net

    def initialized() -> FasterRCNN:
        return fresh(net.recipe.seed, lambda: build(net.recipe, net.classes))

    if phase.number == 2:
        state = initialized().state_dict()
        if initial:
            state = {name.removeprefix("net."): tensor for name, tensor in initial.items()}
        backbone = {k: v for k, v in state.items() if k.startswith(("shared.", "head."))}
        net.load_state_dict(backbone, strict=False)
    if phase.number == 3:
        # Choice: the layers that propose are drawn anew, as in the published code.
        net.proposing.load_state_dict(initialized().proposing.state_dict())
    if phase.number > 1:
        learner.optimizer.state.clear()


def freeze(phase: Phase, net: FasterRCNN) -> None:
    """Freezes the backbone if the phase wants it."""
    if phase.frozen_backbone:
        net.shared.requires_grad_(False)
        net.frozen = len(net.shared)


@torch.no_grad()
def propose_all(
    net: FasterRCNN, dataset: DetectionDataset, loader: TrainingLoader, world: World
) -> dict[int, Tensor]:
    """The region proposals (P, 4) on each image of a data set by its index, in resized pixels;
    damaged images have none."""
    recipe, net = net.recipe, net.eval()
    proposals: list[tuple[int, Tensor]] = []
    sides = [(recipe.shorter, recipe.longest)]
    for i, read in read_images(dataset, sides, loader.workers, world):
        try:
            (image,) = read()
        except (DamagedImage, FileNotFoundError):
            continue
        pixels = normalize(image, loader.preprocessing, loader.device)
        boxes, _ = ImageFeatures(net, [pixels], image.scale).proposals(recipe)
        proposals.append((i, boxes.cpu()))
    return dict(world.all_gather(proposals))


def proposals_file(run: Path, phase: Phase) -> Path:
    return run / f"proposals-{phase.number}.safetensors"


def save_proposals(file: Path, proposals: dict[int, Tensor]) -> None:
    checkpoint.save(file, {str(i): boxes for i, boxes in proposals.items()}, {})


def load_proposals(file: Path) -> dict[int, Tensor]:
    return {int(i): boxes for i, boxes in checkpoint.read(file)[0].items()}
