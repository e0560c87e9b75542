"""CIFAR-10 (Krizhevsky, 2009), from either form its author gives out, or fetched."""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from residual import safe_pickle
from residual.data.datasets import Data, Images, fingerprint_in_memory
from residual.data.download import fetch
from residual.data.progress import Progress
from residual.storage import digest

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the author's own
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",  # PaddlePaddle's copy
)

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # pixels (n, 3072), labels (n,)


# ---- the two forms of a batch -------------------------------------------------------------------


def from_pickle(raw: bytes) -> Batch:
    """The Python form: a pickled dictionary, written by Python 2."""
    batch = safe_pickle.load(raw, encoding="bytes")
    return np.asarray(batch[b"data"]), np.array(batch[b"labels"], dtype=np.uint8)


def from_records(raw: bytes) -> Batch:
    """The binary form: for each image its label in a byte, then red, green and blue, row by row."""
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:], records[:, 0]


@dataclass(frozen=True)
class Form:
    """One of the two ways in which CIFAR-10 is given out."""

    archive: str
    md5: str  # of the archive, as https://www.cs.toronto.edu/~kriz/cifar.html prints it
    folder: str  # in the archive, and where it is unpacked
    batches: tuple[str, ...]  # the last is the test set
    read: Callable[[bytes], Batch]
    images: int = 10_000  # in a batch


NUMBERED = tuple(f"data_batch_{i}" for i in range(1, 6))
PYTHON = Form(
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    batches=(*NUMBERED, "test_batch"),
    read=from_pickle,
)
BINARY = Form(
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    batches=(*(f"{name}.bin" for name in NUMBERED), "test_batch.bin"),
    read=from_records,
)


# ---- from what lies there to images -------------------------------------------------------------


def cifar10(
    root: Path,
    progress: Progress | None = None,
    *,
    forms: tuple[Form, ...] = (PYTHON, BINARY),
    mirrors: tuple[str, ...] = MIRRORS,
) -> Data:
    """CIFAR-10 from a copy in `root` or `root/cifar10`, packed or not; else fetched into `root`.

    Raises ValueError where that copy is damaged, and OSError where there is none to be had.
    """
    for place in (root, root / "cifar10"):
        for form in forms:
            # The archive first: it alone has a checksum.
            for copy in (place / form.archive, place / form.folder):
                if copy.exists():
                    return loaded(copy, form)
    fetch(mirrors, root / forms[0].archive, forms[0].md5, progress)
    return loaded(root / forms[0].archive, forms[0])


def loaded(copy: Path, form: Form) -> Data:
    """The data in an archive, or in the folder that was in it."""
    parts = dict(members(copy, form) if copy.is_file() else unpacked(copy, form))
    *train, test = (images(copy, form, name, parts) for name in form.batches)
    together = Images(
        torch.cat([batch.pixels for batch in train]), torch.cat([batch.labels for batch in train])
    )
    mark = fingerprint_in_memory(CLASSES, train=together, test=test)
    return Data("CIFAR-10", mark, CLASSES, together, test)


def members(archive: Path, form: Form) -> Iterator[tuple[str, bytes]]:
    """The batches in an archive, by name, if it is the archive that its author gives out."""
    found = digest(archive, "md5")
    if found != form.md5:
        raise ValueError(
            f"{archive} is damaged or incomplete (its md5 is {found} and should be {form.md5}); "
            "delete it, and it is fetched again"
        )
    with tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member)
            if file is not None:
                yield Path(member.name).name, file.read()


def unpacked(folder: Path, form: Form) -> Iterator[tuple[str, bytes]]:
    """The batches in a folder, by name."""
    for name in form.batches:
        if (folder / name).exists():
            yield name, (folder / name).read_bytes()


def images(copy: Path, form: Form, name: str, parts: dict[str, bytes]) -> Images:
    """One batch, checked."""
    remedy = f"delete {copy}, and CIFAR-10 is fetched again"
    if name not in parts:
        raise ValueError(f"{copy} is incomplete, it has no {name}; {remedy}")
    try:
        pixels, labels = form.read(parts[name])
    except Exception as error:  # a damaged pickle raises whatever its reading stumbles on
        raise ValueError(f"{name} in {copy} is damaged: {error}; {remedy}") from error
    if pixels.shape != (form.images, 3072) or pixels.dtype != np.uint8:
        raise ValueError(
            f"{name} in {copy} is damaged: it does not hold {form.images:,} images; {remedy}"
        )
    if labels.shape != (form.images,) or labels.max() >= len(CLASSES):
        raise ValueError(
            f"{name} in {copy} is damaged: it does not hold {form.images:,} labels; {remedy}"
        )
    return Images(
        torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32), torch.from_numpy(labels.copy()).long()
    )
