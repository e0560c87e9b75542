"""Checks before training and evaluation: recipe, data, networks and protocol fit together."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from residual.data import arrays
from residual.data.datasets import Data, ImageFiles, ImageSet, apply_split
from residual.data.loader import check_damage_budget
from residual.models.complexity import HEADS
from residual.models.registry import build_meta, check_input, classifier_parameters, model_spec
from residual.runs.load import Trained
from residual.storage import display_name
from residual.tasks.classification.loader import crop_size, test_size
from residual.tasks.classification.protocols import PROTOCOLS, Protocol
from residual.tasks.classification.recipe import CROP, ClassificationRecipe
from residual.training.recipe import check_effect, in_text

IN_MEMORY = ("digits", "CIFAR-10", arrays.NAME)  # data that are no folder of pictures
Conditions = dict[str, tuple[bool, str]]  # field -> whether it has an effect, and why it has none


def check(recipe: ClassificationRecipe, data: Data) -> None:
    """Raises ValueError where this recipe cannot be trained on this data."""
    if not len(data.train) and not data.train.damaged:
        raise ValueError(f"{data.name} has no train/; it can only be used for evaluation")
    if len(data.classes) < 2:
        raise ValueError(f"{data.name} has one class, {data.classes[0]!r}; training needs two")
    size = model_spec(recipe.network).input_size
    photographs = size == CROP
    if photographs != isinstance(data.train, ImageFiles):
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
    if damaged := [display_name(path) for path, _ in data.train.damaged]:
        if recipe.bad_images == "error":
            raise ValueError(
                f"{len(damaged)} training pictures are damaged, the first is {damaged[0]}; mend "
                "them, or train with --bad-images skip"
            )
        check_damage_budget(len(damaged), len(data.train) + len(damaged), damaged[-1])
    if recipe.patience and apply_split(data, recipe.split).selection_set is None:
        raise ValueError(f"{data.name} has no val set for the patience of the recipe")


def check_sizes(recipe: ClassificationRecipe) -> None:
    """Raises ValueError where crops are larger than photographs, or too small for the network."""
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


def check_effects(recipe: ClassificationRecipe, usual: ClassificationRecipe, data: Data) -> None:
    """Raises ValueError for a field that differs from the usual recipe's and has no effect on this
    data, with this network."""
    check_effect(recipe, usual, learning_conditions(recipe) | image_conditions(recipe, data))
    if recipe.average[0] and recipe.patience and recipe.schedule != "plateau":
        raise ValueError(
            "average and patience both say which weights a training ends with; choose average=0,0 "
            "or patience=0"
        )


def learning_conditions(recipe: ClassificationRecipe) -> Conditions:
    """Conditions that depend on the network and on other fields."""
    network, average = recipe.network, recipe.average[0] > 0
    linear = recipe.schedule == "linear"
    drops = linear or (recipe.schedule == "drops" and any(d < recipe.steps for d in recipe.drops))
    labels, no_labels = recipe.lesson != "hint", "lesson=hint learns from no labels"
    distilled = recipe.lesson == "distillation", "only lesson=distillation uses it"
    momentum = recipe.optimizer != "rmsprop", "rmsprop has no momentum"
    modules = build_meta(network, 2).modules()
    batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in modules)
    norm = batch_norm, f"{network} has no batch normalization"
    heads = any(name.startswith(HEADS) for name in classifier_parameters(network))
    weighted = heads and recipe.auxiliary > 0
    no_heads = "the auxiliary classifiers have the weight auxiliary=0"
    if not heads:
        no_heads = f"{network} has no auxiliary classifiers in training"
    no_loss = no_heads if labels else no_labels
    return {
        "guidance": distilled,
        "temperature": distilled,
        "drops": (drops, f"no schedule of drops lowers the rate before step {recipe.steps:,}"),
        "factor": (drops or recipe.schedule == "plateau", "the rate never drops by it"),
        "warmup": (not linear or average, "the schedule linear has no warm-up"),
        "momentum": momentum,
        "momentum_rise": momentum,
        "heads_rate": (weighted or not labels, no_heads),
        "last_decay": (recipe.weight_decay > 0, "it is a share of the weight decay, which is 0"),
        "loss": (labels, no_labels),
        "smoothing": (labels, no_labels),
        "balance": (labels or recipe.balance != "weights", no_labels),
        "auxiliary": (heads and labels, no_loss),
        "auxiliary_steps": (weighted and labels, no_loss),
        "frozen": norm,
        "true_statistics": (
            norm[0] and not recipe.frozen,
            "frozen statistics do not change" if norm[0] else norm[1],
        ),
        "block": (recipe.balance != "sampler", "balance=sampler has an order of its own"),
    }


def image_conditions(recipe: ClassificationRecipe, data: Data) -> Conditions:
    """Conditions that depend on the images."""
    large, fresh = isinstance(data.train, ImageFiles), not recipe.start
    photographs = large, "it is for photographs, and these are small pictures"
    small = not large, "it is for small pictures, and these are photographs"
    measured = fresh, "the preprocessing is that of the weights"
    single = "a norm group of one picture has no other to mix it with"
    mixing = (recipe.norm_group > 1, single) if large else photographs
    return {
        "split": (
            None in (data.val, data.test) or recipe.patience > 0,
            f"{data.name} has a val set and a test set of its own",
        ),
        "padding": small,
        **dict.fromkeys(("size", "test_size", "shorter"), photographs),
        "scales": (recipe.crop == "scale", "only crop=scale uses it") if large else photographs,
        "mean": measured if large else photographs,
        "contrast": small if large else measured,
        **dict.fromkeys(("colour", "trivial", "erasing"), photographs),
        "mixup": mixing,
        "cutmix": mixing,
        "bad_images": (
            data.name not in IN_MEMORY,
            f"{data.name} has no files that could be damaged",
        ),
    }


def check_ensemble(
    nets: Sequence[Trained], images: ImageSet, data: str, protocol: Protocol
) -> None:
    """Raises ValueError where networks, the images of some data, and a protocol do not agree."""
    for net in nets:
        check_classes(net, nets[0])
        check_size(net, images, data)
    check_protocol(nets[0], images, protocol)


def check_classes(net: Trained, first: Trained) -> None:
    """Raises ValueError where a network differs from the first one of its ensemble in its classes
    or in its input size."""
    if (net.classes is None) != (first.classes is None):
        reason = "only one of them has names of classes"
    elif net.num_classes != first.num_classes or (
        set(net.classes or ()) != set(first.classes or ())
    ):
        reason = "they differ in their classes"
    elif net.preprocessing.size != first.preprocessing.size:
        sizes = ["x".join(map(str, one.preprocessing.size)) for one in (net, first)]
        reason = f"they take pictures of {' and '.join(sizes)} pixels"
    else:
        return
    raise ValueError(
        f"the networks of an ensemble have the same classes and the same size of pictures; of this "
        f"{net.network} and the first, {first.network}: {reason}"
    )


def check_size(net: Trained, images: ImageSet, data: str) -> None:
    """Raises ValueError where a network does not take images of this kind or size."""
    (height, width), photographs = net.preprocessing.size, net.preprocessing.shorter is not None
    expected = f"{net.network} takes pictures of {height}x{width} pixels, and"
    if isinstance(images, ImageFiles):
        if not photographs:
            raise ValueError(f"{expected} no photographs")
        return
    if photographs:
        raise ValueError(f"{net.network} takes photographs, and {data} has small pictures")
    size = tuple(images.pixels.shape[2:])
    if size != (height, width):
        raise ValueError(f"{expected} those of {data} are {size[0]}x{size[1]}")


def check_protocol(net: Trained, images: ImageSet, protocol: Protocol) -> None:
    """Raises ValueError where a protocol has no meaning for a network."""
    if not isinstance(images, ImageFiles):
        if replace(protocol, average="probabilities") != PROTOCOLS["1crop"]:
            raise ValueError(
                f"{net.network} takes small pictures, of which there is one view (Sec. 4.2): "
                f"protocol 1crop, without sides and without a mirror"
            )
        return
    size, smallest = net.preprocessing.size, min(protocol.shorter_sides(net.preprocessing))
    if protocol.fully_convolutional:
        check_input(net.network, smallest)
    elif smallest < max(size):
        raise ValueError(
            f"a crop of {size[0]}x{size[1]} is not in a picture whose shorter side is {smallest}; "
            f"choose larger sides"
        )


def match_labels(net: Trained, data: Data, labels: Tensor) -> Tensor:
    """The labels in the order of the network's classes, matched by name. The data may lack classes.

    Raises ValueError where it has a class that the network has not, and where names are missing.
    """
    if net.classes is None and net.num_classes != len(data.classes):
        raise ValueError(
            f"{net.network} has {net.num_classes} classes without names, and {data.name} "
            f"has {len(data.classes)}"
        )
    if net.classes is None or net.classes == data.classes:
        return labels
    index = {name: i for i, name in enumerate(net.classes)}
    unknown = [name for name in data.classes if name not in index]
    if unknown:
        raise ValueError(
            f"{data.name} has classes that {net.network} does not know: {listing(unknown)}; "
            f"it knows {listing(net.classes)}"
        )
    return torch.tensor([index[name] for name in data.classes])[labels]


def listing(names: Sequence[str], limit: int = 12) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
