"""Data by name: the two sets that everybody can have, and any folder of pictures."""

from pathlib import Path

from residual.data.cifar10 import cifar10
from residual.data.digits import digits
from residual.data.folder import folder
from residual.data.images import Data
from residual.data.progress import Progress

DEFAULT_ROOT = Path.home() / ".cache" / "residual"


def load(
    name: str,
    root: Path = DEFAULT_ROOT,
    *,
    size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
) -> Data:
    """`digits`, `cifar10`, or a folder of pictures, which are resized to size x size.

    What is fetched or prepared is kept under `root`. Raises ValueError where there is no such
    data, and what the sources raise where it is damaged.
    """
    match name:
        case "digits":
            return digits()
        case "cifar10":
            return cifar10(root, progress)
    path = Path(name).expanduser()
    if not path.is_dir():
        raise ValueError(f"no data {name!r}: say digits, cifar10 or a folder of pictures")
    return folder(path, size, root, workers, progress)
