"""Data by name: the two sets that everybody can have, and any folder of pictures."""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from residual.data.datasets import (
    Data,
    ImageTensors,
    Progress,
    no_progress,
    stratified_split,
    tensor_fingerprint,
)
from residual.data.download import fetch
from residual.data.folder import load_folder, open_folder
from residual.data.packed import is_packed, open_packed
from residual.storage import file_digest, load_pickle

DEFAULT_ROOT = Path.home() / ".cache" / "residual"


def load(
    name: str,
    root: Path = DEFAULT_ROOT,
    *,
    size: int = 32,
    whole: bool = False,
    workers: int = 0,
    progress: Progress = no_progress,
) -> Data:
    """`digits`, `cifar10`, or a folder of pictures, which are resized to size x size.

    For networks that look at photographs they are left `whole`, and read when they are needed.
    What is fetched or prepared is kept under `root`. Raises ValueError where there is no such
    data, and what the sources raise where it is damaged.
    """
    if whole and name in ("digits", "cifar10"):
        raise ValueError(
            f"{name} has small pictures, and this network takes photographs; choose a network "
            f"such as resnet20, or a folder of photographs"
        )
    match name:
        case "digits":
            return digits()
        case "cifar10":
            return cifar10(root, progress)
    if is_packed(name):
        return open_packed(name, root)
    path = Path(name).expanduser()
    if not path.is_dir():
        raise ValueError(f"no data {name!r}: say digits, cifar10 or a folder of pictures")
    if whole:
        return open_folder(path, root, workers, progress)
    return load_folder(path, size, root, workers, progress)


def digits() -> Data:
    """1,797 digits, 8x8 in three equal channels: 1,437 to train on and 360 to be tested on.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits  # takes most of a second to import

    levels, numbers = load_digits(return_X_y=True)  # (1797, 64), from 0 to 16
    grey = torch.from_numpy(np.round(levels * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    every = ImageTensors(grey.repeat(1, 3, 1, 1), torch.from_numpy(numbers).long())
    # Choice: a fifth is held out for the test, stratified, once and for all; the set has no split.
    train, test = (every.subset(places) for places in stratified_split(every.labels, 0.2))
    classes = tuple(map(str, range(10)))
    mark = tensor_fingerprint(classes, train=train, test=test)
    return Data("digits", mark, classes, train, test)


CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the author's own
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",  # PaddlePaddle's copy
)


Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # pixels (n, 3072), labels (n,)


def from_pickle(raw: bytes) -> Batch:
    """The Python form: a pickled dictionary, written by Python 2."""
    batch = load_pickle(raw, encoding="bytes")
    return np.asarray(batch[b"data"]), np.array(batch[b"labels"], dtype=np.uint8)


def from_records(raw: bytes) -> Batch:
    """The binary form: for each image its label in a byte, then red, green and blue, row by row."""
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:], records[:, 0]


@dataclass(frozen=True)
class CifarFormat:
    """One of the two ways in which CIFAR-10 is given out."""

    archive: str
    md5: str  # of the archive, as https://www.cs.toronto.edu/~kriz/cifar.html prints it
    folder: str  # in the archive, and where it is unpacked
    batches: tuple[str, ...]  # the last is the test set
    read: Callable[[bytes], Batch]
    images: int = 10_000  # in a batch


NUMBERED = tuple(f"data_batch_{i}" for i in range(1, 6))


PYTHON = CifarFormat(
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    batches=(*NUMBERED, "test_batch"),
    read=from_pickle,
)


BINARY = CifarFormat(
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    batches=(*(f"{name}.bin" for name in NUMBERED), "test_batch.bin"),
    read=from_records,
)


def cifar10(
    root: Path,
    progress: Progress = no_progress,
    *,
    forms: tuple[CifarFormat, ...] = (PYTHON, BINARY),
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
                    return load_copy(copy, form)
    fetch(mirrors, root / forms[0].archive, forms[0].md5, progress)
    return load_copy(root / forms[0].archive, forms[0])


def load_copy(copy: Path, form: CifarFormat) -> Data:
    """The data in an archive, or in the folder that was in it."""
    parts = dict(members(copy, form) if copy.is_file() else unpacked(copy, form))
    *train, test = (parse_batch(copy, form, name, parts) for name in form.batches)
    together = ImageTensors(
        torch.cat([batch.pixels for batch in train]), torch.cat([batch.labels for batch in train])
    )
    mark = tensor_fingerprint(CIFAR10_CLASSES, train=together, test=test)
    return Data("CIFAR-10", mark, CIFAR10_CLASSES, together, test)


def members(archive: Path, form: CifarFormat) -> Iterator[tuple[str, bytes]]:
    """The batches in an archive, by name, if it is the archive that its author gives out."""
    found = file_digest(archive, "md5")
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


def unpacked(folder: Path, form: CifarFormat) -> Iterator[tuple[str, bytes]]:
    """The batches in a folder, by name."""
    for name in form.batches:
        if (folder / name).exists():
            yield name, (folder / name).read_bytes()


def parse_batch(copy: Path, form: CifarFormat, name: str, parts: dict[str, bytes]) -> ImageTensors:
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
    if labels.shape != (form.images,) or labels.max() >= len(CIFAR10_CLASSES):
        raise ValueError(
            f"{name} in {copy} is damaged: it does not hold {form.images:,} labels; {remedy}"
        )
    return ImageTensors(
        torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32), torch.from_numpy(labels.copy()).long()
    )
