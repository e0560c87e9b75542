"""The verb `train`: a recipe and data become a run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from residual.data.folder import plain_split
from residual.data.images import Data, held_out
from residual.data.sources import DEFAULT_ROOT, load
from residual.files import read_json
from residual.nets.networks import specify
from residual.runs import folder
from residual.runs.results import environment
from residual.runs.resuming import exact, same_data
from residual.runs.session import Moment, Session, Watch
from residual.runs.trial import settled
from residual.training.recipe import RECIPES, Recipe, with_steps
from residual.world import Setting, setting


def recipe_for(network: str, data: str, name: str = "auto") -> Recipe:
    """A recipe by name, or the one that the network and the data go by.

    Raises ValueError for a network or a recipe that there is not.
    """
    spec = specify(network)
    deep = spec.family == "cifar" and spec.depth >= 110
    if name == "auto":
        name = "digits" if data == "digits" else "cifar-deep" if deep else "cifar"
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are auto, {', '.join(RECIPES)}")
    return replace(RECIPES[name], network=spec.name)


def trainable(network: str) -> None:
    """Raises ValueError for a network that cannot be trained yet; asked before data is read."""
    spec = specify(network)
    if spec.family == "imagenet":
        raise ValueError(
            f"{spec.name} takes photographs of {spec.input_size}x{spec.input_size} pixels, and "
            f"only networks for small pictures can be trained yet; choose one such as resnet20"
        )


def check(recipe: Recipe, data: Data) -> None:
    """Raises ValueError where this network cannot be trained on this data."""
    trainable(recipe.network)
    if data.train.damaged:
        first, _ = data.train.damaged[0]
        raise ValueError(
            f"{len(data.train.damaged)} training pictures are damaged, the first is {first}; "
            f"mend or remove them"
        )
    if len(data.classes) < 2:
        raise ValueError(f"{data.name} has one class, {data.classes[0]!r}; training needs two")


def found_again(name: str, root: Path) -> dict[str, str]:
    """How a run finds its data again, from whatever folder it is taken up in."""
    path = Path(name).expanduser()
    own = name in ("digits", "cifar10")  # by name, whatever lies in this folder
    where = str(path.resolve()) if path.is_dir() and not own else name
    return {"where": where, "root": str(root.expanduser().resolve())}


def begin(
    run: Path, recipe: Recipe, data: Data, where: dict[str, str], how: Setting, test_curve: bool
) -> None:
    """Make a run's folder. `where` says how the data is found again: its name and its root."""
    check(recipe, data)
    how = settled(how, recipe, data, Path(where["root"]).expanduser() / "trials.json")
    path = Path(where["where"])
    split = plain_split(path) if path.is_absolute() and path.is_dir() else {}
    folder.create(run, recipe, data.classes, environment(data, where, how, test_curve), split)


def train(
    network: str = "resnet20",
    data: str = "digits",
    *,
    recipe: Recipe | None = None,
    out: Path | None = None,
    how: Setting | None = None,
    **changes: Any,
) -> Iterator[Moment]:
    """Train a network; `for moment in train("resnet20"): ...` takes the steps one at a time.

    Without a recipe it goes by the one of network and data, with `changes` to its fields: `seed=1`,
    or `steps=800`, for which drops and warm-up keep their proportions.
    The run is kept in `out`, by default runs/<network>-<n>. Raises ValueError and OSError, in a
    sentence, for a network, a field or data that there is not.
    """
    recipe = recipe or recipe_for(network, data)
    if "steps" in changes:
        recipe = with_steps(recipe, changes.pop("steps"))
    recipe = replace(recipe, **changes)
    loaded = load(data, DEFAULT_ROOT, size=specify(recipe.network).input_size)
    run = out or folder.named(recipe.network, Path("runs"))
    begin(run, recipe, loaded, found_again(data, DEFAULT_ROOT), how or setting(), test_curve=False)
    yield from advance(run, loaded, Watch())


def advance(run: Path, data: Data, watch: Watch) -> Iterator[Moment]:
    """Take the steps that remain of a run: all of a new one, none of a finished one.

    Raises Stopped and Diverged, after saving or before; ValueError for data of another kind.
    """
    recipe = folder.recipe_of(run)
    if (run / "result.json").exists():
        yield Moment(recipe.steps, result=read_json(run / "result.json"))
        return
    known = read_json(run / "environment.json")
    same_data(run, known, data)
    exact(run, known, Setting(**known["setting"]))
    session = Session(run, recipe, held_out(data, recipe.split), known, watch)
    for complaint in session.complaints:
        yield Moment(session.learner.step, notice=f"{complaint}; the one before it is used")
    yield from session.steps()
    yield Moment(recipe.steps, result=session.finish())
