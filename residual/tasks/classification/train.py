"""The verb `train`: a recipe and data become a run."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from residual.data.datasets import Data
from residual.data.folder import generated_split
from residual.data.packed import is_packed
from residual.data.sources import DEFAULT_ROOT, load
from residual.device import ComputeConfig, check_finite, training_config
from residual.distributed import current_world
from residual.models.registry import build, classifier_parameters, model_spec
from residual.runs import folder, session
from residual.runs.autotune import autotune
from residual.runs.load import Trained
from residual.runs.results import environment
from residual.tasks.classification import baseline_recipes
from residual.tasks.classification.baseline_recipes import recipe_of
from residual.tasks.classification.checks import check, check_effects
from residual.tasks.classification.load import load as loaded_weights
from residual.tasks.classification.load import recipe_of as stored_recipe
from residual.tasks.classification.loader import crop_size, test_size
from residual.tasks.classification.recipe import RECIPES, Recipe, changed, check_average, with_steps
from residual.tasks.classification.task import Classification
from residual.tasks.classification.throughput import seconds_per_step, trial_key
from residual.training.checkpoint import weights_sha256
from residual.training.recipe import to_json
from residual.training.task import Event, RunOptions


def recipe_for(network: str, data: str, name: str = "auto") -> Recipe:
    """A recipe by name, or the one that the network and the data go by.

    Raises ValueError for a network or a recipe that there is not.
    """
    spec = model_spec(network)
    deep = spec.family == "cifar" and spec.depth >= 110
    if name == "auto" and spec.family == "rival":
        name = recipe_of(spec.name)
    elif name == "auto" and spec.input_size == 224:
        name = "imagenet"
    elif name == "auto":
        name = "digits" if data == "digits" else "cifar-deep" if deep else "cifar"
    known = RECIPES | baseline_recipes.RECIPES
    if name not in known:
        raise ValueError(f"no recipe {name!r}; there are auto, {', '.join(known)}")
    return replace(known[name], network=spec.name)


def nearest(recipe: Recipe) -> Recipe:
    """The named recipe, for the same network, from which a recipe differs in the fewest fields."""
    named = [
        replace(each, network=recipe.network)
        for each in (RECIPES | baseline_recipes.RECIPES).values()
    ]
    own = to_json(recipe).items()
    return min(named, key=lambda each: sum(to_json(each)[key] != value for key, value in own))


def takes_photographs(network: str) -> bool:
    """Whether a network looks at photographs, and not at small pictures in memory."""
    return model_spec(network).input_size == 224


def found_again(name: str, root: Path) -> dict[str, str]:
    """How a run finds its data again, from whatever folder it is taken up in."""
    path = Path(name).expanduser()
    own = name in ("digits", "cifar10")  # by name, whatever lies in this folder
    where = str(path.resolve()) if path.is_dir() and not own else name
    return {"where": where, "root": str(root.expanduser().resolve())}


def begin(
    run: Path | None,
    recipe: Recipe,
    data: Data,
    where: dict[str, str],
    how: ComputeConfig,
    test_curve: bool,
    weights: Trained | None = None,
) -> Path:
    """Make a run's folder, runs/<network>-<n> without one. `where` says how the data is found
    again: its name and its root."""
    check_average(recipe)  # not where an old run goes on
    check(recipe, data)
    current_world().local_batch(recipe.batch, recipe.norm_group)
    how = autotune(
        how,
        recipe.steps,
        partial(seconds_per_step, recipe=recipe, classes=len(data.classes)),
        partial(trial_key, recipe=recipe),
        Path(where["root"]).expanduser() / "trials.json",
    )
    path = Path(where["where"])
    own = path.is_absolute() and path.is_dir() and not is_packed(where["where"])
    split = generated_split(path) if own else {}
    known = environment(data, where, how) | {"test_curve": test_curve}

    def fill(own: Path) -> None:
        if weights is not None:
            begun_with(own, recipe, data, weights)

    return folder.create(run, to_json(recipe), data.classes, known, split, fill)


def begun_with(run: Path, recipe: Recipe, data: Data, weights: Trained) -> None:
    """The checkpoint before the first step of a run that begins with trained weights; the last
    layer is new where the classes are others."""
    net = session.fresh(recipe.seed, lambda: build(recipe.network, len(data.classes)))
    state = weights.net.state_dict()
    if weights.classes != data.classes:
        new = classifier_parameters(recipe.network)
        state = {name: tensor for name, tensor in state.items() if name not in new}
    net.load_state_dict(state, strict=False)
    before = weights.preprocessing
    if takes_photographs(recipe.network):
        before = before.for_sizes(crop_size(recipe), test_size(recipe), recipe.shorter)
    folder.save(run, *session.start_with(recipe, data.classes, net, before))


def from_weights(recipe: Recipe, weights: Trained) -> Recipe:
    """The recipe for a training that begins with these. Raises ValueError where they are another
    network's, and NotFinite."""
    if weights.network != recipe.network:
        raise ValueError(f"the weights are those of {weights.network}, not of {recipe.network}")
    state = weights.net.state_dict()
    check_finite(state, "these weights are none to begin with")
    return replace(recipe, start=weights_sha256(state))


def train(
    network: str = "resnet20",
    data: str = "digits",
    *,
    recipe: Recipe | None = None,
    out: Path | str | None = None,
    how: ComputeConfig | None = None,
    weights: Path | str | None = None,
    **changes: Any,
) -> Iterator[Event]:
    """Train a network; `for moment in train("resnet20"): ...` takes the steps one at a time.

    Without a recipe it goes by the one of network and data, with `changes` to its fields: `seed=1`,
    or `steps=800`, for which drops, warm-up and average keep their proportions.
    The run is kept in `out`, by default runs/<network>-<n>. Raises ValueError and OSError, in a
    sentence, for a network, a field or data that there is not.
    """
    usual = nearest(recipe) if recipe else recipe_for(network, data)
    recipe = recipe or usual
    if "steps" in changes:
        steps = changes.pop("steps")
        recipe, usual = with_steps(recipe, steps), with_steps(usual, steps)
    if unknown := sorted(changes.keys() - to_json(recipe).keys()):
        raise ValueError(
            f"no field {unknown[0]!r} in a recipe; it has {', '.join(to_json(recipe))}"
        )
    recipe = changed(recipe, changes)
    beginning = None if weights is None else loaded_weights(weights, body=True)
    if beginning:
        recipe = from_weights(recipe, beginning)
    size, whole = model_spec(recipe.network).input_size, takes_photographs(recipe.network)
    loaded = load(data, DEFAULT_ROOT, size=size, whole=whole)
    check_effects(recipe, usual, loaded)
    where = found_again(data, DEFAULT_ROOT)
    own, how = Path(out) if out else None, how or training_config()
    run = begin(own, recipe, loaded, where, how, False, beginning)
    yield from advance(run, loaded, RunOptions())


def advance(run: Path, data: Data, options: RunOptions) -> Iterator[Event]:
    """Take the steps that remain of a run; see `runs.session.advance`."""
    return session.advance(run, data, options, stored_recipe, Classification)
