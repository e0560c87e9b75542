"""Data by name: the two sets that everybody can have, and any folder of pictures."""

from pathlib import Path

from residual.data.cifar10 import cifar10
from residual.data.datasets import Data
from residual.data.digits import digits
from residual.data.folder import folder, photographs
from residual.data.packed import is_packed, open_packed
from residual.data.progress import Progress

DEFAULT_ROOT = Path.home() / ".cache" / "residual"


def load(
    name: str,
    root: Path = DEFAULT_ROOT,
    *,
    size: int = 32,
    whole: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
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
        return photographs(path, root, workers, progress)
    return folder(path, size, root, workers, progress)
