"""Normalization of decoded pixels: mean, deviation, contrast, and ZCA whitening."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residual.data.datasets import ImageTensors

CONTRAST_NORM = 55  # of an image whose contrast is normalized (pylearn2's Maxout)
MIN_NORM = 1e-3  # below it there is no contrast: a single grey level gives 0.004


@dataclass(frozen=True)
class Preprocessing:
    """From decoded pixels to a network's input; stored with every trained network.

    The paper subtracts the per-pixel mean of the training set and does nothing else (Sec. 4.2).
    """

    mean: Tensor  # (3, H, W) or (3, 1, 1), of pixels in [0, 1]
    std: Tensor  # (3, 1, 1); ones, or 1/255 for networks that take pixels of 0 to 255
    size: tuple[int, int]  # height and width that an image is resized to
    shorter: int | None = None  # or the shorter side, of which a centre crop is taken
    contrast: bool = False  # of each image is normalized before the mean
    whitening: Tensor | None = None  # (D, D), of D = 3 H W values, after the mean

    # Choice: pixels are in [0, 1] before the mean is subtracted. That scale has no effect in
    # networks with batch normalization after the first convolution, or with contrast normalization.
    # VGG, GoogLeNet and PReLU-net have neither: they get 0 to 255, as published.
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) uint8 -> contiguous input (N, 3, H, W), in the mean's precision."""
        values = pixels.to(self.mean.dtype, memory_format=torch.contiguous_format).div_(255)
        values = self.normalize(normalize_contrast(values) if self.contrast else values)
        if self.whitening is None:
            return values
        return (values.flatten(1) @ self.whitening).view_as(values)

    def normalize(self, values: Tensor) -> Tensor:
        """Values (N, 3, H, W) in [0, 1] -> input, in place. For images of another size than the
        mean image, its average over each channel is used."""
        fits = self.mean.shape[1:] in ((1, 1), values.shape[2:])
        return values.sub_(self.mean if fits else self._channel_mean()).div_(self.std)

    def with_channel_mean(self) -> "Preprocessing":
        """The average of a mean image over each channel, for fully convolutional use."""
        return replace(self, mean=self._channel_mean())

    def for_sizes(self, crop: int, test: int, shorter: int) -> "Preprocessing":
        """The same for other image sizes. A mean image is kept if training and test crops have its
        size."""
        fits = tuple(self.mean.shape[1:]) == (crop, crop) == (test, test)
        mean = self.mean if fits else self._channel_mean()
        return replace(self, mean=mean, size=(test, test), shorter=shorter)

    def to(self, device: torch.device) -> "Preprocessing":
        return self._map(lambda tensor: tensor.to(device))

    def double(self) -> "Preprocessing":
        return self._map(Tensor.double)

    def _channel_mean(self) -> Tensor:
        return self.mean.mean(dim=(1, 2), keepdim=True)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Preprocessing":
        whitening = None if self.whitening is None else function(self.whitening)
        return replace(self, mean=function(self.mean), std=function(self.std), whitening=whitening)


def normalize_contrast(values: Tensor) -> Tensor:
    """Subtract the mean of each image (N, 3, H, W) over all its values, divide by the Euclidean
    norm, and multiply by 55 (Goodfellow et al. 2013, after pylearn2)."""
    flat = values.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return (CONTRAST_NORM * flat / torch.where(norm > MIN_NORM, norm, 1.0)).view_as(values)


def contrast_preprocessing(images: ImageTensors, whitened: bool) -> Preprocessing:
    """Contrast normalization, and then the mean image or ZCA whitening, with 0.1 added to each
    eigenvalue of the training set's covariance."""
    height, width = images.pixels.shape[2:]
    size = 3 * height * width
    total, outer = torch.zeros(size).double(), torch.zeros(size, size).double()
    for part in torch.split(images.pixels, 4096):
        flat = normalize_contrast(part.double()).flatten(1)
        total += flat.sum(dim=0)
        if whitened:
            outer += flat.T @ flat
    mean = total / len(images)
    mean_image, ones = mean.float().view(3, height, width), torch.ones(3, 1, 1)
    preprocessing = Preprocessing(mean_image, ones, (height, width), contrast=True)
    if not whitened:
        return preprocessing
    values, vectors = torch.linalg.eigh(outer / len(images) - torch.outer(mean, mean))
    zca = (vectors / (values.clamp(min=0) + 0.1).sqrt()) @ vectors.T
    return replace(preprocessing, whitening=zca.float())


def per_pixel_mean(images: ImageTensors) -> Preprocessing:
    """The paper's preprocessing: the mean of each pixel over the training set."""
    total = torch.zeros(images.pixels.shape[1:], dtype=torch.int64)
    for part in torch.split(images.pixels, 4096):
        total += part.sum(dim=0, dtype=torch.int64)
    mean = (total.double() / (255 * len(images))).float()
    height, width = images.pixels.shape[2:]
    return Preprocessing(mean, torch.ones(3, 1, 1), (height, width))
