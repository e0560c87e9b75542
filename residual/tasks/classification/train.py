"""Prepares and starts the training of a classifier: recipe, data, initial weights, run folder."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from residual.data.datasets import Data, Progress, no_progress
from residual.data.folder import generated_split
from residual.data.packed import is_packed
from residual.data.sources import load
from residual.device import ComputeConfig, check_finite
from residual.distributed import current_world
from residual.models.registry import build, classifier_parameters, is_user_class, model_spec
from residual.runs import folder, session
from residual.runs.autotune import autotune
from residual.runs.environment import environment
from residual.runs.load import Trained
from residual.storage import summarize
from residual.tasks.classification import baseline_recipes
from residual.tasks.classification.checks import check, check_effects
from residual.tasks.classification.distillation import check_teacher, load_teacher, with_teacher
from residual.tasks.classification.load import read_recipe
from residual.tasks.classification.loader import crop_size, test_size
from residual.tasks.classification.recipe import (
    RECIPES,
    ClassificationRecipe,
    changed,
    check_average,
    with_steps,
)
from residual.tasks.classification.task import Classification
from residual.tasks.classification.throughput import seconds_per_step, trial_key
from residual.training.checkpoint import weights_sha256
from residual.training.events import Event, RunOptions
from residual.training.recipe import check_changes, to_json

__all__ = [
    "advance", "begin", "check_effects", "choose_recipe", "complete_recipe", "load_data", "notices",
    "read_recipe",
]  # fmt: skip


def recipe_for(network: str, data: str, name: str = "auto") -> ClassificationRecipe:
    """A recipe by name, or the usual one of the network and the data. Raises ValueError for an
    unknown network or recipe."""
    spec = model_spec(network)
    deep = spec.family == "cifar" and spec.depth >= 110
    if name == "auto" and spec.family == "baseline":
        name = baseline_recipes.recipe_of(spec.name)
    elif name == "auto" and spec.input_size == 224:
        name = "imagenet"
    elif name == "auto":
        name = "digits" if data == "digits" else "cifar-deep" if deep else "cifar"
    recipes = RECIPES | baseline_recipes.RECIPES
    if name not in recipes:
        raise ValueError(f"no recipe {name!r}; there are auto, {', '.join(recipes)}")
    return replace(recipes[name], network=spec.name)


def choose_recipe(
    network: str,
    data: str,
    recipe: str | ClassificationRecipe,
    steps: int | None,
    changes: dict[str, Any],
) -> tuple[ClassificationRecipe, ClassificationRecipe]:
    """The usual recipe, and the one with changes; drops and the like are in proportion to `steps`.
    Raises ValueError for an unknown network, recipe or field, and for an impossible value."""
    if isinstance(recipe, str):
        usual = chosen = recipe_for(network, data, recipe)
    else:
        chosen = replace(recipe, network=model_spec(network).name)
        usual = nearest(chosen)
    if steps is not None:
        usual, chosen = with_steps(usual, steps), with_steps(chosen, steps)
    chosen = changed(chosen, check_changes(chosen, changes))
    check_average(chosen)
    return usual, chosen


def nearest(recipe: ClassificationRecipe) -> ClassificationRecipe:
    """The named recipe that differs from a recipe in the fewest fields."""
    recipes = RECIPES | baseline_recipes.RECIPES
    named = [replace(other, network=recipe.network) for other in recipes.values()]
    values = to_json(recipe).items()
    return min(named, key=lambda other: sum(to_json(other)[key] != v for key, v in values))


def takes_photographs(network: str) -> bool:
    """Whether a network takes photographs, and not small images in memory."""
    return model_spec(network).input_size == 224


def load_data(
    recipe: ClassificationRecipe,
    source: dict[str, str],
    workers: int = 0,
    progress: Progress = no_progress,
    classes: tuple[str, ...] | None = None,
) -> Data:
    """The data of a recipe, in the form that its network takes."""
    size, as_files = model_spec(recipe.network).input_size, takes_photographs(recipe.network)
    root = Path(source["root"])
    return load(
        source["where"], root, size=size, as_files=as_files, workers=workers, progress=progress
    )


def notices(recipe: ClassificationRecipe, usual: ClassificationRecipe, data: Data) -> list[str]:
    """Sentences about the recipe and the data, beside the notices of the data itself."""
    damaged = [path for path, _ in data.train.damaged if recipe.bad_images == "skip"]
    return [f"damaged training pictures are left out {summarize(damaged)}"] if damaged else []


def begin(
    run: Path | None,
    recipe: ClassificationRecipe,
    data: Data,
    source: dict[str, str],
    config: ComputeConfig,
    weights: Trained | None = None,
    *,
    test_curve: bool = False,
    teacher: Path | None = None,
) -> Path:
    """Make the folder of a run, by default runs/<network>-<n>. `source` is the location of the
    data: `where` and `root`. Raises ValueError for a recipe that does not fit the data."""
    check_average(recipe)  # not when an old run is resumed
    check(recipe, data)
    current_world().local_batch(recipe.batch, recipe.norm_group)
    if teacher is not None:
        check_teacher(load_teacher(teacher), recipe, data.classes)
        source = source | {"teacher": str(teacher.resolve())}
    if is_user_class(recipe.network):  # it may call `view`
        config = replace(config, channels_last=False)
    cache = Path(source["root"]).expanduser() / "trials.json"
    config = autotune(
        config,
        recipe.steps,
        partial(seconds_per_step, recipe=recipe, classes=len(data.classes)),
        partial(trial_key, recipe=recipe),
        cache,
    )
    path = Path(source["where"])
    is_folder = path.is_absolute() and path.is_dir() and not is_packed(source["where"])
    split = generated_split(path) if is_folder else {}
    values = environment(data, source, config) | {"test_curve": test_curve}

    def save_initial(run: Path) -> None:
        if weights is not None:
            save_weights(run, recipe, data, weights)

    return folder.create(run, to_json(recipe), data.classes, values, split, save_initial)


def save_weights(run: Path, recipe: ClassificationRecipe, data: Data, weights: Trained) -> None:
    """Save initial weights as the checkpoint of step 0; the last layer is new if the classes are
    others."""
    net = session.fresh(recipe.seed, lambda: build(recipe.network, len(data.classes)))
    state = weights.net.state_dict()
    if weights.classes != data.classes:
        last = classifier_parameters(recipe.network)
        state = {name: tensor for name, tensor in state.items() if name not in last}
    net.load_state_dict(state, strict=False)
    preprocessing = weights.preprocessing
    if takes_photographs(recipe.network):
        sizes = crop_size(recipe), test_size(recipe), recipe.shorter
        preprocessing = preprocessing.for_sizes(*sizes)
    folder.save(run, *session.start_with(recipe, data.classes, net, preprocessing))


def complete_recipe(
    recipe: ClassificationRecipe,
    config: ComputeConfig,
    weights: Trained | None,
    *,
    teacher: Path | None = None,
    test_curve: bool = False,
) -> ClassificationRecipe:
    """The recipe with the digests of its initial weights and of its teacher's. Raises ValueError
    for weights of another network, and NonFiniteValues."""
    if weights is not None:
        recipe = from_weights(recipe, weights)
    return with_teacher(recipe, None if teacher is None else load_teacher(teacher))


def from_weights(recipe: ClassificationRecipe, weights: Trained) -> ClassificationRecipe:
    """The recipe of a training from initial weights. Raises ValueError for weights of another
    network or of a detector, and NonFiniteValues."""
    if weights.network != recipe.network:
        raise ValueError(f"the weights are those of {weights.network}, not of {recipe.network}")
    if hasattr(weights, "annotations"):
        raise ValueError("the weights are those of a detector; give those of a classifier")
    state = weights.net.state_dict()
    check_finite(state, "these initial weights cannot be used")
    return replace(recipe, start=weights_sha256(state))


def advance(run: Path, data: Data, options: RunOptions) -> Iterator[Event]:
    """Take the steps that remain of a run; see `runs.session.advance`."""
    return session.advance(run, data, options, read_recipe, Classification)
