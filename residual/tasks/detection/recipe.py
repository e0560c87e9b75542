"""The recipe of a detector: how it is trained and tested (Sec. 4.3, App. A and B)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from residual.training import recipe as base
from residual.training.recipe import NonNegative, NonNegativeFloat, Positive, Recipe, check_fields

with_steps = base.with_steps
BadBoxes = Literal["error", "skip"]  # what to do about an invalid box
BoxFrame = Literal["upright", "stored"]  # orientation of the pixels that boxes refer to
BoxUnit = Literal["pixels", "fraction"]  # units of boxes


@dataclass(frozen=True)
class Reading:
    """How boxes of annotations are read; the fields are those of a recipe. Raises ValueError."""

    bad_boxes: BadBoxes = "error"
    box_frame: BoxFrame = "upright"
    box_unit: BoxUnit = "pixels"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """How a detector is trained. Raises ValueError for values that do not go together."""

    network: str = "resnet101"  # backbone: resnet18 to resnet152, or vgg16
    batch: Positive = 1
    steps: Positive = 70_000
    drops: tuple[int, ...] = (50_000,)
    lr: NonNegativeFloat = 0.001
    warmup: tuple[int, float] = (0, 0.0001)  # steps of a linear rise, from this learning rate
    weight_decay: NonNegativeFloat = 5e-4
    task: Literal["detection"] = "detection"
    train_split: str = "trainval"
    test_split: str = "test"
    schedule: Literal["joint", "alternating"] = "joint"  # approximate joint, or 4-step training
    norm: Literal["frozen", "group"] = "frozen"  # frozen batch norm, or group normalization
    fixed: NonNegative = 2  # frozen stages: conv1 and conv2_x, conv1 and conv2 of VGG-16
    shorter: Positive = 600  # pixels of the shorter side
    longest: Positive = 1000  # most pixels of the longer side
    mirror: bool = True  # random horizontal flip
    scales: tuple[int, ...] = (128, 256, 512)  # square roots of the areas of anchors, in pixels
    anchors: Positive = 256  # sampled for the RPN loss, per image
    candidates: Positive = 12_000  # proposals before NMS
    proposals: Positive = 2_000  # proposals after NMS
    smallest: NonNegative = 16  # shorter side of a proposal, in pixels of the original image
    regions: Positive = 128  # sampled for the loss of the head, per image
    background: NonNegativeFloat = 0.0  # least IoU of a background region
    pooling: Literal["pool", "align"] = "pool"  # RoI pooling or RoIAlign
    bins: NonNegative = 0  # on a side of a pooled region; 0: 14 before conv5_1, 7 before fc6
    context: bool = False  # the features of the whole image beside each region's (Table 9)
    bad_boxes: BadBoxes = "error"  # stop at an invalid box, or skip it
    box_frame: BoxFrame = "upright"  # boxes refer to the image after, or before, EXIF rotation
    box_unit: BoxUnit = "pixels"  # or fractions of the image's width and height

    not_settable: ClassVar[frozenset[str]] = Recipe.not_settable | {"task"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"scales are pixels, at least one of them, not {self.scales}")

    @property
    def reading(self) -> Reading:
        return Reading(self.bad_boxes, self.box_frame, self.box_unit)


# The published code's end-to-end training on VOC 2007 (py-faster-rcnn): one picture a step.
VOC07 = DetectionRecipe()
# Choice: the paper does not print the schedules of joint training on the larger sets. We take as
# many epochs as for VOC 2007, with the drop at the same share of them.
VOC0712 = replace(VOC07, train_split="07+12", test_split="07test", steps=231_000, drops=(165_000,))
VOC0712_BOTH = replace(VOC0712, train_split="07++12", test_split="12test", steps=300_000)
VOC0712_BOTH = replace(VOC0712_BOTH, drops=(214_000,))
# App. A: 8 pictures a step, 240k iterations at 0.001, then 80k at 0.0001.
# Choice: COCO has anchors of 64 pixels too, and background from IoU 0, as in the journal version of
# Faster R-CNN; the rate is the paper's. RPN and head get 8 pictures per step; in the paper the head
# gets 16, but joint training has one batch for both.
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
# Choice: training from scratch is not in the paper: it has group normalization, since one picture
# gives no batch statistics, and a higher rate for all layers.
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
    """How a detector is tested. Raises ValueError for values that do not go together."""

    candidates: Positive = 6_000  # proposals before NMS
    proposals: Positive = 300  # proposals after NMS
    least: NonNegativeFloat = 0.05  # score threshold of a detection
    overlap: float = 0.3  # IoU threshold of NMS, per class
    most: Positive = 100  # detections per image
    refinement: bool = False  # box refinement and voting (Table 9)
    scales: tuple[int, ...] = ()  # multi-scale testing: shorter sides, two per region (Table 9)

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.scales) == 1:
            raise ValueError("several scales are at least two; leave them out for one")


MULTISCALE = (200, 400, 600, 800, 1000)  # App. B


def multiscale_sizes(shorter: int) -> tuple[int, ...]:
    """The paper's test scales, in proportion to another shorter side than its 600 pixels."""
    return tuple(side * shorter // VOC07.shorter for side in MULTISCALE)


def choose_testing(
    recipe: DetectionRecipe, refine: bool, multiscale: bool, min_score: float = 1.0
) -> Testing:
    """How a detector of this recipe is tested; detections of at least `min_score` are kept."""
    scales = multiscale_sizes(recipe.shorter) if multiscale else ()
    return Testing(refinement=refine, scales=scales, least=min(min_score, Testing.least))


def changed(recipe: DetectionRecipe, changes: dict[str, Any]) -> DetectionRecipe:
    """The recipe with other values. If `shorter` changes, the longer side and the anchors change in
    proportion unless they are given."""
    scaled: dict[str, Any] = {}
    if "shorter" in changes:
        plain = replace(recipe, shorter=changes["shorter"])  # checks it

        def scale(side: int) -> int:
            return max(1, side * plain.shorter // recipe.shorter)

        scaled = {"longest": scale(recipe.longest), "scales": tuple(map(scale, recipe.scales))}
    return replace(recipe, **scaled | changes)


def from_json(values: dict[str, Any]) -> DetectionRecipe:
    """A recipe from JSON. Raises ValueError for anything else."""
    return base.from_json(DetectionRecipe, values)
