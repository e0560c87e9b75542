"""Pictures with boxes, from a folder of PASCAL VOC's form or of COCO's."""

from collections.abc import Mapping
from pathlib import Path

from residual.data.filenames import shown
from residual.tasks.detection import coco, layouts, voc
from residual.tasks.detection.annotations import Split, classes_of, examples_of, marked, part_of
from residual.tasks.detection.examples import Scenes
from residual.tasks.detection.frames import placed_all, untold
from residual.tasks.detection.recipe import Reading

USUAL = {"voc": ("trainval", "test"), "coco": ("train", "val")}  # what is called so elsewhere
PARTS = ("train", "test")  # of a split that is divided once: default:train and default:test


def load(
    path: Path,
    split: str,
    classes: tuple[str, ...] | None = None,
    reading: Reading = Reading(),  # noqa: B008
) -> Scenes:
    """A split of a folder, whose form is told by what lies in it.

    Of a split, `default:train` is four fifths of the pictures and `default:test` is one. Without
    classes they are those of the data. Raises FileNotFoundError and ValueError, in a sentence,
    where something is missing or damaged, and at the first box that nothing can be learned from;
    with `bad_boxes` "skip", such boxes are left out and named.
    """
    sort = form(path)
    name = f"{home(path, sort).resolve().name} {split}"
    whole = split.partition(":")[0]
    own = part(path, {whole: read(path, whole, reading)}, split)
    classes = classes_of(own) if classes is None else classes
    examples, skipped = examples_of(name, own, classes, reading.bad_boxes)
    mark = marked(split, own.pictures)
    return Scenes(name, classes, examples, mark, skipped, sort, own.notices)


def part(path: Path, said: Mapping[str, Split], split: str) -> Split:
    """A split, or a part of one, of those that were read. Raises ValueError."""
    whole, colon, which = split.partition(":")
    if colon and which not in PARTS:
        raise ValueError(f"a split is divided into {' and '.join(PARTS)}, not {which!r}")
    if whole not in said and form(path) == "coco":
        whole = coco.file_of(path, whole)[0]  # train2017 for train
    elif whole not in said and voc.years(path):
        whole = next((one for one in said if one[2:] == whole), whole)  # 07test for test
    if whole not in said:
        raise ValueError(f"{path} has no split {whole!r}; it has {names(list(said))}")
    return part_of(f"{path} {whole}", said[whole], which) if colon else said[whole]


def home(path: Path, sort: str) -> Path:
    """The folder that names the data."""
    return voc.devkit(path) if sort == "voc" and not layouts.place(path) else path


def read(path: Path, split: str, reading: Reading = Reading()) -> Split:  # noqa: B008
    """Every picture of a split with what is said of it, or with what is wrong. Raises as `load`."""
    own = voc.read(path, split) if form(path) == "voc" else coco.read(path, split)
    pictures = tuple(placed_all(own.pictures, reading))
    return Split(pictures, own.classes, (*own.notices, *untold(pictures, reading)))


def splits(path: Path) -> tuple[str, ...]:
    """The splits of a folder that are not made of others."""
    return voc.splits(path) if form(path) == "voc" else coco.splits(path)


def has_split(path: Path, split: str) -> bool:
    """Whether a split, or all that it is made of, is there; its pictures are not looked at."""
    whole = split.partition(":")[0]
    try:
        voc.members(path, whole) if form(path) == "voc" else coco.file_of(path, whole)
    except ValueError:
        return False
    return True


def has_boxes(path: Path) -> bool:
    return form_of(path) is not None


def form_of(path: Path) -> str | None:
    """A folder of the devkit's form is VOC's; else COCO's files come before loose XML files."""
    if layouts.plain(path) or voc.years(path):
        return "voc"
    if coco.is_coco(path):
        return "coco"
    return "voc" if voc.is_voc(path) else None


def form(path: Path) -> str:
    """voc or coco. Raises FileNotFoundError and ValueError where a folder has neither form."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    own = form_of(path)
    if own is None:
        inside = [one for one in layouts.folders(path) if has_boxes(one)]
        raise ValueError(
            f"{path} has neither the form of PASCAL VOC (Annotations/, ImageSets/Main/, "
            "JPEGImages/, or VOC2007/ with these, or XML files beside pictures) nor that of COCO "
            "(annotations/instances_train.json, train/)"
            + (f"; {shown(inside[0])} has, so name that" if inside else "")
        )
    return own


# ---- which split is which -----------------------------------------------------------------------


def usual_splits(path: Path, train: str, test: str) -> tuple[str, str]:
    """The splits that a folder has in place of the usual ones: to learn from, to be tested on.

    What is no usual name is left as it is. A test set goes before a validation set, and a folder
    without sets is divided once. Raises ValueError, naming the options that help, where it cannot
    be told which is which.
    """
    sort = form(path)
    whole = voc.years(path) if sort == "voc" else {}
    if (train, test) not in USUAL.values() or whole:
        return train, test
    there = splits(path)
    sets = {
        name: [one for one in there if coco.meaning(one) == name]
        for name in ("train", "val", "test")
    }
    is_better = test == "val" and sets["test"]
    if has_split(path, train) and has_split(path, test) and not is_better:
        return train, test
    if not there or not any(sets.values()):
        return divided(path, there)
    trains, tests = sets["train"], sets["test"] or sets["val"]
    if len(trains) > 1 and any("trainval" in one.lower() for one in trains):
        # trainval is train and val together.
        both = bool(tests) and tests == sets["test"]
        trains = [one for one in trains if ("trainval" in one.lower()) == both]
    if not trains:
        raise ValueError(
            f"{path} has no split to learn from; it has {names(there)}: say "
            "--set train_split=... --set test_split=..."
        )
    if not tests or (tests == sets["val"] and "trainval" in trains[0].lower()):
        raise ValueError(
            f"{path} has {shown(trains[0])} to learn from and nothing to be tested on; say "
            f"--set train_split={trains[0]}:train --set test_split={trains[0]}:test, which holds "
            "out a fifth"
        )
    for own in (trains, tests):
        if len(own) > 1:
            raise ValueError(
                f"{path} has {names(own)}, and it cannot be told which is meant; say "
                f"--set train_split={trains[0]} --set test_split={tests[0]}, or others"
            )
    return trains[0], tests[0]


def divided(path: Path, there: tuple[str, ...]) -> tuple[str, str]:
    """The parts of the one split that there is."""
    if len(there) != 1:
        raise ValueError(
            f"{path} has the splits {names(there)}, and none is called train; say "
            "--set train_split=... --set test_split=..."
        )
    return f"{there[0]}:train", f"{there[0]}:test"


def names(there: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(shown, there)) or "none"
