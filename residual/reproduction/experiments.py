"""What must have been trained, and where its run, its result and its evaluations lie."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from residual.data.datasets import Data
from residual.device import ComputeConfig
from residual.models.complexity import cost
from residual.models.registry import build_meta, model_spec
from residual.storage import read_json, write_json
from residual.tasks.classification.train import begin, recipe_for, takes_photographs
from residual.training.recipe import CIFAR as CIFAR_RECIPE
from residual.training.recipe import CROP, Recipe, from_json, with_steps
from residual.training.recipe import IMAGENET as IMAGENET_RECIPE
from residual.training.values import to_json

Result = dict[str, Any]
RESULTS = Path("results")


@dataclass(frozen=True)
class Experiment:
    """A recipe on data; `curve` where a figure asks for the test error during training."""

    recipe: Recipe
    data: str  # its name
    fingerprint: str
    curve: bool = False

    @property
    def name(self) -> str:
        """Of the run's folder and of the result's file; equal experiments have equal names.

        Only what differs from a plain Recipe counts, so that a new field renames nothing.
        """
        recipe = self.recipe
        ours, usual = to_json(recipe), to_json(Recipe(recipe.network))
        own = {key: value for key, value in ours.items() if value != usual[key]}
        if own.get("test_size") == CROP:  # as all were tested before there was a choice
            del own["test_size"]
        key = json.dumps([recipe.network, own, self.fingerprint], sort_keys=True)
        short = hashlib.sha256(key.encode()).hexdigest()[:8]
        words = [slug(self.data), recipe.network, f"{recipe.steps}steps", f"seed{recipe.seed}"]
        return "-".join([*words, short] + ["curve"] * self.curve)

    def result(self, folder: Path) -> Result | None:
        """The finished result, if there is one. One with a curve serves where none is asked for."""
        for name in (self.name, replace(self, curve=True).name):
            if (folder / f"{name}.json").exists():
                found: Result = read_json(folder / f"{name}.json")
                return found
        return None

    def measurement(self, folder: Path, key: str) -> Path:
        """The file of what is measured on its weights, a protocol's errors or responses. A curve
        changes no weight."""
        return folder / f"{replace(self, curve=False).name}-{key}.json"

    def there(self, folder: Path, key: str) -> bool:
        """Whether what a table asks for is kept already: the result, or a measurement."""
        if key == "error_top1":
            return self.result(folder) is not None
        return self.measurement(folder, key).exists()

    def trained(self, runs: Path) -> Path | None:
        """The folder of its finished run, if there is one."""
        folders = [runs / name for name in (self.name, replace(self, curve=True).name)]
        return next((run for run in folders if (run / "result.json").exists()), None)

    def begin(self, runs: Path, data: Data, where: dict[str, str], how: ComputeConfig) -> Path:
        """The folder of its run: made, unless it was made before and has been interrupted."""
        run = runs / self.name
        if not (run / "recipe.json").exists():
            begin(run, self.recipe, data, where, how, self.curve)
        return run

    def keep(self, run: Path, folder: Path, data: Data) -> Path:
        """Copy the result of a finished run to where tables are drawn from."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{run.name}.json"
        if not path.exists():
            write_json(path, read_json(run / "result.json") | {"pictures": pictures(data)})
        return path


def pictures(data: Data) -> dict[str, int]:
    """How much data it is: pictures in each set, and classes."""
    sets = {name: len(own) for name in ("train", "val", "test") if (own := getattr(data, name))}
    return sets | {"classes": len(data.classes)}


IMAGENET = {"train": 1_281_167, "val": 50_000, "classes": 1_000}  # Sec. 4.1


def is_imagenet(result: Result) -> bool:
    """Whether a result is on as much data as the paper's, and so beside it as its equal."""
    return result.get("pictures") == IMAGENET


def data_title(result: Result) -> str:
    """The data by name. Photographs of whatever folder carry their fingerprint, too."""
    name, fingerprint = result["data"]["name"], result["data"]["fingerprint"]
    if model_spec(result["recipe"]["network"]).input_size == 32:
        return str(name)
    short = fingerprint.removeprefix("quick-")[:8]
    return f"{'ImageNet' if is_imagenet(result) else name} (fingerprint {short})"


def slug(name: str) -> str:
    """A name as a part of a file's name: `CIFAR-10 (JPEG copy)` becomes `cifar-10-jpeg-copy`."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def recipes(networks: Sequence[str], data: str, steps: int | None, seeds: int) -> list[Recipe]:
    """Each network's own recipe, for so many seeds, with its own steps or others.

    Steps are of the paper's batch; a network with another batch sees as many images.
    """
    found = []
    for network in networks:
        recipe = recipe_for(network, data)
        if steps:
            recipe = with_steps(recipe, max(1, round(steps * usual_batch(network) / recipe.batch)))
        found += [replace(recipe, seed=seed) for seed in range(seeds)]
    return found


def usual_batch(network: str) -> int:
    """The paper's, of networks that look at such pictures (Sec. 3.4 and 4.2)."""
    return IMAGENET_RECIPE.batch if takes_photographs(network) else CIFAR_RECIPE.batch


def steps_of(recipe: Recipe, data: str) -> int:
    """Steps of the paper's batch; a compared network that was trained by the whole of its own
    schedule stands beside the paper's that were."""
    usual, spec = recipe_for(recipe.network, data), model_spec(recipe.network)
    if spec.family == "rival" and recipe.steps == usual.steps:
        return (IMAGENET_RECIPE if takes_photographs(recipe.network) else CIFAR_RECIPE).steps
    return round(recipe.steps * usual.batch / usual_batch(recipe.network))


@cache
def cost_of(network: str, size: int) -> tuple[int, int]:
    """Parameters, and multiply-adds for one image (3, size, size)."""
    return cost(build_meta(network), size)


def with_depths(networks: Sequence[str], depths: Sequence[int]) -> list[str]:
    """The networks of these depths; all of them where no depth is asked for."""
    return [name for name in networks if not depths or model_spec(name).depth in depths]


def kept(folder: Path, key: str = "error_top1") -> list[Result]:
    """Every result in a folder that has this key, by the name of its file."""
    return [found for path in sorted(folder.glob("*.json")) if key in (found := read_json(path))]


def budgets(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results that may stand in one table: of one data set, one number of steps, and the paper's
    recipe or one change of it, which is in the title."""
    found: dict[str, list[Result]] = {}
    for result in results:
        recipe = from_json(result["recipe"])
        usual = with_steps(recipe_for(recipe.network, result["data"]["name"]), recipe.steps)
        ours, theirs = to_json(recipe), to_json(replace(usual, seed=recipe.seed))
        changes = [f"{name} {ours[name]}" for name in ours if ours[name] != theirs[name]]
        steps = steps_of(usual, result["data"]["name"])
        words = [data_title(result), f"{steps:,} steps", *changes]
        found.setdefault(", ".join(words), []).append(result)
    return dict(sorted(found.items()))


def by_network(results: Sequence[Result]) -> Callable[[str], list[Result]]:
    """The results of a network, one for each seed."""

    def of(network: str) -> list[Result]:
        seeds = {r["recipe"]["seed"]: r for r in results if r["recipe"]["network"] == network}
        return [seeds[seed] for seed in sorted(seeds)]

    return of
