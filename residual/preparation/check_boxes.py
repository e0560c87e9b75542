"""What is wrong in a folder of pictures with boxes, before anything is trained on it."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations, zip_longest
from pathlib import Path

import torch
from PIL import Image, ImageOps

from residual.data.datasets import Progress, no_progress
from residual.data.decode import DamagedImage, open_image
from residual.data.folder_index import suffix_matches
from residual.data.rng import permutation
from residual.preparation.check import Look, in_turn
from residual.storage import summarize
from residual.tasks.detection import coco, voc
from residual.tasks.detection.annotations import AnnotatedImage, SplitAnnotations, describe_problem
from residual.tasks.detection.datasets import (
    DEFAULT_SPLITS,
    annotation_format,
    build_examples,
    choose_splits,
    class_names,
    find_errors,
    has_split,
    read,
    select_part,
    splits,
)
from residual.tasks.detection.drawing import BAD, add_title, contact_sheet, draw_boxes
from residual.tasks.detection.recipe import SKIP, Reading

COLUMNS, WIDTH = 4, 2_000  # of a sheet: pictures and pixels
Everything = dict[str, SplitAnnotations]  # what is said of the pictures of each split


@dataclass(frozen=True)
class Problem:
    """A picture that cannot be learned from."""

    path: str  # below the folder, with /
    kind: str  # damaged, empty, unreadable, oversized or mislabelled
    reason: str


@dataclass
class Counts:
    """What a split has, bad boxes left out."""

    pictures: int = 0
    boxes: dict[str, int] = field(default_factory=dict)  # of each class
    difficult: int = 0  # of these boxes; crowds in COCO
    empty: int = 0  # pictures without a box


@dataclass
class Report:
    """What was found in a folder."""

    folder: str
    form: str  # voc or coco
    splits: dict[str, Counts] = field(default_factory=dict)
    pictures: int = 0  # each once, however many splits have it
    damaged: list[Problem] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)  # a sentence for each bad box
    annotations: list[str] = field(default_factory=list)  # for each that is missing or damaged
    sizes: list[str] = field(default_factory=list)  # for each that is not the picture's
    converted: dict[str, int] = field(default_factory=dict)  # what is done: how often
    misnamed: dict[str, str] = field(default_factory=dict)  # path: what it is
    bare: list[str] = field(default_factory=list)  # pictures without annotation
    lonely: list[str] = field(default_factory=list)  # annotations without picture
    warnings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # why training would not begin

    @property
    def bad(self) -> int:
        """How many things there are that training stumbles on, or learns wrongly from."""
        stumbles = self.damaged, self.boxes, self.annotations, self.sizes, self.refusals
        return sum(len(each) for each in stumbles)


def check(
    folder: Path,
    workers: int = 1,
    progress: Progress | None = None,
    said: Everything | None = None,
    reading: Reading = Reading(),  # noqa: B008
) -> Report:
    """Look into every picture and at every box of a folder of VOC's form or of COCO's.

    Raises FileNotFoundError where there is no folder, and ValueError where it has neither form.
    """
    said = everything(folder, reading) if said is None else said
    report, tell = Report(str(folder), annotation_format(folder)), progress or no_progress
    pictures = (one.path for own in said.values() for one in own.images)
    once = dict.fromkeys(picture for picture in pictures if picture is not None)
    paths = {below(folder, picture): picture for picture in once}
    changes: Counter[str] = Counter()
    equal: dict[bytes, list[Path]] = defaultdict(list)
    looks = in_turn(folder, list(paths), workers)
    for done, ((path, picture), look) in enumerate(zip(paths.items(), looks, strict=True), start=1):
        changes.update(look.changes)
        judge(report, path, look)
        if not look.kind:
            equal[look.digest].append(picture)
        tell(done, len(paths))
    report.pictures, report.converted = len(paths), dict(changes.most_common())
    report.damaged.sort(key=lambda problem: problem.path)
    count(report, said)
    unpaired(folder, report, once.keys())
    copies = [own for own in equal.values() if len(own) > 1]
    notices = [notice for own in said.values() for notice in own.notices]
    report.warnings = [*dict.fromkeys(notices), *lacking(report), *overlapping(said)]
    report.warnings += twice(folder, said, copies)
    if not report.bad:
        report.refusals = list(refusals(folder, said))
    return report


def everything(folder: Path, reading: Reading = Reading()) -> Everything:  # noqa: B008
    """Every split; of one that cannot be read as a whole, only why. Raises as `check`."""

    def of(split: str) -> SplitAnnotations:
        try:
            return read(folder, split, reading)
        except (ValueError, OSError) as error:
            return SplitAnnotations((AnnotatedImage(split, split, error=error),))

    return {split: of(split) for split in splits(folder)}


def below(folder: Path, file: Path) -> str:
    """A file's name in the folder, or all of it where it lies elsewhere."""
    inside = file.is_relative_to(folder)
    return file.relative_to(folder).as_posix() if inside else file.as_posix()


def judge(report: Report, path: str, look: Look) -> None:
    """What one picture is."""
    if look.kind:
        report.damaged.append(Problem(path, look.kind, look.reason))
        return
    if not suffix_matches(path, look.form):
        report.misnamed[path] = look.form


def count(report: Report, said: Everything) -> None:
    """Pictures and boxes of each split; what is bad in several is told once."""
    bad: dict[str, None] = {}
    trouble: dict[str, None] = {}
    sizes: dict[str, None] = {}
    for name, own in said.items():
        counts = report.splits[name] = Counts()
        trouble |= dict.fromkeys(map(str, find_errors(name, own.images)))
        for one in own.images:
            if one.error is not None:
                continue
            sizes |= dict.fromkeys([one.wrong_size] if one.wrong_size else [])
            bad |= dict.fromkeys(describe_problem(one, box) for box in one.boxes if box.problem)
            good = [box for box in one.boxes if not box.problem]
            counts.pictures += 1
            counts.empty += not good
            counts.difficult += sum(box.difficult for box in good)
            for box in good:
                counts.boxes[box.label] = counts.boxes.get(box.label, 0) + 1
    report.boxes, report.annotations, report.sizes = list(bad), list(trouble), list(sizes)
    classes = sorted({label for counts in report.splits.values() for label in counts.boxes})
    for counts in report.splits.values():
        counts.boxes = {label: counts.boxes.get(label, 0) for label in classes}


def unpaired(folder: Path, report: Report, known: Collection[Path]) -> None:
    """Annotations without picture, and pictures that no annotation is about."""
    if report.form == "voc":
        lonely, bare = voc.unpaired(folder)
    else:
        lonely, bare = [], coco.unlisted_images(known)
    report.lonely = [below(folder, file) for file in lonely]
    report.bare = [below(folder, file) for file in bare]


def lacking(report: Report) -> Iterator[str]:
    for name, counts in report.splits.items():
        if none := [label for label, n in counts.boxes.items() if not n]:
            yield f"classes without a box in {name} {summarize(none)}"


def overlapping(said: Everything) -> Iterator[str]:
    """Splits with pictures in common, but for those of which one is a part: train of trainval."""
    pictures = {name: {one.path: one.name for one in own.images} for name, own in said.items()}
    for first, second in combinations(said, 2):
        a, b = (name.strip("0123456789") for name in (first, second))
        both = pictures[first].keys() & pictures[second].keys() - {None}
        if both and (a == b or (a not in b and b not in a)):
            names = sorted(pictures[first][picture] for picture in both)
            yield f"{first} and {second} have pictures in common {summarize(names)}"


def twice(folder: Path, said: Everything, copies: list[list[Path]]) -> Iterator[str]:
    """Pictures of equal bytes under several names, where they do harm."""
    splits_of: dict[Path, set[str]] = defaultdict(set)
    for name, own in said.items():
        for one in own.images:
            if one.path is not None:
                splits_of[one.path].add(name)
    across: list[str] = []
    within: list[str] = []
    for files in copies:
        names = " = ".join(below(folder, file) for file in files[:2])
        apart = any(splits_of[files[0]].isdisjoint(splits_of[other]) for other in files[1:])
        (across if apart else within).append(names)
    for what, pairs in (
        ("in more than one split, so that what is tested on was learned", across),
        ("more than once in a split", within),
    ):
        if pairs:
            yield f"equal pictures {what} {summarize(pairs)}"


def refusals(folder: Path, said: Everything) -> Iterator[str]:
    """What training by the usual recipe says where it does not begin."""
    try:
        train, test = choose_splits(folder, *DEFAULT_SPLITS[annotation_format(folder)])
        if voc.years(folder) and not has_split(folder, train):
            return  # which years are meant is for the user to say
        learned = select_part(folder, said, train)
        if not class_names(learned):
            raise ValueError(f"{train} holds no objects")
        for name, own in ((train, learned), (test, select_part(folder, said, test))):
            build_examples(name, own, class_names(learned), SKIP)
    except (ValueError, OSError) as error:
        yield str(error)


# ---- a sheet of them ----------------------------------------------------------------------------


def contact(said: Everything, n: int) -> Image.Image:
    """A sheet of so many pictures with their boxes: those with bad boxes, then some of each split.

    Raises ValueError where no picture can be read.
    """
    pictures = (one for own in said.values() for one in own.images)
    names = sorted({box.label for one in pictures for box in one.boxes})
    columns = min(COLUMNS, n)
    shown: list[Image.Image] = []
    for split, one in chosen(said):
        if len(shown) == n:
            break
        try:
            assert one.path is not None
            whole = open_image(one.path)
        except (DamagedImage, OSError):
            continue
        small = ImageOps.contain(whole, (WIDTH // columns, 2 * WIDTH // columns))
        shown.append(pictured(small, small.width / whole.width, split, one, names))
    if not shown:
        raise ValueError("there is no picture that can be read and drawn")
    return contact_sheet(shown, columns, WIDTH)


def chosen(said: Everything) -> Iterator[tuple[str, AnnotatedImage]]:
    """Every picture that is annotated, once: those with bad boxes, then of each split in turn.

    However many are taken of them, they come from all over their split.
    """
    there = {split: [one for one in own.images if one.error is None] for split, own in said.items()}
    bad = [
        (split, one)
        for split, own in there.items()
        for one in own
        if one.wrong_size or any(box.problem for box in one.boxes)
    ]
    spread = [
        [(split, own[i]) for i in permutation(0, place, len(own)).tolist()]
        for place, (split, own) in enumerate(there.items())
    ]
    in_turns = (each for one_of_each in zip_longest(*spread) for each in one_of_each if each)
    taken: set[Path | None] = set()
    for split, one in chain(bad, in_turns):
        if one.path not in taken:
            taken.add(one.path)
            yield split, one


def pictured(
    image: Image.Image, scale: float, split: str, one: AnnotatedImage, names: list[str]
) -> Image.Image:
    """A picture at a scale, with its boxes and its name."""
    boxes = one.boxes
    captions = [
        f"{box.position} {box.problem}"
        if box.problem
        else f"{box.label}, difficult"
        if box.difficult
        else box.label
        for box in boxes
    ]
    labels = [BAD if box.problem else names.index(box.label) for box in boxes]
    corners = torch.tensor([box.corners for box in boxes]).reshape(-1, 4) * scale
    return add_title(draw_boxes(image, corners, captions, labels), f"{split}: {one.name}")
