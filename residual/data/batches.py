"""Batches in bulk on the training device: order, crop and mirror of Section 4.2."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.data.draws import below, order
from residual.data.images import Images

TOP, LEFT, MIRROR = range(3)  # the draws that each image gets in each epoch


@dataclass(frozen=True)
class Preprocessing:
    """From decoded pixels to a network's input; stored with every trained network.

    The paper subtracts the per-pixel mean of the training set and does nothing else (Sec. 4.2).
    """

    mean: Tensor  # (3, H, W), or (3, 1, 1); of pixels in [0, 1]
    std: Tensor  # (3, 1, 1); ones in the paper
    size: tuple[int, int]  # height and width of a picture, which is resized to it
    shorter: int | None = None  # or else its shorter side becomes this, and its centre is taken

    # Choice: pixels are divided by 255 first. Batch normalization right after the first convolution
    # makes the scale of the input immaterial.
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) uint8 -> input (N, 3, H, W) float32."""
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> "Preprocessing":
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))


def per_pixel_mean(images: Images) -> Preprocessing:
    """The paper's preprocessing, measured on the training set."""
    total = torch.zeros(images.pixels.shape[1:], dtype=torch.int64)
    for part in torch.split(images.pixels, 4096):
        total += part.sum(dim=0, dtype=torch.int64)
    mean = (total.double() / (255 * len(images))).float()
    height, width = images.pixels.shape[2:]
    return Preprocessing(mean, torch.ones(3, 1, 1), (height, width))


def chosen(
    seed: int, step: int, batch: int, n: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """The images (batch,) of the batch after `step` steps, and the epoch (batch,) each is in.

    Epochs follow one another without a gap: each image comes once in each, and a batch may hold
    the end of one and the beginning of the next. So no batch is short, and a small set will do.
    """
    start, stop = step * batch, (step + 1) * batch
    ids, epochs = [], []
    while start < stop:
        epoch, first = divmod(start, n)
        last = min(n, first + stop - start)
        ids.append(order(seed, epoch, n, device)[first:last])
        epochs.append(torch.full((last - first,), epoch, device=device))
        start += last - first
    return torch.cat(ids), torch.cat(epochs)


def crop_and_mirror(
    images: Tensor, ids: Tensor, epochs: Tensor, seed: int, padding: int, mirror: bool
) -> Tensor:
    """Pad (B, 3, H, W) with zeros, cut HxW anywhere, toss a coin for the mirror (Sec. 4.2).

    One gather for the whole batch; the result lies in memory as channels_last.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4)
    rows = torch.arange(height, device=images.device) + below(
        2 * padding + 1, seed, epochs, ids, TOP
    ).unsqueeze(1)  # (B, H)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    if mirror:
        coin = below(2, seed, epochs, ids, MIRROR).bool().unsqueeze(1)
        columns = torch.where(coin, columns.flip(-1), columns)
    columns = columns + below(2 * padding + 1, seed, epochs, ids, LEFT).unsqueeze(1)  # (B, W)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    crops = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return crops.permute(0, 3, 1, 2)


def training_batches(
    images: Images,
    preprocessing: Preprocessing,
    *,
    batch: int,
    seed: int,
    padding: int,
    mirror: bool,
    step: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches from the one after `step` steps on: input (B, 3, H, W) and labels (B,).

    A batch is a function of its arguments and its number alone.
    """
    # Choice: zeros are padded after the mean is subtracted, so a border pixel is the mean pixel.
    while True:
        ids, epochs = chosen(seed, step, batch, len(images), images.labels.device)
        inputs = preprocessing(images.pixels[ids])
        yield crop_and_mirror(inputs, ids, epochs, seed, padding, mirror), images.labels[ids]
        step += 1


def evaluation_batches(
    images: Images, preprocessing: Preprocessing, batch: int = 500
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order, as it is: input (B, 3, H, W) and labels (B,)."""
    for pixels, labels in zip(
        torch.split(images.pixels, batch), torch.split(images.labels, batch), strict=True
    ):
        yield preprocessing(pixels), labels
