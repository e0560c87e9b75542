"""Detection data sets: the images and boxes of a folder in the format of PASCAL VOC or of COCO."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from residual.data.datasets import fingerprint
from residual.data.folder import QUICK_ABOVE_BYTES
from residual.data.rng import permutation
from residual.storage import display_name, file_digest, summarize
from residual.tasks.detection import coco, voc
from residual.tasks.detection.annotations import (
    READERS,
    AnnotatedImage,
    SplitAnnotations,
    describe_problem,
    orientation_notices,
    place,
)
from residual.tasks.detection.recipe import Reading

READING = Reading()
DEFAULT_SPLITS = {"voc": ("trainval", "test"), "coco": ("train", "val")}  # for training, testing
UNLEARNED = ", or only difficult ones and crowds, from which nothing is learned"
PARTS = ("train", "test")  # of a split that is divided: default:train and default:test


@dataclass(frozen=True)
class Example:
    """An image and the objects on it, if any."""

    path: Path
    name: str  # of the image: 000001 in VOC, the id in COCO
    boxes: Tensor  # (N, 4) float32, as in annotations.py
    labels: Tensor  # (N,) int64, indices of the classes
    difficult: Tensor  # (N,) bool: detections of it count neither way; also COCO's crowds


@dataclass(frozen=True)
class DetectionDataset:
    """One split of a detection data set."""

    name: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    fingerprint: str  # over annotations and images
    skipped: tuple[str, ...] = ()  # a sentence for each box that was left out
    format: str = "voc"  # or coco: of the annotations, and which metric they are evaluated by
    notices: tuple[str, ...] = ()  # sentences for the user


@dataclass(frozen=True)
class DetectionData:
    """The splits that a detector is trained and tested on."""

    train: DetectionDataset
    test: DetectionDataset

    @property
    def name(self) -> str:
        return self.train.name

    @property
    def fingerprint(self) -> str:
        return self.train.fingerprint


def load(
    path: Path, split: str, classes: tuple[str, ...] | None = None, reading: Reading = READING
) -> DetectionDataset:
    """A split of a folder in VOC's or COCO's format.

    `default:train` is four fifths of the images of the split `default`, and `default:test` the
    rest. `classes` defaults to those of the data. Raises FileNotFoundError and ValueError if
    anything is missing or damaged, and at the first bad box unless `bad_boxes` is "skip".
    """
    format_ = annotation_format(path)
    folder = voc.devkit(path) if format_ == "voc" and not voc.voc_folder(path) else path
    name = f"{folder.resolve().name} {split}"
    base = split.partition(":")[0]
    annotations = select_part(path, {base: read(path, base, reading)}, split)
    classes = class_names(annotations) if classes is None else classes
    examples, skipped = build_examples(name, annotations, classes, reading.bad_boxes)
    digest = split_fingerprint(split, annotations.images)
    return DetectionDataset(name, classes, examples, digest, skipped, format_, annotations.notices)


def read(path: Path, split: str, reading: Reading = READING) -> SplitAnnotations:
    """The annotated images of a split. Raises as `load`, but not for single images or boxes."""
    form = voc if annotation_format(path) == "voc" else coco
    annotations = form.read(path, split)
    with ThreadPoolExecutor(READERS) as pool:
        images = tuple(pool.map(partial(place, reading=reading), annotations.images))
    notices = (*annotations.notices, *orientation_notices(images, reading))
    return SplitAnnotations(images, annotations.classes, notices)


# ---- from annotations to examples ---------------------------------------------------------------


def find_errors(name: str, images: Iterable[AnnotatedImage]) -> Iterator[ValueError | OSError]:
    """The errors of a split that are worse than a bad box."""
    names: set[str] = set()
    files: dict[str, str] = {}
    for image in images:
        file = os.path.normpath(image.path) if image.path else ""
        if image.error is not None:
            yield image.error
        elif image.name in names:
            yield ValueError(f"{name} has the picture {display_name(image.name)} more than once")
        elif file in files:
            yield ValueError(
                f"{name} has the file {display_name(file)} as two pictures, "
                f"{display_name(files[file])} and {display_name(image.name)}: objects of one would "
                "be background in the other"
            )
        names.add(image.name)
        if file:
            files.setdefault(file, image.name)


def class_names(split: SplitAnnotations) -> tuple[str, ...]:
    """The classes that the annotations list, or else those of the good boxes, sorted."""
    if split.classes is not None:
        return split.classes
    boxes = (box for image in split.images if not image.wrong_size for box in image.boxes)
    return tuple(sorted({box.label for box in boxes if not box.problem}))


def build_examples(
    name: str, split: SplitAnnotations, classes: Sequence[str], bad_boxes: str
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """The images of a split with their good boxes, and a sentence for everything left out.

    Raises the first error of an image, and ValueError for an unknown class and, unless `bad_boxes`
    is "skip", for the first bad box.
    """
    for error in find_errors(name, split.images):
        raise error
    wrong_sizes = tuple(image.wrong_size for image in split.images if image.wrong_size)
    images = [image for image in split.images if not image.wrong_size]
    boxes = [(image, box) for image in images for box in image.boxes]
    problems = tuple(describe_problem(image, box) for image, box in boxes if box.problem)
    for sentences, singular, plural, left_out in (
        (wrong_sizes, "annotation of another size", "annotations of another size", "pictures"),
        (problems, "bad box", "bad boxes", "boxes"),
    ):
        if sentences and bad_boxes == "error":
            n = len(sentences)
            which = f"the first of {n:,} {plural}" if n > 1 else f"the only {singular}"
            raise ValueError(
                f"{sentences[0]}; it is {which} of {name}, and --bad-boxes skip leaves out such "
                f"{left_out}"
            )
    if problems and len(problems) == len(boxes):
        raise ValueError(f"{problems[0]}; no box of {name} is good")
    if not images:
        raise ValueError(
            f"{wrong_sizes[0]}; so do all of {name}" if wrong_sizes else f"{name} has no pictures"
        )
    labels = {label: i for i, label in enumerate(classes)}
    return tuple(build_example(image, labels) for image in images), wrong_sizes + problems


def build_example(image: AnnotatedImage, labels: dict[str, int]) -> Example:
    """An image with its good boxes. Raises ValueError for an unknown class."""
    boxes = [box for box in image.boxes if not box.problem]
    for box in boxes:
        if box.label not in labels:
            raise ValueError(
                f"{image.file}: {box.position} is of class {box.label!r}, which is none of the "
                f"classes {summarize(list(labels))}"
            )
    assert image.path is not None
    return Example(
        image.path,
        image.name,
        torch.tensor([box.corners for box in boxes], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([labels[box.label] for box in boxes], dtype=torch.int64),
        torch.tensor([box.difficult for box in boxes], dtype=torch.bool),
    )


def has_objects(examples: Iterable[Example]) -> bool:
    """Whether any image has an object that is neither difficult nor a crowd."""
    return not all(bool(example.difficult.all()) for example in examples)


def split_fingerprint(split: str, images: Sequence[AnnotatedImage]) -> str:
    """The fingerprint over the split's name, its annotations, and the bytes of its images.

    Above 5 GB, sizes stand for bytes, and the fingerprint says so: see `data/folder.py`.
    """
    paths = [image.path for image in images if image.path is not None]
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(lambda path: path.stat().st_size, paths))
        hashed = sum(sizes) <= QUICK_ABOVE_BYTES
        digest = partial(file_digest, algorithm="sha256") if hashed else lambda _: ""
        hashes = list(pool.map(digest, paths))
    names = ((image.name, image.digest) for image in images)
    entries = [(*name, *rest) for *rest, name in zip(sizes, hashes, names, strict=True)]
    return fingerprint([(split, "", 0, ""), *entries], not hashed)


# ---- formats and splits -------------------------------------------------------------------------


def detect_format(path: Path) -> str | None:
    """voc, coco or None. The devkit's structure counts first, loose XML files last."""
    if voc.is_devkit_year(path) or voc.years(path):
        return "voc"
    if coco.annotation_files(path):
        return "coco"
    return "voc" if voc.voc_folders(path) else None


def annotation_format(path: Path) -> str:
    """voc or coco. Raises FileNotFoundError and ValueError if a folder is neither."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    format_ = detect_format(path)
    if format_ is None:
        inside = [folder for folder in voc.subfolders(path) if detect_format(folder)]
        raise ValueError(
            f"{path} has neither the form of PASCAL VOC (Annotations/, ImageSets/Main/, "
            "JPEGImages/, or VOC2007/ with these, or XML files beside pictures) nor that of COCO "
            "(annotations/instances_train.json, train/)"
            + (f"; {display_name(inside[0])} has, so name that" if inside else "")
        )
    return format_


def splits(path: Path) -> tuple[str, ...]:
    """The splits of a folder that are not unions of others."""
    if annotation_format(path) == "voc":
        return tuple(voc.by_split(path))
    return tuple(sorted(coco.annotation_files(path)))


def has_split(path: Path, split: str) -> bool:
    """Whether a folder has a split, or all of a union; images are not looked at."""
    form = voc if annotation_format(path) == "voc" else coco
    with suppress(ValueError):
        return bool(form.find_split(path, split.partition(":")[0]))
    return False


def select_part(
    path: Path, by_split: Mapping[str, SplitAnnotations], split: str
) -> SplitAnnotations:
    """A split, or a part of one, of those that were read. Raises ValueError."""
    base, colon, part = split.partition(":")
    if colon and part not in PARTS:
        raise ValueError(f"a split is divided into {' and '.join(PARTS)}, not {part!r}")
    if base not in by_split and annotation_format(path) == "coco":
        base = coco.find_split(path, base)[0]  # train2017 for train
    elif base not in by_split and voc.years(path):
        base = next((name for name in by_split if name[2:] == base), base)  # 07test for test
    if base not in by_split:
        raise ValueError(f"{path} has no split {base!r}; it has {names(by_split)}")
    return divide(f"{path} {base}", by_split[base], part) if colon else by_split[base]


def divide(name: str, split: SplitAnnotations, part: str) -> SplitAnnotations:
    """The part for training or for testing of a split. Raises ValueError."""
    # Choice: the test set is a fifth of the pictures, rounded, drawn by the same integer hash as
    # everything else; the split depends only on the number of pictures, sorted by name.
    for error in find_errors(name, split.images):
        raise error
    images = sorted(split.images, key=lambda image: str(image.path))
    n = len(images)
    if n < 2:
        raise ValueError(f"{name} has {n} pictures, and a set that is divided needs two")
    held_out = set(permutation(0, 0, n)[: max(1, round(n / 5))].tolist())
    chosen = tuple(image for i, image in enumerate(images) if (i in held_out) == (part == "test"))
    return SplitAnnotations(chosen, class_names(split), split.notices)


def choose_splits(path: Path, train: str, test: str) -> tuple[str, str]:
    """The splits of a folder for training and testing, in place of the default names.

    Names that are no defaults stay. A test set is preferred to a validation set; a folder without
    sets is divided. Raises ValueError, naming the options that help, if the choice is ambiguous.
    """
    by_year = annotation_format(path) == "voc" and voc.years(path)
    if (train, test) not in DEFAULT_SPLITS.values() or by_year:
        return train, test
    available = splits(path)
    sets = {
        name: [split for split in available if coco.set_in(split) == name]
        for name in ("train", "val", "test")
    }
    prefers_test = test == "val" and sets["test"]
    if has_split(path, train) and has_split(path, test) and not prefers_test:
        return train, test
    if not any(sets.values()) and len(available) == 1:
        return f"{available[0]}:train", f"{available[0]}:test"

    def refusal(problem: str, train: str = "...", test: str = "...", more: str = "") -> ValueError:
        options = f"--set train_split={train} --set test_split={test}{more}"
        return ValueError(f"{path} has {problem} say {options}")

    if not any(sets.values()):
        raise refusal(f"the splits {names(available)}, and none is called train;")
    trains, tests = sets["train"], sets["test"] or sets["val"]
    if len(trains) > 1 and any("trainval" in split.lower() for split in trains):
        # trainval is train and val together.
        both = bool(tests) and tests == sets["test"]
        trains = [split for split in trains if ("trainval" in split.lower()) == both]
    if not trains:
        raise refusal(f"no split to learn from; it has {names(available)}:")
    first = trains[0]
    if not tests or (tests == sets["val"] and "trainval" in first.lower()):
        problem = f"{display_name(first)} to learn from and nothing to be tested on;"
        raise refusal(problem, f"{first}:train", f"{first}:test", ", which holds out a fifth")
    for candidates in (trains, tests):
        if len(candidates) > 1:
            problem = f"{names(candidates)}, and it cannot be told which is meant;"
            raise refusal(problem, first, tests[0], ", or others")
    return first, tests[0]


def names(splits: Iterable[str]) -> str:
    return ", ".join(map(display_name, splits)) or "none"
