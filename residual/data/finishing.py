"""Crops become a network's input: mirror, colour, mean and deviation, erasing."""

import math
import mmap
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residual.data.batches import Drawing, Preprocessing
from residual.data.mixing import coins, coloured, colours, erased, mirrored


def finishing(
    preprocessing: Preprocessing, how: Drawing, device: torch.device
) -> Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]:
    """What makes of crops, in parts (n, H, W, 3) uint8, and their ids and epochs (B,), the input on
    a device, (B, 3, H, W) float32."""
    if device.type == "cpu":
        line, pages = Line.of(preprocessing, how.size), Pages()
        return lambda parts, ids, epochs: finished_one_by_one(parts, ids, epochs, line, how, pages)

    def together(parts: Sequence[Tensor], ids: Tensor, epochs: Tensor) -> Tensor:
        crops = torch.cat(list(parts)).to(device)
        return finished(crops, ids.to(device), epochs.to(device), preprocessing, how)

    return together


@dataclass(frozen=True)
class Line:
    """Division by 255, mean and deviation as one multiplication and one addition of pixels."""

    # Rows of pixels: of three numbers alone, a processor would take three at a time.
    scale: Tensor  # (1, 3 W)
    offset: Tensor  # (H, 3 W); (1, 3 W) where the mean is one of each channel
    std: Tensor  # (3,) float64

    @classmethod
    def of(cls, preprocessing: Preprocessing, size: int) -> "Line":
        std = preprocessing.std.double()
        scale, offset = (
            each.permute(1, 2, 0).expand(-1, size, 3).reshape(-1, 3 * size).float()
            for each in (1 / 255 / std, -preprocessing.mean.double() / std)
        )
        return cls(scale, offset, std.flatten())


class Pages:
    """Memory for batches. One that nobody holds any more is overwritten by the next: a system takes
    longer to give new memory than all arithmetic on a batch takes, in large pages even."""

    def __init__(self) -> None:
        self.lent: list[tuple[mmap.mmap, weakref.ref[NDArray[np.float32]]]] = []

    def batch(self, *shape: int) -> Tensor:
        """A float32 tensor of anything."""
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(shape)
        size = 4 * math.prod(shape)
        free = (own for own, user in self.lent if user() is None and len(own) == size)
        memory = next(free, None) or large_pages(size)
        numbers = np.frombuffer(memory, np.float32).reshape(shape)
        self.lent = [each for each in self.lent if each[0] is not memory]
        self.lent.append((memory, weakref.ref(numbers)))
        return torch.from_numpy(numbers)


def large_pages(size: int) -> mmap.mmap:
    """So many bytes of new memory."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a system that has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def finished(
    pixels: Tensor, ids: Tensor, epochs: Tensor, preprocessing: Preprocessing, how: Drawing
) -> Tensor:
    """Crops (B, H, W, 3) uint8 -> input (B, 3, H, W) float32, which lies as channels_last."""
    inputs = pixels.permute(0, 3, 1, 2)
    if how.mirror:
        inputs = mirrored(inputs, ids, epochs, how.seed)
    inputs = inputs.float().div_(255)
    if how.colour:
        inputs = coloured(inputs, ids, epochs, how.seed, how.colour)
    inputs = preprocessing.normalised(inputs)
    return erased(inputs, ids, epochs, how.seed, how.erasing) if how.erasing else inputs


def finished_one_by_one(
    parts: Sequence[Tensor], ids: Tensor, epochs: Tensor, line: Line, how: Drawing, pages: Pages
) -> Tensor:
    """The same of a batch in parts, image by image: a processor's cache holds one image."""
    inputs = pages.batch(len(ids), how.size, how.size, 3)
    turned = coins(ids, epochs, how.seed).tolist()
    shifts = (colours(ids, epochs, how.seed, how.colour) / line.std).float()
    crops = (crop for part in parts for crop in part)  # (H, W, 3) uint8
    rows = shifts.repeat(1, how.size)
    for crop, own, turn, row in zip(crops, inputs, turned, rows, strict=True):
        own.copy_(crop.flip(1) if turn and how.mirror else crop)
        flat = own.view(how.size, -1)
        torch.addcmul(line.offset + row, flat, line.scale, out=flat)
    inputs = inputs.permute(0, 3, 1, 2)
    return erased(inputs, ids, epochs, how.seed, how.erasing) if how.erasing else inputs
