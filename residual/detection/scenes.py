"""Pictures with boxes, from a folder of PASCAL VOC's form or of COCO's."""

from pathlib import Path

from residual.detection.examples import Scenes
from residual.detection.validity import ERROR
from residual.detection.voc import is_voc, voc


def load(
    path: Path, split: str, classes: tuple[str, ...] | None = None, bad_boxes: str = ERROR
) -> Scenes:
    """A split of a folder, whose form is told by what lies in it.

    Without classes they are those of the data. Raises FileNotFoundError and ValueError, in a
    sentence, where something is missing or damaged, and at the first box that cannot be learned
    from; with `bad_boxes` "skip", such boxes are left out and named.
    """
    refuse_other(path)
    return voc(path, split, classes, bad_boxes)


def refuse_other(path: Path) -> None:
    """Raise where a folder has neither form."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    if not is_voc(path):
        raise ValueError(
            f"{path} has neither the form of PASCAL VOC (Annotations/, ImageSets/Main/, "
            "JPEGImages/, or VOC2007/ with these) nor that of COCO "
            "(annotations/instances_train.json, train/)"
        )
