"""What is told about ImageNet's pictures by its development kit, or by Kaggle's lists."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
from scipy.io import loadmat

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
                return devkit(cast(IO[bytes], meta), cast(IO[bytes], truth).read().decode())
        raise ValueError(f"{archive} has no {META} and {TRUTH}; it is not the devkit")
    for folder in (source / "ILSVRC2012_devkit_t12" / "data", source / "data", source):
        if (folder / META).is_file() and (folder / TRUTH).is_file():
            with (folder / META).open("rb") as meta:
                return devkit(meta, (folder / TRUTH).read_text())
    return kaggle(source)


def devkit(meta: IO[bytes], truth: str) -> Known:
    """The devkit's tables. Only synsets without children are classes of the challenge."""
    rows = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
    leaves = [row for row in rows if int(row["num_children"]) == 0]
    wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    counted = "num_train_images" in (rows.dtype.names or ())
    return Known(
        words={str(row["WNID"]): str(row["words"]) for row in leaves},
        train={str(row["WNID"]): int(row["num_train_images"]) for row in leaves if counted},
        val={
            f"ILSVRC2012_val_{i:08}.JPEG": wnid[int(line)]
            for i, line in enumerate(truth.split(), start=1)
        },
    )


def kaggle(source: Path) -> Known:
    """Kaggle's lists, as far as they lie there."""
    words: dict[str, str] = {}
    if (source / SYNSETS).is_file():
        lines = (source / SYNSETS).read_text().splitlines()
        words = dict(line.split(maxsplit=1) for line in lines if line.strip())
    val: dict[str, str] = {}
    if (source / SOLUTION).is_file():
        with (source / SOLUTION).open(newline="") as opened:
            for row in csv.DictReader(opened):
                val[f"{row['ImageId']}.JPEG"] = row["PredictionString"].split()[0]
    return Known(words=words, val=val)
