"""Phases of a training: one in joint training, four in alternating training (Ren et al. 2015)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from residual.runs.session import fresh
from residual.tasks.detection.faster_rcnn import FasterRCNN, build
from residual.tasks.detection.inference import ImageFeatures
from residual.tasks.detection.loader import ResizedImage, TrainingLoader, map_images, normalize
from residual.tasks.detection.losses import LOSSES
from residual.tasks.detection.recipe import DetectionRecipe
from residual.training import checkpoint
from residual.training.loop import Learner
from residual.training.recipe import milestone_rate

# Choice: the four phases have the shares of the published schedule for VOC 2007 (80k, 40k, 80k and
# 40k steps); the rate drops to a tenth after three quarters of each.
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
    """The phases of a training, in order."""
    if recipe.schedule == "joint":
        return [Phase(1, 0, recipe.steps)]
    ends = [recipe.steps * sum(LENGTHS[: i + 1]) // sum(LENGTHS) for i in range(4)]
    return [
        Phase(i + 1, first, end, LOSSES[2:] if i % 2 else LOSSES[:2], bool(i % 2), i >= 2)
        for i, (first, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def learning_rate(recipe: DetectionRecipe, step: int) -> float:
    """The learning rate after `step` steps."""
    warmup_steps, warmup_rate = recipe.warmup
    if recipe.schedule == "alternating":
        phase = next(phase for phase in phases(recipe) if step < phase.end)
        late = 4 * (step - phase.first) >= 3 * (phase.end - phase.first)
        return recipe.lr * recipe.factor**late
    if step < warmup_steps:
        return warmup_rate + (recipe.lr - warmup_rate) * step / warmup_steps
    return milestone_rate(recipe, step)


def enter(phase: Phase, learner: Learner[FasterRCNN], initial: checkpoint.Tensors | None) -> None:
    """Changes the weights before the first step of a phase. The second starts with the backbone
    that the first started with: `initial`, or the seed's."""
    net = learner.net

    def initialized() -> FasterRCNN:
        return fresh(net.recipe.seed, lambda: build(net.recipe, net.num_classes))

    if phase.number == 2:
        state = initialized().state_dict()
        if initial:
            state = {name.removeprefix("net."): tensor for name, tensor in initial.items()}
        backbone = {k: v for k, v in state.items() if k.startswith(("shared.", "head."))}
        net.load_state_dict(backbone, strict=False)
    if phase.number == 3:
        # Choice: the layers of the RPN are initialized again, as in the published code.
        net.proposing.load_state_dict(initialized().proposing.state_dict())
    if phase.number > 1:
        learner.optimizer.state.clear()


def freeze(phase: Phase, net: FasterRCNN) -> None:
    """Freezes the backbone if the phase wants it."""
    if phase.frozen_backbone:
        net.shared.requires_grad_(False)
        net.frozen = len(net.shared)


@torch.no_grad()
def propose_all(net: FasterRCNN, loader: TrainingLoader) -> dict[str, Tensor]:
    """The region proposals (P, 4) on each image of a loader by its index, in resized pixels;
    damaged images have none."""
    recipe, net = net.recipe, net.eval()

    def propose(images: list[ResizedImage]) -> Tensor:
        pixels = normalize(images[0], loader.preprocessing, loader.device)
        boxes, _ = ImageFeatures(net, [pixels], images[0].scale).proposals(recipe)
        return boxes.cpu()

    sides = [(recipe.shorter, recipe.longest)]
    results = map_images(propose, loader.dataset, sides, loader.workers, loader.world)
    return {str(i): boxes for i, (boxes, _) in enumerate(results) if boxes is not None}
