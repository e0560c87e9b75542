"""What is told about ImageNet's pictures by its development kit, or by Kaggle's lists."""

import csv
import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from scipy.io import loadmat

from residual.data.filenames import lines_in, lines_of, text_of
from residual.data.prepare import opened_archive
from residual.files import reading

META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"  # in the devkit's data/
COLUMNS: dict[str, Callable[[Any], Any]] = dict.fromkeys(
    ("ILSVRC2012_ID", "num_children", "num_train_images"), int
)
COLUMNS |= dict.fromkeys(("WNID", "words"), str)
SOLUTION, SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # Kaggle's


@dataclass(frozen=True)
class Known:
    """What the devkit or Kaggle's lists tell."""

    words: dict[str, str] = field(default_factory=dict)  # wnid: what it means
    train: dict[str, int] = field(default_factory=dict)  # wnid: training pictures
    val: dict[str, str] = field(default_factory=dict)  # file of val: its wnid


def told_by(source: Path, archive: Path) -> Known:
    """What the devkit, packed or unpacked, or else Kaggle's lists tell; nothing without them.

    Raises ValueError for what is damaged.
    """
    if archive.is_file():
        with opened_archive(archive) as opened, reading(archive):
            files = {Path(member.name).name: member for member in opened if member.isfile()}
            if META in files and TRUTH in files:
                meta, truth = (opened.extractfile(files[name]) for name in (META, TRUTH))
                return devkit(cast(IO[bytes], meta).read(), cast(IO[bytes], truth).read())
            raise ValueError(f"{archive} has no {META} and {TRUTH}; it is not the devkit")
    for folder in (source / "ILSVRC2012_devkit_t12" / "data", source / "data", source):
        if (folder / META).is_file() and (folder / TRUTH).is_file():
            with reading(folder / META):
                return devkit((folder / META).read_bytes(), (folder / TRUTH).read_bytes())
    return kaggle(source)


def devkit(meta: bytes, truth: bytes) -> Known:
    """The devkit's tables. Only synsets without children are classes of the challenge."""
    # In a process of its own: scipy's reader crashes at some damaged files.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            rows = pool.submit(synsets, meta).result()
        except BrokenProcessPool as error:
            raise ValueError("it is damaged: its reader crashed") from error
    leaves = [row for row in rows if int(row["num_children"]) == 0]
    wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    numbers = list(lines_of(truth))
    if odd := [line for line in numbers if not line.isdecimal() or int(line) not in wnid]:
        raise ValueError(f"{TRUTH} is damaged: {odd[0]!r} is no number of a class")
    return Known(
        words={str(row["WNID"]): str(row["words"]) for row in leaves},
        train={
            str(row["WNID"]): int(row["num_train_images"])
            for row in leaves
            if "num_train_images" in row
        },
        val={
            f"ILSVRC2012_val_{i:08}.JPEG": wnid[int(line)]
            for i, line in enumerate(numbers, start=1)
        },
    )


def synsets(meta: bytes) -> list[dict[str, Any]]:
    """The rows of meta.mat. Raises ValueError where it is damaged."""
    try:
        table = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        names = [name for name in table.dtype.names or () if name in COLUMNS]
        return [{name: COLUMNS[name](row[name]) for name in names} for row in table]
    except Exception as error:  # a reader raises whatever its parsing stumbles on
        raise ValueError(f"it is damaged: {str(error) or type(error).__name__}") from None


def kaggle(source: Path) -> Known:
    """Kaggle's lists, as far as they lie there."""
    words: dict[str, str] = {}
    if (source / SYNSETS).is_file():
        for line in lines_in(source / SYNSETS):
            wnid, *meaning = line.split(maxsplit=1)
            words[wnid] = "".join(meaning) or wnid
    val: dict[str, str] = {}
    if (source / SOLUTION).is_file():
        text = text_of((source / SOLUTION).read_bytes())
        with reading(source / SOLUTION):
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        for row in rows:
            picture, answer = row.get("ImageId"), (row.get("PredictionString") or "").split()
            if not picture or not answer:
                raise ValueError(
                    f"{source / SOLUTION} is damaged: it needs columns ImageId and "
                    f"PredictionString, and has a line {[*row.values()]!r}"
                )
            val[f"{picture.strip()}.JPEG"] = answer[0]
    return Known(words=words, val=val)
