"""What a training refuses before it begins: recipes that do not go with data or network."""

from torch import nn

from residual.data.datasets import Data, Photographs, held_out
from residual.data.filenames import shown
from residual.models.complexity import HEADS
from residual.models.registry import build_meta, check_input, classifier_parameters, model_spec
from residual.tasks.classification.loader import crop_size, test_size
from residual.training.recipe import CROP, Recipe
from residual.training.values import in_text, refuse_idle

IN_MEMORY = ("digits", "CIFAR-10")  # data that are no folder of pictures


def check(recipe: Recipe, data: Data) -> None:
    """Raises ValueError where this recipe cannot be trained on this data."""
    if not len(data.train) and not data.train.damaged:
        raise ValueError(f"{data.name} has no train/ to learn from; it is good to be judged on")
    if len(data.classes) < 2:
        raise ValueError(f"{data.name} has one class, {data.classes[0]!r}; training needs two")
    size = model_spec(recipe.network).input_size
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


def check_effects(recipe: Recipe, usual: Recipe, data: Data) -> None:
    """Raises ValueError for a field that differs from the usual recipe's and that changes nothing
    on this data, with this network."""
    refuse_idle(recipe, usual, acting(recipe, data))
    if recipe.average[0] and recipe.patience and recipe.schedule != "plateau":
        raise ValueError(
            "average and patience both say which weights a training ends with; choose average=0,0 "
            "or patience=0"
        )


def acting(recipe: Recipe, data: Data) -> dict[str, tuple[bool, str]]:
    """Of every field that does not always count, whether it does here, and why not."""
    return of_learning(recipe) | of_pictures(recipe, data)


def of_learning(recipe: Recipe) -> dict[str, tuple[bool, str]]:
    """Fields that depend on the network and on other fields."""
    network, batch_norm = recipe.network, has_batch_norm(recipe.network)
    scored = any(name.startswith(HEADS) for name in classifier_parameters(network))
    counted = scored and recipe.auxiliary > 0
    labels, answers = recipe.lesson != "hint", recipe.lesson == "distillation"
    linear, sgd = recipe.schedule == "linear", recipe.optimizer != "rmsprop"
    drops = recipe.schedule == "drops" and any(drop < recipe.steps for drop in recipe.drops)
    no_labels, no_norm = "a hint is learnt, and no labels", f"{network} has no batch normalization"
    no_heads = f"{network} has no further classifier_parameters in training"
    heads = (
        no_heads
        if not scored
        else "the further classifier_parameters count nothing with auxiliary=0"
    )
    return {
        "guidance": (answers, "only the lesson distillation has guidance"),
        "temperature": (answers, "only the lesson distillation has a temperature"),
        "drops": (
            drops or linear,
            f"the rate drops by the schedules drops and linear, before step {recipe.steps:,}",
        ),
        "factor": (drops or linear or recipe.schedule == "plateau", "the rate never drops by it"),
        "warmup": (not linear or recipe.average[0] > 0, "the schedule linear has no warm-up"),
        "momentum": (sgd, "rmsprop has no momentum"),
        "momentum_rise": (sgd, "rmsprop has no momentum"),
        "heads_rate": (counted or not labels, heads),
        "last_decay": (recipe.weight_decay > 0, "it is a share of the weight decay, which is 0"),
        "loss": (labels, no_labels),
        "smoothing": (labels, no_labels),
        "balance": (labels or recipe.balance != "weights", no_labels),
        "auxiliary": (scored and labels, no_heads if labels else no_labels),
        "auxiliary_steps": (counted and labels, heads if labels else no_labels),
        "frozen": (batch_norm, no_norm),
        "true_statistics": (batch_norm, no_norm),
        "block": (recipe.balance != "sampler", "balance=sampler has an order of its own"),
    }


def of_pictures(recipe: Recipe, data: Data) -> dict[str, tuple[bool, str]]:
    """Fields that depend on the pictures."""
    photographs, own = isinstance(data.train, Photographs), not recipe.start
    small = "it is for photographs, and these are small pictures"
    given = "pictures go through what those of the weights go through"
    one = "a norm group of one picture has no other to mix it with"
    large = (photographs, small)
    mixing = (photographs and recipe.norm_group > 1, one if photographs else small)
    return {
        "split": (
            None in (data.val, data.test) or recipe.patience > 0,
            f"{data.name} has a val set and a test set of its own",
        ),
        "padding": (not photographs, "photographs are cut, and not padded"),
        "size": large,
        "test_size": large,
        "shorter": large,
        "scales": (
            photographs and recipe.crop == "scale",
            "only crop=scale draws shorter sides" if photographs else small,
        ),
        "mean": (photographs and own, given if photographs else small),
        "contrast": (
            not photographs and own,
            "it is for small pictures, and these are photographs" if photographs else given,
        ),
        "colour": large,
        "trivial": large,
        "erasing": large,
        "mixup": mixing,
        "cutmix": mixing,
        "bad_images": (
            data.name not in IN_MEMORY,
            f"{data.name} has no files that could be damaged",
        ),
    }


def has_batch_norm(network: str) -> bool:
    if model_spec(network).family != "rival":
        return True
    return any(isinstance(each, nn.BatchNorm2d) for each in build_meta(network, 2).modules())
