"""What is told about ImageNet's pictures by its development kit, or by Kaggle's lists."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
from scipy.io import loadmat

from residual.data.filenames import lines_in, lines_of, text_of
from residual.data.prepare import opened_archive

META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"  # in the devkit's data/
SOLUTION, SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # Kaggle's


@dataclass(frozen=True)
class Known:
    """What the devkit or Kaggle's lists tell."""

    words: dict[str, str] = field(default_factory=dict)  # wnid: what it means
    train: dict[str, int] = field(default_factory=dict)  # wnid: training pictures
    val: dict[str, str] = field(default_factory=dict)  # file of val: its wnid


def told_by(source: Path, archive: Path) -> Known:
    """What the devkit, packed or unpacked, or else Kaggle's lists tell; nothing without them."""
    if archive.is_file():
        with opened_archive(archive) as opened:
            files = {Path(member.name).name: member for member in opened if member.isfile()}
            if META in files and TRUTH in files:
                meta, truth = (opened.extractfile(files[name]) for name in (META, TRUTH))
                return devkit(cast(IO[bytes], meta), cast(IO[bytes], truth).read())
        raise ValueError(f"{archive} has no {META} and {TRUTH}; it is not the devkit")
    for folder in (source / "ILSVRC2012_devkit_t12" / "data", source / "data", source):
        if (folder / META).is_file() and (folder / TRUTH).is_file():
            with (folder / META).open("rb") as meta:
                return devkit(meta, (folder / TRUTH).read_bytes())
    return kaggle(source)


def devkit(meta: IO[bytes], truth: bytes) -> Known:
    """The devkit's tables. Only synsets without children are classes of the challenge."""
    rows = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
    leaves = [row for row in rows if int(row["num_children"]) == 0]
    wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    numbers = list(lines_of(truth))
    if odd := [line for line in numbers if not line.isdecimal() or int(line) not in wnid]:
        raise ValueError(f"{TRUTH} is damaged: {odd[0]!r} is no number of a class")
    counted = "num_train_images" in (rows.dtype.names or ())
    return Known(
        words={str(row["WNID"]): str(row["words"]) for row in leaves},
        train={str(row["WNID"]): int(row["num_train_images"]) for row in leaves if counted},
        val={
            f"ILSVRC2012_val_{i:08}.JPEG": wnid[int(line)]
            for i, line in enumerate(numbers, start=1)
        },
    )


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
        for row in csv.DictReader(io.StringIO(text, newline="")):
            picture, answer = row.get("ImageId"), (row.get("PredictionString") or "").split()
            if not picture or not answer:
                raise ValueError(
                    f"{source / SOLUTION} is damaged: it needs columns ImageId and "
                    f"PredictionString, and has a line {[*row.values()]!r}"
                )
            val[f"{picture.strip()}.JPEG"] = answer[0]
    return Known(words=words, val=val)
