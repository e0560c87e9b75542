"""Predicts labels and probabilities of pictures."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from residual.data.decode import DamagedImage, decode
from residual.data.loader import read_ahead
from residual.device import NON_FINITE, NonFiniteValues, is_finite
from residual.export.engine import Engine, engine
from residual.runs.load import Trained
from residual.tasks.classification.metrics import top_k

Picture = Path | str | Image.Image | NDArray[np.uint8] | Tensor


def to_image(picture: Picture) -> Path | Image.Image:
    """A path, or the picture as a Pillow image. Raises ValueError."""
    if isinstance(picture, str | Path):
        return Path(picture)
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, np.ndarray | Tensor):
        raise ValueError(
            f"{type(picture).__name__} is no picture: give a path, a Pillow image, an array or a "
            "tensor"
        )
    dtype, shape = str(picture.dtype).removeprefix("torch."), tuple(picture.shape)
    if dtype != "uint8" or 0 in shape:
        raise ValueError(f"a picture has 8-bit values (uint8), and not {dtype} of shape {shape}")
    if isinstance(picture, Tensor):
        picture = (picture.movedim(0, -1) if picture.ndim == 3 else picture).cpu().numpy()
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    if picture.ndim != 2 and not (picture.ndim == 3 and picture.shape[2] in (3, 4)):
        raise ValueError(
            f"no picture has the shape {picture.shape}: an array is (H, W, 3) or (H, W), a tensor "
            "(3, H, W) or (H, W)"
        )
    return Image.fromarray(picture)


def answers(
    trained: Trained,
    images: Iterable[Path | Image.Image],
    top: int,
    create_engine: Callable[[Trained], Engine] = engine,
    batch: int = 16,
) -> Generator[dict[str, Any]]:
    """The best labels of each picture, or an error; see `residual.predict`. The next batch is
    decoded during inference.

    Raises NonFiniteValues for a probability that is not finite.
    """
    infer = create_engine(trained)
    trained = replace(trained, net=nn.Identity())  # the engine has the weights
    view, count = trained.preprocessing, 0

    def read(image: Path | Image.Image) -> tuple[Path | Image.Image, Tensor | str]:
        """A picture, and the network's input (3, H, W) or the error."""
        try:
            return image, view(decode(image, view.size, view.shorter)[None])[0]
        except (DamagedImage, OSError) as error:
            return image, str(error)

    reading = read_ahead(read, images, max(2, torch.get_num_threads()), batch)
    for results in iter(lambda: [result() for result in islice(reading, batch)], []):
        tensors = [x for _, x in results if isinstance(x, Tensor)]
        probabilities = infer(torch.stack(tensors)) if tensors else torch.zeros(0)
        if not is_finite(probabilities):
            raise NonFiniteValues(f"{trained.network} answers with {NON_FINITE}")
        rows = iter(probabilities)
        for image, x in results:
            name = str(image) if isinstance(image, Path) else f"image {count}"
            count += 1
            if not isinstance(x, Tensor):
                yield {"image": name, "error": x}
                continue
            row, classes = next(rows), trained.classes  # without names, classes are numbers
            labels = [
                {"label": classes[i] if classes else str(i), "probability": float(row[i])}
                for i in top_k(row[None], top)[0].tolist()
            ]
            yield {"image": name, "labels": labels}
