"""Data by name: the bundled digits, CIFAR-10, an image folder, or packed data."""

import tarfile
from collections.abc import Callable
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
from residual.storage import DEFAULT_ROOT, file_digest, load_pickle


def data_source(name: str, root: Path) -> dict[str, str]:
    """The location of data, as a run stores it: absolute, unless it is the name of a data set."""
    path = Path(name).expanduser()
    is_name = name in ("digits", "cifar10")  # also if a folder of that name exists here
    where = str(path.resolve()) if path.is_dir() and not is_name else name
    return {"where": where, "root": str(root.expanduser().resolve())}


def load(
    name: str,
    root: Path = DEFAULT_ROOT,
    *,
    size: int = 32,
    as_files: bool = False,
    workers: int = 0,
    progress: Progress = no_progress,
) -> Data:
    """`digits`, `cifar10`, or a folder of images, which are resized to size x size.

    With `as_files`, images of a folder stay files for networks that take photographs. Downloads and
    decoded images are kept under `root`. Raises ValueError for unknown or damaged data; OSError.
    """
    if as_files and name in ("digits", "cifar10"):
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
    if as_files:
        return open_folder(path, root, workers, progress)
    return load_folder(path, size, root, workers, progress)


def digits() -> Data:
    """scikit-learn's 1,797 handwritten digits, 8x8 in three equal channels: 1,437 for training and
    360 for the test.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits  # takes most of a second to import

    levels, numbers = load_digits(return_X_y=True)  # (1797, 64), from 0 to 16
    grey = torch.from_numpy(np.round(levels * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    images = ImageTensors(grey.repeat(1, 3, 1, 1), torch.from_numpy(numbers).long())
    # Choice: the digits have no test set: a stratified fifth is held out, always the same.
    train, test = (images.subset(places) for places in stratified_split(images.labels, 0.2))
    classes = tuple(map(str, range(10)))
    return Data("digits", tensor_fingerprint(classes, train=train, test=test), classes, train, test)


CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the author's
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",  # PaddlePaddle's copy
)
Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # pixels (n, 3072), labels (n,)


def _from_pickle(raw: bytes) -> Batch:
    """The Python form: a pickled dictionary, written by Python 2."""
    batch = load_pickle(raw, encoding="bytes")
    return np.asarray(batch[b"data"]), np.array(batch[b"labels"], dtype=np.uint8)


def _from_records(raw: bytes) -> Batch:
    """The binary form: for each image a byte for the label, then red, green and blue."""
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:], records[:, 0]


@dataclass(frozen=True)
class CifarFormat:
    """One of the two formats of CIFAR-10 (Krizhevsky, 2009)."""

    archive: str
    md5: str  # of the archive, as https://www.cs.toronto.edu/~kriz/cifar.html prints it
    folder: str  # in the archive
    batches: tuple[str, ...]  # the last is the test set
    read: Callable[[bytes], Batch]
    images: int = 10_000  # in a batch


PYTHON = CifarFormat(
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    batches=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    read=_from_pickle,
)
BINARY = CifarFormat(
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    batches=(*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
    read=_from_records,
)


def cifar10(
    root: Path,
    progress: Progress = no_progress,
    *,
    forms: tuple[CifarFormat, ...] = (PYTHON, BINARY),
    mirrors: tuple[str, ...] = MIRRORS,
) -> Data:
    """CIFAR-10 from a copy in `root` or `root/cifar10`, packed or not, or downloaded into `root`.

    Raises ValueError for a damaged copy, and OSError if the download fails.
    """
    for place in (root, root / "cifar10"):
        for form in forms:
            # The archive first, since only that has a checksum.
            for copy in (place / form.archive, place / form.folder):
                if copy.exists():
                    return load_copy(copy, form)
    fetch(mirrors, root / forms[0].archive, forms[0].md5, progress)
    return load_copy(root / forms[0].archive, forms[0])


def load_copy(copy: Path, form: CifarFormat) -> Data:
    """The data in an archive or in its unpacked folder. Raises ValueError for damage."""
    if copy.is_file():
        files = _archive_files(copy, form)
    else:
        paths = [copy / name for name in form.batches]
        files = {path.name: path.read_bytes() for path in paths if path.exists()}
    *parts, test = (_parse_batch(copy, form, name, files) for name in form.batches)
    train = ImageTensors(torch.cat([x.pixels for x in parts]), torch.cat([x.labels for x in parts]))
    mark = tensor_fingerprint(CIFAR10_CLASSES, train=train, test=test)
    return Data("CIFAR-10", mark, CIFAR10_CLASSES, train, test)


def _archive_files(archive: Path, form: CifarFormat) -> dict[str, bytes]:
    """The files in an archive, by name. Raises ValueError for a wrong checksum."""
    md5 = file_digest(archive, "md5")
    if md5 != form.md5:
        raise ValueError(
            f"{archive} is damaged or incomplete (its md5 is {md5} and should be {form.md5}); "
            "delete it, and it is fetched again"
        )
    with tarfile.open(archive) as opened:
        members = ((member.name, opened.extractfile(member)) for member in opened)
        return {Path(name).name: file.read() for name, file in members if file is not None}


def _parse_batch(copy: Path, form: CifarFormat, name: str, files: dict[str, bytes]) -> ImageTensors:
    remedy = f"delete {copy}, and CIFAR-10 is fetched again"
    if name not in files:
        raise ValueError(f"{copy} is incomplete, it has no {name}; {remedy}")
    damaged = f"{name} in {copy} is damaged"
    try:
        pixels, labels = form.read(files[name])
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"{damaged}: {error}; {remedy}") from error
    if pixels.shape != (form.images, 3072) or pixels.dtype != np.uint8:
        raise ValueError(f"{damaged}: it does not hold {form.images:,} images; {remedy}")
    if labels.shape != (form.images,) or labels.max() >= len(CIFAR10_CLASSES):
        raise ValueError(f"{damaged}: it does not hold {form.images:,} labels; {remedy}")
    tensor = torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32)
    return ImageTensors(tensor, torch.from_numpy(labels.copy()).long())
