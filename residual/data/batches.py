"""Batches in bulk on the training device: order, crop and mirror of Section 4.2."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.data.balance import balanced_order, copies
from residual.data.datasets import Images
from residual.data.rng import below, order
from residual.distributed import World

ALONE = World()
COPY = 2**32  # added to the epoch once for each copy of an image, so that each has its own draws
TOP, LEFT, MIRROR = range(3)  # the draws that each image gets in each epoch


NORM = 55  # of a picture whose contrast is normalised (pylearn2's Maxout)
FLAT = 1e-3  # a smaller norm is no contrast: a single grey level makes one of 0.004


@dataclass(frozen=True)
class Preprocessing:
    """From decoded pixels to a network's input; stored with every trained network.

    The paper subtracts the per-pixel mean of the training set and does nothing else (Sec. 4.2).
    """

    mean: Tensor  # (3, H, W), or (3, 1, 1); of pixels in [0, 1]
    std: Tensor  # (3, 1, 1); ones, or 1/255 for networks that take pixels of 0 to 255
    size: tuple[int, int]  # height and width of a picture, which is resized to it
    shorter: int | None = None  # or else its shorter side becomes this, and its centre is taken
    contrast: bool = False  # of each picture by itself is normalised before the mean
    whitening: Tensor | None = None  # (D, D), of D = 3 H W values, after the mean

    # Choice: a network meets pixels in [0, 1], less the mean, where that scale changes nothing
    # (batch normalization stands behind the first convolution) or contrast normalisation gives
    # another; VGG, GoogLeNet and PReLU-net have neither, and meet 0 to 255, for which their
    # published start, rates and response normalisation are made.
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) uint8 -> input (N, 3, H, W), in the mean's precision."""
        values = pixels.to(self.mean.dtype).div_(255)
        values = self.normalised(contrast_normalised(values) if self.contrast else values)
        if self.whitening is None:
            return values
        return (values.flatten(1) @ self.whitening).view_as(values)

    def normalised(self, values: Tensor) -> Tensor:
        """Values (N, 3, H, W) in [0, 1] -> input, in place. Pictures of another size than the mean
        image, as in fully convolutional use, take its average over each channel."""
        mean = self.mean
        if mean.shape[1:] not in ((1, 1), values.shape[2:]):
            mean = mean.mean(dim=(1, 2), keepdim=True)
        return values.sub_(mean).div_(self.std)

    def of_any_size(self) -> "Preprocessing":
        """For whole pictures, in fully convolutional use: a mean image becomes its average over
        each channel, whatever size a picture happens to have."""
        return replace(self, mean=self.mean.mean(dim=(1, 2), keepdim=True))

    def seen_at(self, crop: int, test: int, shorter: int) -> "Preprocessing":
        """The same for other sizes of photographs: a mean image serves where training and test have
        its size, and else its average over each channel does."""
        mean = self.mean
        if not tuple(mean.shape[1:]) == (crop, crop) == (test, test):
            mean = mean.mean(dim=(1, 2), keepdim=True)
        return replace(self, mean=mean, size=(test, test), shorter=shorter)

    def to(self, device: torch.device) -> "Preprocessing":
        return self._each(lambda tensor: tensor.to(device))

    def exact(self) -> "Preprocessing":
        """In float64."""
        return self._each(Tensor.double)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Preprocessing":
        whitening = None if self.whitening is None else change(self.whitening)
        return replace(self, mean=change(self.mean), std=change(self.std), whitening=whitening)


def contrast_normalised(values: Tensor) -> Tensor:
    """Each picture (N, 3, H, W) without its mean, over all its values, and divided by its Euclidean
    norm, times 55 (Goodfellow et al. 2013, after pylearn2). One without contrast becomes zero, or
    nearly."""
    flat = values.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return (NORM * flat / torch.where(norm > FLAT, norm, 1.0)).view_as(values)


def of_contrast(images: Images, whitened: bool) -> Preprocessing:
    """Contrast normalised, then the mean image subtracted, or ZCA whitening in its place: with 0.1
    added to each eigenvalue of the training set's covariance."""
    height, width = images.pixels.shape[2:]
    size = 3 * height * width
    total, outer = torch.zeros(size).double(), torch.zeros(size, size).double()
    for part in torch.split(images.pixels, 4096):
        flat = contrast_normalised(part.double()).flatten(1)
        total += flat.sum(dim=0)
        if whitened:
            outer += flat.T @ flat
    mean = total / len(images)
    plain = Preprocessing(
        mean.float().view(3, height, width), torch.ones(3, 1, 1), (height, width), contrast=True
    )
    if not whitened:
        return plain
    values, vectors = torch.linalg.eigh(outer / len(images) - torch.outer(mean, mean))
    zca = (vectors / (values.clamp(min=0) + 0.1).sqrt()) @ vectors.T
    return replace(plain, whitening=zca.float())


def per_pixel_mean(images: Images) -> Preprocessing:
    """The paper's preprocessing, measured on the training set."""
    total = torch.zeros(images.pixels.shape[1:], dtype=torch.int64)
    for part in torch.split(images.pixels, 4096):
        total += part.sum(dim=0, dtype=torch.int64)
    mean = (total.double() / (255 * len(images))).float()
    height, width = images.pixels.shape[2:]
    return Preprocessing(mean, torch.ones(3, 1, 1), (height, width))


@dataclass(frozen=True)
class Drawing:
    """How training images are drawn and altered: fields of the recipe, by the same names."""

    batch: int
    seed: int
    norm_group: int = 1
    crop: str = "pad"
    padding: int = 4
    size: int = 224
    scales: tuple[int, int] = (256, 480)
    mirror: bool = True
    colour: float = 0.0
    trivial: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    balance: str = "none"
    bad_images: str = "error"
    block: int = 0
    repeats: int = 1


@lru_cache(maxsize=4)  # one epoch's batches ask for the same order, of one and the same tensor
def visited(labels: Tensor, how: Drawing, epoch: int) -> tuple[Tensor, Tensor]:
    """The order (n,) in which an epoch visits the images, and the epoch (n,) that keys the draws of
    each: where an image comes again, the next one has draws of its own."""
    if how.balance == "sampler":
        ids = balanced_order(labels, how.seed, epoch)
        return ids, epoch + COPY * copies(ids)
    ids = order(how.seed, epoch, len(labels), labels.device, how.block)
    return ids, torch.full_like(ids, epoch)


def chosen(labels: Tensor, how: Drawing, step: int, world: World = ALONE) -> tuple[Tensor, Tensor]:
    """The images of the batch after `step` steps, and the epoch that keys the draws of each: this
    process's part.

    Epochs follow one another without a gap: each image comes once in each, and a batch may hold
    the end of one and the beginning of the next. So no batch is short, and a small set will do.
    Repeated augmentation (Hoffer et al. 2020): a batch may hold each of its images several times,
    so far apart that a norm group holds none twice.
    """
    # Choice: torchvision starts a new order after as many images as the set has, so that an epoch
    # sees a fourth of them four times; we go on, so that four epochs see each exactly four times.
    unlike = how.batch // how.repeats
    start, n = step * unlike, len(labels)
    stop = start + unlike
    ids: list[Tensor] = []
    epochs: list[Tensor] = []
    while start < stop:
        epoch, first = divmod(start, n)
        last = min(n, first + stop - start)
        for own, part in zip((ids, epochs), visited(labels, how, epoch), strict=True):
            own.append(part[first:last])
        start += last - first
    again = torch.arange(how.repeats, device=labels.device).repeat_interleave(unlike)
    every = torch.cat(ids).repeat(how.repeats), torch.cat(epochs).repeat(how.repeats) + COPY * again
    share = how.batch // world.size
    own_part = slice(world.rank * share, (world.rank + 1) * share)
    return every[0][own_part], every[1][own_part]


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
    how: Drawing,
    step: int = 0,
    world: World = ALONE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches from the one after `step` steps on: input (B, 3, H, W) and labels (B,).

    A batch is a function of its arguments and its number alone.
    """
    # Choice: zeros are padded after the mean is subtracted, so a border pixel is the mean pixel.
    while True:
        ids, epochs = chosen(images.labels, how, step, world)
        inputs = preprocessing(images.pixels[ids])
        inputs = crop_and_mirror(inputs, ids, epochs, how.seed, how.padding, how.mirror)
        yield inputs, images.labels[ids]
        step += 1


def evaluation_batches(
    images: Images, preprocessing: Preprocessing, batch: int = 500
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order, as it is: input (B, 3, H, W) and labels (B,)."""
    for pixels, labels in zip(
        torch.split(images.pixels, batch), torch.split(images.labels, batch), strict=True
    ):
        yield preprocessing(pixels), labels
