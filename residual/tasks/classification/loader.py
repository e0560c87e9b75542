"""Preprocessing and training batches of a recipe."""

from collections.abc import Iterator
from dataclasses import fields, replace

from torch import Tensor

from residual.data.datasets import Data, ImageFiles, Progress, no_progress
from residual.data.loader import (
    IMAGES_PER_TASK,
    LoaderOptions,
    file_batches,
    measure_preprocessing,
    training_batches,
)
from residual.data.normalization import Preprocessing, contrast_preprocessing, per_pixel_mean
from residual.data.sampler import DataConfig
from residual.models.registry import model_spec
from residual.tasks.classification.recipe import ClassificationRecipe


def crop_size(recipe: ClassificationRecipe) -> int:
    """Pixels on a side of a training image."""
    return recipe.size or model_spec(recipe.network).input_size


def test_size(recipe: ClassificationRecipe) -> int:
    """Pixels on a side of the centre crop of a test."""
    return recipe.test_size or crop_size(recipe)


def drawing(recipe: ClassificationRecipe) -> DataConfig:
    """The fields of a recipe that decide the order and the augmentation of images."""
    values = {field.name: getattr(recipe, field.name) for field in fields(DataConfig)}
    return DataConfig(**values | {"size": crop_size(recipe)})


def preprocessing(
    recipe: ClassificationRecipe, data: Data, workers: int = 0, progress: Progress = no_progress
) -> Preprocessing:
    """The recipe's preprocessing, measured on the training set. Where the crops of training and
    test differ in size, the channel means replace the mean image."""
    if not isinstance(data.train, ImageFiles):
        if recipe.contrast == "none":
            return per_pixel_mean(data.train)
        return contrast_preprocessing(data.train, recipe.contrast == "whitened")
    mean, size = recipe.mean, test_size(recipe)
    if mean == "pixel" and crop_size(recipe) != size:
        mean = "channel"
    measured = measure_preprocessing(data.train, mean, size, recipe.shorter, workers, progress)
    pixel_range = model_spec(recipe.network).pixel_range
    return measured if mean == "imagenet" else replace(measured, std=measured.std / pixel_range)


def batches(
    recipe: ClassificationRecipe,
    data: Data,
    preprocessing: Preprocessing,
    place: LoaderOptions,
    step: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training batches on the device, this process's part of each."""
    preprocessing = preprocessing.to(place.device)
    if isinstance(data.train, ImageFiles):
        classes = len(data.classes)
        return file_batches(data.train, preprocessing, drawing(recipe), place, classes, step)
    images = data.train.to(place.device)
    return training_batches(images, preprocessing, drawing(recipe), step, place.world)


def bytes_per_task(recipe: ClassificationRecipe) -> int:
    """Bytes that a worker hands over at a time, where it reads photographs."""
    return IMAGES_PER_TASK * 3 * crop_size(recipe) ** 2
