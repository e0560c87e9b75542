"""What a recipe asks of the data: how batches are drawn, and what is subtracted from them."""

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor

from residual.data.datasets import Data, ImageFiles, Progress, no_progress
from residual.data.loader import (
    IMAGES_PER_TASK,
    LoaderOptions,
    file_batches,
    measure_preprocessing,
    training_batches,
)
from residual.data.preprocessing import Preprocessing, contrast_preprocessing, per_pixel_mean
from residual.data.sampler import DataConfig
from residual.device import ComputeConfig
from residual.models.registry import model_spec
from residual.tasks.classification.recipe import Recipe


def crop_size(recipe: Recipe) -> int:
    """Pixels on a side of a training image."""
    return recipe.size or model_spec(recipe.network).input_size


def test_size(recipe: Recipe) -> int:
    """Pixels on a side of the centre crop of a test."""
    return recipe.test_size or crop_size(recipe)


def drawing(recipe: Recipe) -> DataConfig:
    """How a recipe draws its batches."""
    own = {field.name: getattr(recipe, field.name) for field in fields(DataConfig)}
    return DataConfig(**own | {"size": crop_size(recipe)})


def preprocessing(
    recipe: Recipe, data: Data, workers: int = 0, progress: Progress = no_progress
) -> Preprocessing:
    """The recipe's, measured on the training set. Where training and test differ in their crops, no
    mean image is of both, and the means of its channels are taken."""
    if not isinstance(data.train, ImageFiles):
        if recipe.contrast == "none":
            return per_pixel_mean(data.train)
        return contrast_preprocessing(data.train, recipe.contrast == "whitened")
    spec, mean, size = model_spec(recipe.network), recipe.mean, test_size(recipe)
    if mean == "pixel" and crop_size(recipe) != size:
        mean = "channel"
    own = measure_preprocessing(data.train, mean, size, recipe.shorter, workers, progress)
    return own if mean == "imagenet" else replace(own, std=own.std / spec.pixel_range)


def batches(
    recipe: Recipe, data: Data, before: Preprocessing, place: LoaderOptions, step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training batches on the device, this process's part of each."""
    how, ready = drawing(recipe), before.to(place.device)
    if isinstance(data.train, ImageFiles):
        classes = len(data.classes)
        return file_batches(data.train, ready, how, place, classes, step)
    return training_batches(data.train.to(place.device), ready, how, step, place.world)


def made_up(recipe: Recipe, images: int, how: ComputeConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """One made-up batch again and again, to measure a network by."""
    device, size = torch.device(how.device), crop_size(recipe)
    with torch.random.fork_rng(devices=[]):
        # Noise: after zeros, a normalization makes numbers so small that processors are slow.
        pixels = torch.rand(images, 3, size, size)
    inputs = pixels.to(device).contiguous(memory_format=how.memory_format)
    return itertools.repeat((inputs, torch.zeros(images, dtype=torch.int64, device=device)))


def bytes_of_task(recipe: Recipe) -> int:
    """What a worker hands over at a time, where it reads photographs."""
    return IMAGES_PER_TASK * 3 * crop_size(recipe) ** 2
