"""The usual way to train on CIFAR-size images, to measure against: torchvision's transforms on one
picture at a time, a `DataLoader` with 4 workers, an eager network in the default memory format."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from residual.tasks.classification.recipe import ClassificationRecipe, learning_rate


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures in memory, transformed one at a time, as torchvision's CIFAR10 does."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform: v2.Transform) -> None:
        self.pixels = pixels.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3) uint8
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(v2.functional.to_pil_image(self.pixels[index])), self.labels[index]


def loader(
    pixels: Tensor, labels: Tensor, mean: Tensor, recipe: ClassificationRecipe, workers: int = 4
) -> DataLoader[tuple[Tensor, int]]:
    """The paper's preprocessing and augmentation (Sec. 4.2), put together from torchvision."""
    steps: list[nn.Module] = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Lambda(lambda image: image - mean),
        v2.RandomCrop(pixels.shape[-1], padding=recipe.padding),
    ]
    if recipe.mirror:
        steps.append(v2.RandomHorizontalFlip())
    pictures = Pictures(pixels, labels, v2.Compose(steps))
    return DataLoader(
        pictures,
        recipe.batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def train(
    net: nn.Module,
    batches: DataLoader[tuple[Tensor, int]],
    recipe: ClassificationRecipe,
    device: torch.device,
    bf16: bool = False,
) -> Iterator[float]:
    """Train for the recipe's steps; yields the loss of each, as a tutorial's loop prints it."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free},
    ]
    optimizer = torch.optim.SGD(
        groups,
        recipe.lr,
        recipe.momentum,
    )
    net.to(device).train()
    step = 0
    while step < recipe.steps:
        for images, labels in batches:
            images, labels = images.to(device, non_blocking=True), labels.to(device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(net(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            yield float(loss.detach())
            if step == recipe.steps:
                return


@torch.no_grad()
def wrong(
    net: nn.Module, pixels: Tensor, labels: Tensor, mean: Tensor, device: torch.device
) -> int:
    """Wrong answers on a test set, pictures as they are."""
    net.eval()
    total = 0
    for x, y in zip(torch.split(pixels, 500), torch.split(labels, 500), strict=True):
        scores = net(x.to(device).float().div(255).sub(mean.to(device)))
        total += int((scores.argmax(dim=1) != y.to(device)).sum())
    return total
