"""Data sets of arrays in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residual.data.datasets import (
    Data,
    ImageFiles,
    ImageTensors,
    stratified_split,
    tensor_fingerprint,
)
from residual.data.decode import Picture

NAME = "arrays in memory"


@dataclass(frozen=True)
class ArraySource:
    """Photographs in memory, as the source of `ImageFiles`."""

    images: NDArray[np.uint8]  # (N, H, W, 3)

    def name(self, i: int) -> str:
        return f"image {i}"

    def image(self, i: int) -> Picture:
        return Image.fromarray(self.images[i])


def array_data(
    images: Any,
    labels: Any,
    classes: Sequence[str],
    test: tuple[Any, Any] | None = None,
    *,
    as_files: bool = False,
) -> Data:
    """Arrays or tensors as data: images (N, H, W, 3) uint8, and labels (N,), indices of classes.

    Without images and labels for the `test`, a fifth is held out, stratified and always the same.
    `as_files` is for networks that take photographs. Raises ValueError.
    """
    names = tuple(map(str, classes)) if isinstance(classes, Iterable) else ()
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"classes are different names, one for each number, not {classes!r:.60}")
    train = image_tensors(images, labels, names)
    if test is None:
        fraction, counts = max(0.2, len(names) / len(train)), train.labels.bincount()
        if fraction > 0.5 or int(counts[counts > 0].min()) < 2:
            raise ValueError(
                f"{NAME}: each class needs two images or more, one of them for the test; or give "
                f"(images, labels, classes, (test_images, test_labels))"
            )
        train, held_out = (train.subset(part) for part in stratified_split(train.labels, fraction))
    elif isinstance(test, tuple | list) and len(test) == 2:
        held_out = image_tensors(*test, names)
        sides = [tuple(part.pixels.shape[2:]) for part in (train, held_out)]
        if sides[0] != sides[1] and not as_files:
            raise ValueError(f"the images are {sides[0]}, and those of the test are {sides[1]}")
    else:
        raise ValueError("the fourth element of the data is a tuple (test_images, test_labels)")
    fingerprint = tensor_fingerprint(names, train=train, test=held_out)
    if as_files:
        return Data(NAME, fingerprint, names, as_photographs(train), as_photographs(held_out))
    return Data(NAME, fingerprint, names, train, held_out)


def image_tensors(images: Any, labels: Any, classes: Sequence[str]) -> ImageTensors:
    """Images in memory. Raises ValueError for another form."""
    pixels, numbers = as_tensor(images), as_tensor(labels)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        kind = str(pixels.dtype).removeprefix("torch.")
        raise ValueError(
            f"images are an array (N, H, W, 3) of uint8, not {tuple(pixels.shape)} of {kind}"
        )
    if numbers.is_floating_point() or numbers.shape != pixels.shape[:1]:
        raise ValueError(
            f"{len(pixels):,} images have as many labels, which are integers, not an array "
            f"{tuple(numbers.shape)} of {str(numbers.dtype).removeprefix('torch.')}"
        )
    numbers = numbers.long()
    if not 0 <= int(numbers.min()) <= int(numbers.max()) < len(classes):
        raise ValueError(
            f"labels are indices of the {len(classes)} classes, from 0 to {len(classes) - 1}, not "
            f"{int(numbers.min())} to {int(numbers.max())}"
        )
    return ImageTensors(pixels.permute(0, 3, 1, 2).contiguous(), numbers)


def as_tensor(values: Any) -> Tensor:
    """An array, a tensor or a list as a tensor on the CPU. Raises ValueError."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        return torch.from_numpy(np.require(values, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"images and labels are arrays of numbers: {error}") from None


def as_photographs(images: ImageTensors) -> ImageFiles:
    """Images in memory in the form of files, which are cropped one by one."""
    source = ArraySource(images.pixels.permute(0, 2, 3, 1).contiguous().numpy())
    return ImageFiles(source, torch.arange(len(images)), images.labels)
