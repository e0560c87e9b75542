"""The verb `predict`: labels and probabilities of pictures."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from residual.data.decode import DamagedImage, decode
from residual.data.preprocessing import Preprocessing
from residual.device import NON_FINITE, ComputeConfig, NonFiniteValues, is_finite
from residual.export.engine import Engine, engine
from residual.runs.load import Trained
from residual.tasks.classification.load import load
from residual.tasks.classification.metrics import top_k as best_of

BATCH = 4  # dimensions of an array of several pictures
TOGETHER = 16  # pictures that are answered at once, so that memory stays bounded


Given = Path | str | Image.Image | NDArray[np.uint8] | Tensor  # what a picture may be given as


def predict(
    trained: Trained | Path | str, images: Iterable[Given] | Given, top: int = 5
) -> list[dict[str, Any]]:
    """For each picture, or one, its labels, best first, or the error that kept it from an answer.

    A picture is a path, an image of Pillow's, an array (H, W, 3) or (H, W), or a tensor (3, H, W)
    or (H, W), of 8-bit values; whole batches of these may be given, too. The answer is that for the
    same picture in a file. Each is `{"image", "labels": [{"label", "probability"}, ...]}` or
    `{"image", "error"}`; without a path, `image` is `image 0`, `image 1` and so on. Raises
    ValueError for what is no picture.
    """
    one = isinstance(images, str | Path | Image.Image)
    one = one or (isinstance(images, np.ndarray | Tensor) and images.ndim != BATCH)
    given = cast(Iterable[Given], [images] if one else images)
    pictures = [as_picture(image) for image in given]
    threads = torch.get_num_threads()
    if isinstance(trained, Trained):
        device = str(next(trained.net.parameters()).device)
        return list(ComputeConfig(device, threads).iterate(answers(trained, pictures, top)))
    # Nobody else holds the network.
    return list(ComputeConfig(threads=threads).iterate(answers(load(trained), pictures, top)))


def as_picture(image: Given) -> Path | Image.Image:
    """A path, or the picture itself. Raises ValueError."""
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray | Tensor):
        raise ValueError(
            f"{type(image).__name__} is no picture: give a path, an image of Pillow's, an array or "
            "a tensor"
        )
    kind, shape = str(image.dtype).removeprefix("torch."), tuple(image.shape)
    if kind != "uint8" or 0 in shape:
        raise ValueError(f"a picture has values of 8 bits (uint8), and not {kind} of shape {shape}")
    if isinstance(image, Tensor):
        image = (image.movedim(0, -1) if image.ndim == 3 else image).cpu().numpy()
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] in (3, 4)):
        raise ValueError(
            f"no picture has the shape {image.shape}: an array is (H, W, 3) or (H, W), a tensor "
            "(3, H, W) or (H, W)"
        )
    return Image.fromarray(image)


def answers(
    trained: Trained,
    images: Iterable[Path | Image.Image],
    top: int,
    engine_of: Callable[[Trained], Engine] = engine,
    together: int = TOGETHER,
) -> Generator[dict[str, Any]]:
    """One answer at a time, so that a damaged picture costs no other its answer. The next pictures
    are decoded while the network looks at these."""
    answering = engine_of(trained)
    trained = replace(trained, net=nn.Identity())  # the engine has what it needs of the weights
    look = partial(looked_at, before=trained.preprocessing)
    left, done = iter(images), 0
    with ThreadPoolExecutor(max(2, torch.get_num_threads())) as pool:
        groups = iter(lambda: list(islice(left, together)), [])
        coming = ((group, pool.map(look, group)) for group in groups)
        current = next(coming, None)
        while current:
            following = next(coming, None)
            group, inputs = current[0], list(current[1])
            whole = [each for each in inputs if isinstance(each, Tensor)]
            found = iter(finite(trained, answering(torch.stack(whole))) if whole else ())
            for image, each in zip(group, inputs, strict=True):
                name = str(image) if isinstance(image, Path) else f"image {done}"
                done += 1
                if isinstance(each, Tensor):
                    yield {"image": name, "labels": best(trained, next(found), top)}
                else:
                    yield {"image": name, "error": each}
            current = following


def looked_at(image: Path | Image.Image, before: Preprocessing) -> Tensor | str:
    """A picture as the network's input (3, H, W), or why there is none."""
    try:
        pixels = decode(image, before.size, before.shorter)
    except (DamagedImage, OSError) as error:
        return str(error)
    return before(pixels[None])[0]


def best(trained: Trained, probabilities: Tensor, top: int) -> list[dict[str, Any]]:
    """The best classes by name, best first, of probabilities (classes,)."""
    names = trained.classes or [str(i) for i in range(len(probabilities))]
    return [
        {"label": names[place], "probability": float(probabilities[place])}
        for place in best_of(probabilities[None], top)[0].tolist()
    ]


def finite(trained: Trained, probabilities: Tensor) -> Tensor:
    """The same. Raises NotFinite where a probability is not finite."""
    if not is_finite(probabilities):
        raise NonFiniteValues(f"{trained.network} answers with {NON_FINITE}")
    return probabilities
