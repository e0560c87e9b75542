"""Small folders of PASCAL VOC's form and of COCO's, of noise with boxes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_pets import noise

from residual.tasks.detection.recipe import Reading

SKIPPING = Reading(bad_boxes="skip")
SIDE = 40  # pixels of a made picture
Object = tuple[Any, ...]  # class, xmin, ymin, xmax, ymax and, where it is difficult, 1
CAT: Object = ("cat", 1, 1, 10, 20)
DOG: Object = ("dog", 5, 6, 40, 30)


def xml(objects: Sequence[Object], size: tuple[int, int] | None = (SIDE, SIDE)) -> str:
    """An annotation as the devkit writes it."""
    about = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{about}{''.join(map(described, objects))}</annotation>"


def described(one: Object) -> str:
    name, left, top, right, bottom, *difficult = one
    hard = f"<difficult>{difficult[0]}</difficult>" if difficult else ""
    box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name>{hard}<bndbox>{box}</bndbox></object>"


def add(year: Path, name: str, *objects: Object, ending: str = ".jpg") -> Path:
    """A picture and its annotation, which is returned."""
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (year / place).mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(year.name) + name))
    noise(seed, SIDE).save(year / "JPEGImages" / f"{name}{ending}")
    file = year / "Annotations" / f"{name}.xml"
    file.write_text(xml(objects))
    return file


def split(year: Path, name: str, *pictures: str) -> None:
    (year / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (year / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(pictures) + "\n")


def voc_year(year: Path, prefix: str = "0000") -> Path:
    """One year: 01 and 02 to learn from, 03 to be tested on."""
    add(year, f"{prefix}01", CAT, DOG)
    add(year, f"{prefix}02")
    add(year, f"{prefix}03", DOG)
    split(year, "trainval", f"{prefix}01", f"{prefix}02")
    split(year, "train", f"{prefix}01")
    split(year, "val", f"{prefix}02")
    split(year, "test", f"{prefix}03")
    return year


def devkit(folder: Path) -> Path:
    """Two years, of which the later one has no test set."""
    voc_year(folder / "VOC2007")
    year = voc_year(folder / "VOC2012", "2008_")
    (year / "ImageSets" / "Main" / "test.txt").unlink()
    split(year, "cat_train", "2008_01  1", "2008_02 -1")
    return folder


def instances(images: int = 3) -> dict[str, list[dict[str, Any]]]:
    """So many images; a car and a crowd of persons on the first, a toothbrush on the second."""
    boxes = [(1, 3, [0, 0, 10.5, 20], 0), (1, 1, [5, 6, 30, 30], 1), (2, 90, [8, 8, 4, 4], 0)]
    return {
        "images": [
            {"id": i, "file_name": f"{i:04}.jpg", "width": SIDE, "height": SIDE}
            for i in range(1, images + 1)
        ],
        "annotations": [
            {"id": 100 + n, "image_id": i, "category_id": kind, "bbox": box, "iscrowd": crowd}
            for n, (i, kind, box, crowd) in enumerate(boxes)
            if i <= images
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}
        ],
    }  # fmt: skip


def coco_split(file: Path, pictures: Path, said: dict[str, list[dict[str, Any]]]) -> None:
    """A file of annotations, and the pictures that it names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(said))
    pictures.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(said["images"]):
        noise(i + len(pictures.name), SIDE).save(pictures / image["file_name"])


def coco_folder(folder: Path) -> Path:
    """COCO of 2017, with three pictures and two."""
    for name, n in (("train2017", 3), ("val2017", 2)):
        coco_split(folder / "annotations" / f"instances_{name}.json", folder / name, instances(n))
    return folder
