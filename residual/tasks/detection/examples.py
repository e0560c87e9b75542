"""Pictures with boxes, and what a detector finds on them."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

# Boxes are (N, 4): left, top, right, bottom, in pixels of the picture as it is seen, from its left
# upper corner, so that a box around the first pixel alone is 0, 0, 1, 1. PASCAL VOC counts pixels
# from 1 and names the last one inside: its xmin to xmax is xmin - 1 to xmax here, and overlaps are
# the devkit's. COCO's x, y, width, height is x, y, x + width, y + height.


@dataclass(frozen=True)
class Example:
    """A picture and the objects on it, of which there may be none."""

    path: Path
    name: str  # the picture's own: 000001 in VOC, the id in COCO
    boxes: Tensor  # (N, 4) float32
    labels: Tensor  # (N,) int64, places in the classes
    difficult: Tensor  # (N,) bool: neither right nor wrong to find, as COCO's crowds


@dataclass(frozen=True)
class Scenes:
    """One split of a data set for detection."""

    name: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    fingerprint: str  # as that of a data set of pictures; over the annotations, too
    skipped: tuple[str, ...] = ()  # a sentence for each box that was left out
    sort: str = "voc"  # or coco: what the annotations are, and how detectors are judged on them
    notices: tuple[str, ...] = ()  # sentences for whoever trains on it


@dataclass(frozen=True)
class Found:
    """What a detector finds on a picture, the best first."""

    boxes: Tensor  # (N, 4) float32, as those of an example
    scores: Tensor  # (N,) probabilities
    labels: Tensor  # (N,) int64


@dataclass(frozen=True)
class Data:
    """What a detector is trained and judged on."""

    train: Scenes
    test: Scenes

    @property
    def name(self) -> str:
        return self.train.name

    @property
    def fingerprint(self) -> str:
        return self.train.fingerprint
