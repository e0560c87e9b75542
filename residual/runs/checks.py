"""What a training refuses before it begins: recipes that do not go with data or network."""

from residual.data.filenames import shown
from residual.data.images import Data, held_out
from residual.data.photographs import Photographs
from residual.rivals.networks import check_input, specify
from residual.runs.supply import crop_size, test_size
from residual.training.recipe import CROP, Recipe
from residual.training.values import in_text


def check(recipe: Recipe, data: Data) -> None:
    """Raises ValueError where this recipe cannot be trained on this data."""
    if not len(data.train) and not data.train.damaged:
        raise ValueError(f"{data.name} has no train/ to learn from; it is good to be judged on")
    if len(data.classes) < 2:
        raise ValueError(f"{data.name} has one class, {data.classes[0]!r}; training needs two")
    size = specify(recipe.network).input_size
    photographs = size == CROP
    if photographs != isinstance(data.train, Photographs):
        raise ValueError(
            f"{recipe.network} takes pictures of {size}x{size} pixels; {data.name} has others"
        )
    if photographs == (recipe.crop == "pad"):
        fits = "scale or aspect" if recipe.crop == "pad" else "pad"
        raise ValueError(f"{recipe.network} is trained with crop={fits}, not crop={recipe.crop}")
    if photographs:
        check_sizes(recipe)
    if recipe.frozen and not recipe.start:
        raise ValueError(
            "frozen statistics are those of weights to begin with; name them with --weights, or "
            "train from scratch with --set frozen=false"
        )
    if data.train.damaged and recipe.bad_images == "error":
        first, _ = data.train.damaged[0]
        raise ValueError(
            f"{len(data.train.damaged)} training pictures are damaged, the first is "
            f"{shown(first)}; mend them, or train with --bad-images skip"
        )
    if recipe.patience and held_out(data, recipe.split).choices is None:
        raise ValueError(f"{data.name} has no val set for the patience of the recipe")


def check_sizes(recipe: Recipe) -> None:
    """Raises ValueError where crops of photographs are larger than the photographs, or too small
    for the network."""
    size, test, scales = crop_size(recipe), test_size(recipe), in_text(recipe.scales)
    if recipe.crop == "scale":
        if len(recipe.scales) != 2 or recipe.scales[0] > recipe.scales[1]:
            raise ValueError(f"scales are two shorter sides, the smaller first, not {scales}")
        if recipe.scales[0] < size:
            raise ValueError(
                f"scales={scales} makes pictures smaller than their crops of {size}x{size}; choose "
                f"scales from {size} up, or a smaller size"
            )
    if recipe.shorter < test:
        raise ValueError(
            f"shorter={recipe.shorter} makes pictures smaller than the {test}x{test} that a test "
            f"cuts out; choose shorter={test} or more, or a smaller test_size"
        )
    check_input(recipe.network, size, training=True)
    check_input(recipe.network, test)
