"""Files of weights, whatever program wrote them; nothing in them is ever run."""

import warnings
from pathlib import Path
from typing import Any

from residual import storage
from residual.weights import caffe

WANTED = (
    "weights are a .safetensors file, a state dict by torch.save, a .caffemodel, or a .pkl of "
    "Detectron's"
)


def file_of(path: Path) -> Path:
    """The weights file that a path is, or that lies in a folder as timm's models come in.

    Raises FileNotFoundError, or ValueError where it is empty.
    """
    if path.is_dir():
        inside = [path / name for name in ("model.safetensors", "pytorch_model.bin")]
        path = next((file for file in inside if file.is_file()), inside[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {WANTED}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {WANTED}")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of a file of weights; no code in it is ever run.

    Raises FileNotFoundError, or ValueError where it is something else.
    """
    path = file_of(path)
    if path.suffix == ".caffemodel":
        return dict(caffe.read(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        if path.suffix == ".pkl":
            content = without_momenta(storage.load_pickle(path.read_bytes(), encoding="latin1"))
        else:
            with warnings.catch_warnings(action="ignore"):  # of old pickles, which concern no user
                content = storage.load_torch(path)
    except OSError:
        raise
    except Exception as error:  # anything may come of bytes that are no weights
        raise ValueError(
            f"{path} holds no weights that can be read without running code from it; {WANTED}"
        ) from error
    if isinstance(content, storage.Inert):
        raise ValueError(f"{path} holds no weights but an object, which only its own code could "
                         f"read: save its state_dict(); {WANTED}")  # fmt: skip
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; {WANTED}")
    return content


def without_momenta(content: Any) -> Any:
    """What a pickle of Detectron's holds, without what its optimizer gathered."""
    if not isinstance(content, dict):
        return content
    kept = {key: value for key, value in content.items() if not str(key).endswith("_momentum")}
    blobs = kept.get("blobs")
    return kept | {"blobs": without_momenta(blobs)} if isinstance(blobs, dict) else kept
