"""Checks a folder with boxes before training: damaged images, bad boxes, likely mistakes."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations, zip_longest
from pathlib import Path

import torch
from PIL import Image, ImageOps

from residual.data.datasets import Progress, no_progress
from residual.data.decode import DamagedImage, open_image
from residual.data.rng import permutation
from residual.preparation.check import (
    ImageProblem,
    ImageReport,
    describe_copies,
    inspect_images,
)
from residual.storage import summarize
from residual.tasks.detection import coco, voc
from residual.tasks.detection.annotations import AnnotatedImage, SplitAnnotations, describe_problem
from residual.tasks.detection.datasets import (
    DEFAULT_SPLITS,
    READING,
    UNLEARNED,
    annotation_format,
    build_examples,
    choose_splits,
    class_names,
    find_errors,
    has_objects,
    has_split,
    read,
    select_part,
    splits,
)
from residual.tasks.detection.recipe import Reading
from residual.tasks.detection.visualization import BAD, add_title, contact_sheet, draw_boxes

COLUMNS, WIDTH = 4, 2_000  # of a contact sheet: images and pixels
Annotations = dict[str, SplitAnnotations]  # by split


@dataclass
class BoxCounts:
    """The content of a split, bad boxes left out."""

    pictures: int = 0
    boxes: dict[str, int] = field(default_factory=dict)  # by class
    difficult: int = 0  # boxes; crowds in COCO
    empty: int = 0  # images without a box


@dataclass
class BoxReport(ImageReport):
    """The result of a check of a folder with boxes."""

    form: str = "voc"  # or coco
    splits: dict[str, BoxCounts] = field(default_factory=dict)
    pictures: int = 0  # in any split
    damaged: list[ImageProblem] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)  # a sentence for each bad box
    annotations: list[str] = field(default_factory=list)  # for each missing or damaged annotation
    sizes: list[str] = field(default_factory=list)  # for each annotation of another size
    bare: list[str] = field(default_factory=list)  # images without annotation
    lonely: list[str] = field(default_factory=list)  # annotations without image
    refusals: list[str] = field(default_factory=list)  # why training would refuse the folder

    @property
    def bad(self) -> int:
        """The number of problems that stop or spoil a training."""
        problems = self.damaged, self.boxes, self.annotations, self.sizes, self.refusals
        return sum(len(lines) for lines in problems)


def read_annotations(folder: Path, reading: Reading = READING) -> Annotations:
    """The annotations of every split; of an unreadable split, the error.

    Raises FileNotFoundError for a missing folder, and ValueError for one of neither format.
    """

    def read_split(split: str) -> SplitAnnotations:
        try:
            return read(folder, split, reading)
        except (ValueError, OSError) as error:
            return SplitAnnotations((AnnotatedImage(split, split, error=error),))

    return {split: read_split(split) for split in splits(folder)}


def check(
    folder: Path,
    workers: int = 1,
    progress: Progress = no_progress,
    annotations: Annotations | None = None,
    reading: Reading = READING,
) -> BoxReport:
    """Inspect every image and box of a VOC or COCO folder. Raises like `read_annotations`."""
    annotations = read_annotations(folder, reading) if annotations is None else annotations
    paths: dict[str, Path] = {}
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split, content in annotations.items():
        for path in (image.path for image in content.images if image.path is not None):
            paths.setdefault(relative(folder, path), path)
            splits_of[relative(folder, path)].add(split)
    report = BoxReport(str(folder), form=annotation_format(folder), pictures=len(paths))
    bad, copies = inspect_images(report, folder, list(paths), workers, progress)
    report.damaged = [ImageProblem(name, i.kind, i.reason) for name, i in sorted(bad.items())]
    count(report, annotations)
    if report.form == "voc":
        without_image, without_annotation = voc.unpaired(folder)
    else:
        without_image, without_annotation = [], coco.unlisted_images(set(paths.values()))
    report.lonely = [relative(folder, file) for file in without_image]
    report.bare = [relative(folder, file) for file in without_annotation]
    notices = dict.fromkeys(note for content in annotations.values() for note in content.notices)
    report.warnings = [*notices]
    for split, counts in report.splits.items():
        if empty := [label for label, n in counts.boxes.items() if not n]:
            report.warnings.append(f"classes without a box in {split} {summarize(empty)}")
    report.warnings += [*overlaps(annotations), *copy_warnings(copies, splits_of)]
    if not report.bad:
        report.refusals = list(training_refusals(folder, annotations))
    return report


def relative(folder: Path, file: Path) -> str:
    """A file's path below the folder, or its full path."""
    inside = file.is_relative_to(folder)
    return file.relative_to(folder).as_posix() if inside else file.as_posix()


def count(report: BoxReport, annotations: Annotations) -> None:
    """Count images and boxes of each split, and list all problems once."""
    for split, content in annotations.items():
        counts = report.splits[split] = BoxCounts()
        report.annotations += map(str, find_errors(split, content.images))
        for image in content.images:
            if image.error is not None:
                continue
            report.sizes += [image.wrong_size] if image.wrong_size else []
            report.boxes += [describe_problem(image, box) for box in image.boxes if box.problem]
            good = [box for box in image.boxes if not box.problem]
            counts.pictures += 1
            counts.empty += not good
            counts.difficult += sum(box.difficult for box in good)
            for box in good:
                counts.boxes[box.label] = counts.boxes.get(box.label, 0) + 1
    report.boxes, report.annotations, report.sizes = (
        list(dict.fromkeys(lines)) for lines in (report.boxes, report.annotations, report.sizes)
    )
    classes = sorted({label for counts in report.splits.values() for label in counts.boxes})
    for counts in report.splits.values():
        counts.boxes = {label: counts.boxes.get(label, 0) for label in classes}


def training_refusals(folder: Path, annotations: Annotations) -> Iterator[str]:
    """Why training with the default recipe would refuse the folder."""
    try:
        train, test = choose_splits(folder, *DEFAULT_SPLITS[annotation_format(folder)])
        if voc.years(folder) and not has_split(folder, train):
            return  # the user has to choose the years
        content = select_part(folder, annotations, train)
        classes = class_names(content)
        if not has_objects(build_examples(train, content, classes, "skip")[0]):
            raise ValueError(f"{train} holds no objects{UNLEARNED}")
        build_examples(test, select_part(folder, annotations, test), classes, "skip")
    except (ValueError, OSError) as error:
        yield str(error)


# ---- warnings -----------------------------------------------------------------------------------


def overlaps(annotations: Annotations) -> Iterator[str]:
    """Splits with images in common, unless one is a part of the other: train of trainval."""
    names = {
        split: {image.path: image.name for image in content.images if image.path is not None}
        for split, content in annotations.items()
    }
    for first, second in combinations(names, 2):
        a, b = (split.strip("0123456789") for split in (first, second))
        common = names[first].keys() & names[second].keys()
        if common and (a == b or (a not in b and b not in a)):
            listed = sorted(names[first][path] for path in common)
            yield f"{first} and {second} have pictures in common {summarize(listed)}"


def copy_warnings(copies: list[list[str]], splits_of: dict[str, set[str]]) -> Iterator[str]:
    """Images of equal bytes, by the harm that they do."""
    across: list[str] = []
    within: list[str] = []
    for first, *others in copies:
        apart = [other for other in others if splits_of[first].isdisjoint(splits_of[other])]
        (across if apart else within).append(f"{first} = {(apart or others)[0]}")
    yield from describe_copies(
        ("in more than one split, so that test images are trained on", across),
        ("more than once in a split", within),
    )


# ---- contact sheet ------------------------------------------------------------------------------


def draw_sheet(annotations: Annotations, n: int) -> Image.Image:
    """A sheet of n images with their boxes: those with bad boxes first, then some of each split.

    Raises ValueError if no image can be read.
    """
    images = [image for content in annotations.values() for image in content.images]
    labels = sorted({box.label for image in images for box in image.boxes})
    columns = min(COLUMNS, n)
    tiles: list[Image.Image] = []
    for split, image in sheet_order(annotations):
        if len(tiles) == n:
            break
        try:
            assert image.path is not None
            picture = open_image(image.path)
        except (DamagedImage, OSError):
            continue
        small = ImageOps.contain(picture, (WIDTH // columns, 2 * WIDTH // columns))
        captions = [
            f"{b.position} {b.problem}" if b.problem else b.label + ", difficult" * b.difficult
            for b in image.boxes
        ]
        box_labels = [BAD if box.problem else labels.index(box.label) for box in image.boxes]
        corners = torch.tensor([box.corners for box in image.boxes]).reshape(-1, 4)
        tile = draw_boxes(small, corners * (small.width / picture.width), captions, box_labels)
        tiles.append(add_title(tile, f"{split}: {image.name}"))
    if not tiles:
        raise ValueError("there is no picture that can be read and drawn")
    return contact_sheet(tiles, columns, WIDTH)


def sheet_order(annotations: Annotations) -> Iterator[tuple[str, AnnotatedImage]]:
    """Every annotated image once, with its split: images with bad boxes, then the splits in turn,
    each in a random order."""
    images = {
        split: [image for image in content.images if image.error is None]
        for split, content in annotations.items()
    }
    bad = [
        (split, image)
        for split, content in images.items()
        for image in content
        if image.wrong_size or any(box.problem for box in image.boxes)
    ]
    shuffled = [
        [(split, content[i]) for i in permutation(0, place, len(content)).tolist()]
        for place, (split, content) in enumerate(images.items())
    ]
    visited: set[Path | None] = set()
    for entry in chain(bad, *zip_longest(*shuffled)):
        if entry is not None and entry[1].path not in visited:
            visited.add(entry[1].path)
            yield entry
