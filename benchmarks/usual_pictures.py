"""The usual way to read photographs, to measure against: torchvision's `ImageFolder` and transforms
on one picture at a time, and a `DataLoader`."""

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from residual.data.augment import EIGENVALUES, EIGENVECTORS
from residual.data.loader import IMAGENET_MEAN, IMAGENET_STD


class Scale(nn.Module):
    """The shorter side becomes a random integer of pixels (Sec. 3.4)."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, image: Image.Image) -> Image.Image:
        shorter = random.randint(self.low, self.high)
        return transforms.functional.resize(image, shorter)  # type: ignore[no-any-return]


class Colour(nn.Module):
    """AlexNet's shift along the principal components of ImageNet's colours."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation
        self.values, self.vectors = torch.tensor(EIGENVALUES), torch.tensor(EIGENVECTORS)

    def forward(self, image: Tensor) -> Tensor:
        shift = (torch.randn(3) * self.deviation * self.values) @ self.vectors
        return image + shift.view(3, 1, 1)


def batches(folder: Path, batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: normalised input (B, 3, 224, 224) and labels (B,)."""
    steps = [
        Scale(256, 480),
        transforms.RandomCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        Colour(0.1),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    loader = DataLoader(
        ImageFolder(str(folder), transforms.Compose(steps)),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader
