"""Predicts labels and probabilities of pictures."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.decode import DamagedImage, decode, open_to_resize
from residual.data.loader import read_ahead
from residual.data.normalization import Preprocessing
from residual.device import NON_FINITE, NonFiniteValues, is_finite
from residual.export.classifier import INPUT, PICTURE
from residual.export.engine import Engine, engine
from residual.export.onnx_file import OnnxFile
from residual.runs.load import Trained
from residual.storage import damage_errors
from residual.tasks.classification.metrics import top_k

Picture = Path | str | Image.Image | NDArray[np.uint8] | Tensor
# Of the pictures that a model with its preprocessing takes together. Four of 12 megapixels take
# 470 MB, one takes 70 MB, and they are not faster together.
PIXELS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Classifier:
    """Predicts in two steps, so that pictures are decoded in other threads than the network's."""

    network: str
    classes: tuple[str, ...] | None
    prepare: Callable[[Path | bytes | Image.Image], Tensor]  # raises what `decode` raises
    infer: Callable[[Sequence[Tensor]], Tensor]  # prepared pictures -> (N, classes) probabilities

    def probabilities(self, inputs: Sequence[Tensor]) -> Tensor:
        """Probabilities (N, classes). Raises NonFiniteValues."""
        rows = self.infer(inputs) if inputs else torch.zeros(0)
        if not is_finite(rows):
            raise NonFiniteValues(f"{self.network} answers with {NON_FINITE}")
        return rows

    def labels(self, row: Tensor, top: int) -> list[dict[str, Any]]:
        """The best labels of a row of probabilities; without names, classes are numbers."""
        return [
            {"label": self.classes[i] if self.classes else str(i), "probability": float(row[i])}
            for i in top_k(row[None], top)[0].tolist()
        ]


def classifier(trained: Trained, create_engine: Callable[[Trained], Engine] = engine) -> Classifier:
    """A trained network as a classifier. It does not keep the network, whose weights the engine
    has."""
    infer, view = create_engine(trained), trained.preprocessing

    def prepare(picture: Path | bytes | Image.Image) -> Tensor:
        return view(decode(picture, view.size, view.shorter)[None])[0]

    def infer_batch(inputs: Sequence[Tensor]) -> Tensor:
        return infer(torch.stack(list(inputs)))

    return Classifier(trained.network, trained.classes, prepare, infer_batch)


def exported_classifier(file: OnnxFile) -> Classifier:
    """An exported model as a classifier. Raises ValueError for a detector, and for a model that
    needs a whitening matrix which only the run has."""
    with damage_errors(file.path):
        network, labels = file["network"], file["labels"]
        if file.detects:
            raise ValueError(
                f"{file.path} is a detector on {network}; use: residual detect predict"
            )
        inside = file["preprocessing"]["inside"]
        view = None if inside else exported_preprocessing(file)
        shorter = file["preprocessing"]["shorter"]

    def prepare(picture: Path | bytes | Image.Image) -> Tensor:
        if view is None:
            return torch.from_numpy(np.array(open_to_resize(picture, shorter)))
        return view(decode(picture, view.size, view.shorter)[None])[0]

    def infer(inputs: Sequence[Tensor]) -> Tensor:
        by_shape = defaultdict[tuple[int, ...], list[int]](list)
        for i, x in enumerate(inputs):
            by_shape[tuple(x.shape)].append(i)
        rows: dict[int, Tensor] = {}
        for shape, places in by_shape.items():
            n = max(1, PIXELS_AT_ONCE // (shape[0] * shape[1])) if inside else len(places)
            for part in (places[i : i + n] for i in range(0, len(places), n)):
                batch = torch.stack([inputs[i] for i in part]).numpy()
                (values,) = file.session.run(None, {PICTURE if inside else INPUT: batch})
                rows |= zip(part, torch.from_numpy(values), strict=True)
        return torch.stack([rows[i] for i in range(len(inputs))])

    return Classifier(network, tuple(labels) if labels else None, prepare, infer)


def exported_preprocessing(file: OnnxFile) -> Preprocessing:
    """The preprocessing that an exported model leaves to the caller. Raises ValueError."""
    values = file["preprocessing"]
    if values["whitening"]:
        raise ValueError(f"{file.path} needs the whitening matrix of its run; predict with the run")
    mean, std = (torch.tensor(values[key]).view(3, 1, 1) for key in ("mean", "std"))
    if values["mean_image"] is not None:
        mean = torch.tensor(values["mean_image"])
    height, width = values["size"]
    return Preprocessing(mean, std, (height, width), values["shorter"], values["contrast"])


def answers(
    classifier: Classifier, images: Iterable[Path | Image.Image], top: int, batch: int = 16
) -> Generator[dict[str, Any]]:
    """The best labels of each picture, or an error; see `residual.predict`. The next batch is
    decoded during inference.

    Raises NonFiniteValues for a probability that is not finite.
    """

    def read(item: tuple[int, Path | Image.Image]) -> tuple[str, Tensor | str]:
        """A picture's name, and the network's input (3, H, W) or the error."""
        i, image = item
        name = str(image) if isinstance(image, Path) else f"image {i}"
        try:
            return name, classifier.prepare(image)
        except (DamagedImage, OSError) as error:
            return name, str(error)

    reading = read_ahead(read, enumerate(images), max(2, torch.get_num_threads()), batch)
    for results in iter(lambda: [result() for result in islice(reading, batch)], []):
        rows = iter(classifier.probabilities([x for _, x in results if isinstance(x, Tensor)]))
        for name, x in results:
            if isinstance(x, Tensor):
                yield {"image": name, "labels": classifier.labels(next(rows), top)}
            else:
                yield {"image": name, "error": x}


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
