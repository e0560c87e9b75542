"""How a detector is trained and tested: values (Section 4.3, Appendix A and B)."""

from dataclasses import dataclass, replace
from typing import Any

from residual.training.recipe import assigned, bounded
from residual.training.recipe import from_json as values_from_json

ERROR, SKIP = "error", "skip"  # what is done about a bad box
UPRIGHT, STORED = "upright", "stored"  # frames of boxes
PIXELS, FRACTION = "pixels", "fraction"  # their units
READINGS: dict[str, tuple[str, ...]] = {
    "bad_boxes": (ERROR, SKIP),
    "box_frame": (UPRIGHT, STORED),
    "box_unit": (PIXELS, FRACTION),
}


@dataclass(frozen=True)
class Reading:
    """How the boxes of annotations are read: fields of a recipe."""

    bad_boxes: str = ERROR
    box_frame: str = UPRIGHT
    box_unit: str = PIXELS

    def __post_init__(self) -> None:
        """Raises ValueError, in a sentence, for another word."""
        bounded(self, {}, READINGS)


@dataclass(frozen=True)
class Recipe:
    """How a detector is trained. Whatever can change the answer is here, and nothing else."""

    network: str = "resnet101"  # whose layers are shared: resnet18 to resnet152, or vgg16
    task: str = "detection"
    start: str = ""  # the weights it begins with: their sha256; drawn from the seed where empty
    train_split: str = "trainval"
    test_split: str = "test"
    schedule: str = "joint"  # approximately; or alternating: in four steps
    batch: int = 1  # pictures per step, over all processes together
    steps: int = 70_000
    drops: tuple[int, ...] = (50_000,)
    factor: float = 0.1
    lr: float = 0.001
    warmup: tuple[int, float] = (0, 0.0001)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    norm: str = "frozen"  # batch normalization is a fixed affine map; or group: group normalization
    fixed: int = 2  # stages that do not learn: conv1 and conv2_x, conv1 and conv2 of VGG-16
    shorter: int = 600  # pixels of the shorter side
    longest: int = 1000  # at most, of the longer one
    mirror: bool = True
    scales: tuple[int, ...] = (128, 256, 512)  # square roots of the areas of anchors
    anchors: int = 256  # of a picture, that learn in a step
    candidates: int = 12_000  # the best anchors, before suppression; so many of them
    proposals: int = 2_000  # remain
    smallest: int = 16  # pixels of a side of a proposal, in the picture before it is resized
    regions: int = 128  # of a picture, that learn in a step
    background: float = 0.0  # the least overlap of a region that is background
    pooling: str = "pool"  # RoI pooling as published; or align
    bins: int = 0  # on a side of a pooled region; 0: 14 before conv5_1, 7 before fc6
    context: bool = False  # the whole picture's vector beside each region's (Table 9)
    bad_boxes: str = ERROR  # a box that cannot be ends the training; or skip: it is left out
    bad_images: str = "error"
    box_frame: str = UPRIGHT  # boxes are of the picture as it is seen; or stored: before EXIF turns
    box_unit: str = PIXELS  # or fraction: of the picture's width and height
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError, in a sentence, for a value that no training can have."""
        bounded(self, LEAST, CHOICES)
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"scales are pixels, at least one of them, not {self.scales}")

    @property
    def reading(self) -> Reading:
        return Reading(self.bad_boxes, self.box_frame, self.box_unit)


LEAST: dict[str, float] = dict.fromkeys(("batch", "steps", "shorter", "longest", "anchors"), 1)
LEAST |= dict.fromkeys(("candidates", "proposals", "regions"), 1)
LEAST |= dict.fromkeys(("lr", "momentum", "weight_decay", "factor", "fixed", "smallest"), 0)
LEAST |= dict.fromkeys(("background", "bins", "seed"), 0)
CHOICES = {
    "task": ("detection",),
    "schedule": ("joint", "alternating"),
    "norm": ("frozen", "group"),
    "pooling": ("pool", "align"),
    "bad_images": ("error", "skip"),
    **READINGS,
}

# The published code's end-to-end training on VOC 2007 (py-faster-rcnn): one picture a step.
VOC07 = Recipe()
# Choice: the paper does not print the schedules of joint training on the larger sets; as many
# passes over the pictures as VOC 2007 gets, the drop at the same part of them.
VOC0712 = replace(VOC07, train_split="07+12", test_split="07test", steps=231_000, drops=(165_000,))
VOC0712_BOTH = replace(VOC0712, train_split="07++12", test_split="12test", steps=300_000)
VOC0712_BOTH = replace(VOC0712_BOTH, drops=(214_000,))
# App. A: 8 pictures a step, 240k iterations at 0.001, then 80k at 0.0001.
# Choice: anchors of 64 pixels too, and background from overlap 0, as the journal version of Faster
# R-CNN has them for the same system; the rate is the paper's. Both steps see 8 pictures: the
# paper's second one has 16, and joint training has one batch for both.
COCO = replace(
    VOC07,
    train_split="train2014",
    test_split="val2014",
    batch=8,
    steps=320_000,
    drops=(240_000,),
    scales=(64, 128, 256, 512),
)
# The four steps, in which regions that touch no object teach nothing.
# Choice: 128 regions of one picture in each step; the published code takes 64 of each of two.
VOC07_ALTERNATING = replace(VOC07, schedule="alternating", steps=240_000, drops=(), background=0.1)
# Choice: training from scratch is none of the paper's: group normalization in place of statistics
# that one picture cannot give, every layer learns, and faster.
SCRATCH = replace(
    VOC07,
    norm="group",
    fixed=0,
    batch=2,
    steps=6_000,
    drops=(4_500,),
    lr=0.02,
    warmup=(200, 0.002),
    weight_decay=1e-4,
    regions=64,
)

RECIPES = {
    "voc07": VOC07,
    "voc07-alternating": VOC07_ALTERNATING,
    "voc07+12": VOC0712,
    "voc07++12": VOC0712_BOTH,
    "coco": COCO,
    "scratch": SCRATCH,
}


@dataclass(frozen=True)
class Testing:
    """How a detector is asked."""

    candidates: int = 6_000  # the best anchors, before suppression; so many of them
    proposals: int = 300  # remain
    least: float = 0.05  # the score of a detection
    overlap: float = 0.3  # above which the worse of two boxes of a class goes
    most: int = 100  # detections on a picture
    refinement: bool = False  # each box once more as a region, then voting (Table 9)
    scales: tuple[int, ...] = ()  # shorter sides, of which two are looked at (Table 9)

    def __post_init__(self) -> None:
        """Raises ValueError for what is no way to ask."""
        bounded(self, {"candidates": 1, "proposals": 1, "most": 1, "least": 0}, {})
        if len(self.scales) == 1:
            raise ValueError("several scales are at least two; leave them out for one")


MULTISCALE = (200, 400, 600, 800, 1000)  # App. B


def scaled(shorter: int) -> tuple[int, ...]:
    """The paper's scales for another shorter side of training than its 600 pixels."""
    return tuple(side * shorter // VOC07.shorter for side in MULTISCALE)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate for the step after `step` steps of a stage of the training."""
    warmup_steps, warmup_rate = recipe.warmup
    if step < warmup_steps:
        return warmup_rate + (recipe.lr - warmup_rate) * step / warmup_steps
    return recipe.lr * recipe.factor ** sum(step >= drop for drop in recipe.drops)


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for another budget: drops and warm-up keep their proportions."""

    def scaled(count: int) -> int:
        return -(-count * steps // recipe.steps)

    warmup = scaled(recipe.warmup[0]), recipe.warmup[1]
    return replace(recipe, steps=steps, drops=tuple(map(scaled, recipe.drops)), warmup=warmup)


def parsed(assignment: str) -> tuple[str, Any]:
    """`field=value`, as on the command line. Raises ValueError for what is no field or no value."""
    return assigned(Recipe, assignment, {"network", "task", "start"})


def from_json(values: dict[str, Any]) -> Recipe:
    """A recipe as it was written. Raises ValueError where it is none that we know."""
    recipe: Recipe = values_from_json(Recipe, values)
    return recipe
