"""Preprocessing of decoded pixels: mean, deviation, contrast normalization and ZCA whitening."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residual.data.datasets import ImageTensors

CONTRAST_NORM = 55  # of a picture whose contrast is normalised (pylearn2's Maxout)

MIN_NORM = 1e-3  # a smaller norm is no contrast: a single grey level makes one of 0.004


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
        values = self.normalize(normalize_contrast(values) if self.contrast else values)
        if self.whitening is None:
            return values
        return (values.flatten(1) @ self.whitening).view_as(values)

    def normalize(self, values: Tensor) -> Tensor:
        """Values (N, 3, H, W) in [0, 1] -> input, in place. Pictures of another size than the mean
        image, as in fully convolutional use, take its average over each channel."""
        mean = self.mean
        if mean.shape[1:] not in ((1, 1), values.shape[2:]):
            mean = mean.mean(dim=(1, 2), keepdim=True)
        return values.sub_(mean).div_(self.std)

    def with_channel_mean(self) -> "Preprocessing":
        """For whole pictures, in fully convolutional use: a mean image becomes its average over
        each channel, whatever size a picture happens to have."""
        return replace(self, mean=self.mean.mean(dim=(1, 2), keepdim=True))

    def for_sizes(self, crop: int, test: int, shorter: int) -> "Preprocessing":
        """The same for other sizes of photographs: a mean image serves where training and test have
        its size, and else its average over each channel does."""
        mean = self.mean
        if not tuple(mean.shape[1:]) == (crop, crop) == (test, test):
            mean = mean.mean(dim=(1, 2), keepdim=True)
        return replace(self, mean=mean, size=(test, test), shorter=shorter)

    def to(self, device: torch.device) -> "Preprocessing":
        return self._each(lambda tensor: tensor.to(device))

    def double(self) -> "Preprocessing":
        """In float64."""
        return self._each(Tensor.double)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Preprocessing":
        whitening = None if self.whitening is None else change(self.whitening)
        return replace(self, mean=change(self.mean), std=change(self.std), whitening=whitening)


def normalize_contrast(values: Tensor) -> Tensor:
    """Each picture (N, 3, H, W) without its mean, over all its values, and divided by its Euclidean
    norm, times 55 (Goodfellow et al. 2013, after pylearn2). One without contrast becomes zero, or
    nearly."""
    flat = values.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return (CONTRAST_NORM * flat / torch.where(norm > MIN_NORM, norm, 1.0)).view_as(values)


def contrast_preprocessing(images: ImageTensors, whitened: bool) -> Preprocessing:
    """Contrast normalised, then the mean image subtracted, or ZCA whitening in its place: with 0.1
    added to each eigenvalue of the training set's covariance."""
    height, width = images.pixels.shape[2:]
    size = 3 * height * width
    total, outer = torch.zeros(size).double(), torch.zeros(size, size).double()
    for part in torch.split(images.pixels, 4096):
        flat = normalize_contrast(part.double()).flatten(1)
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


def per_pixel_mean(images: ImageTensors) -> Preprocessing:
    """The paper's preprocessing, measured on the training set."""
    total = torch.zeros(images.pixels.shape[1:], dtype=torch.int64)
    for part in torch.split(images.pixels, 4096):
        total += part.sum(dim=0, dtype=torch.int64)
    mean = (total.double() / (255 * len(images))).float()
    height, width = images.pixels.shape[2:]
    return Preprocessing(mean, torch.ones(3, 1, 1), (height, width))
