"""Pictures with boxes, from a folder of PASCAL VOC's form or of COCO's."""

from pathlib import Path

from residual.detection import coco, voc
from residual.detection.examples import Scenes
from residual.detection.validity import ERROR, Annotated


def load(
    path: Path, split: str, classes: tuple[str, ...] | None = None, bad_boxes: str = ERROR
) -> Scenes:
    """A split of a folder, whose form is told by what lies in it.

    Without classes they are those of the data. Raises FileNotFoundError and ValueError, in a
    sentence, where something is missing or damaged, and at the first box that nothing can be
    learned from; with `bad_boxes` "skip", such boxes are left out and named.
    """
    reader = voc.voc if form(path) == "voc" else coco.coco
    return reader(path, split, classes, bad_boxes)


def annotated(path: Path, split: str) -> list[Annotated]:
    """Every picture of a split with what is said of it, or with what is wrong. Raises as `load`."""
    return voc.read(path, split) if form(path) == "voc" else coco.read(path, split)[1]


def splits(path: Path) -> tuple[str, ...]:
    """The splits of a folder that are not made of others."""
    return voc.splits(path) if form(path) == "voc" else coco.splits(path)


def has_split(path: Path, split: str) -> bool:
    """Whether a split, or all that it is made of, is there; its pictures are not looked at."""
    try:
        voc.members(path, split) if form(path) == "voc" else coco.file_of(path, split)
    except ValueError:
        return False
    return True


def has_boxes(path: Path) -> bool:
    return voc.is_voc(path) or coco.is_coco(path)


def form(path: Path) -> str:
    """voc or coco. Raises FileNotFoundError and ValueError where a folder has neither form."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    if not has_boxes(path):
        raise ValueError(
            f"{path} has neither the form of PASCAL VOC (Annotations/, ImageSets/Main/, "
            "JPEGImages/, or VOC2007/ with these) nor that of COCO "
            "(annotations/instances_train.json, train/)"
        )
    return "voc" if voc.is_voc(path) else "coco"
