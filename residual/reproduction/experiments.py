"""Defines the experiments of tables and figures, and the names of their files."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from residual.models.registry import model_spec
from residual.tasks.classification.recipe import (
    CIFAR,
    CROP,
    IMAGENET,
    ClassificationRecipe,
    with_steps,
)
from residual.tasks.classification.train import recipe_for, takes_photographs
from residual.tasks.detection import recipe as detection
from residual.tasks.detection.recipe import Testing, multiscale_sizes
from residual.training.recipe import parse_assignment, to_json

# Measures: the key in a result file. The name of a protocol is a measure, too.
ERROR, RESPONSES, AP = "error_top1", "responses", "ap"
ENSEMBLE, MULTISCALE = "ensemble", "multiscale"
PUBLISHED_PROTOCOLS = {  # in place of the paper's multi-scale test, for networks of other papers
    "vgg19": "dense",
    "googlenet": "144crop",
    "bn-inception": "144crop",
    "prelu-net-C": "multiview",
}


@dataclass(frozen=True)
class Request:
    """The scope of a reproduction."""

    data: str = ""  # its name, on which recipes depend
    steps: int | None = None  # of the paper's batch; None: as many as the recipe has
    seeds: int = 1
    depths: Sequence[int] = ()  # empty: those of the paper


@dataclass(frozen=True)
class Experiment:
    """One network that is trained and then evaluated, or several as an ensemble.

    The files are named by all fields that can change the result, so equal experiments share them.
    """

    recipes: tuple[Any, ...]  # of either task
    measure: str = ERROR
    testing: Testing = field(default_factory=Testing)  # of detectors
    pretraining: str = ""  # the detection recipe by which the initial weights were trained
    curve: bool = False  # the test error is measured during the training
    data: str = ""
    fingerprint: str = ""

    @property
    def recipe(self) -> Any:
        return self.recipes[0]

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(recipe.network for recipe in self.recipes)

    @property
    def system(self) -> str:
        """The name of a detector with its improvements."""
        recipe, testing = self.recipe, self.testing
        improvements = testing.refinement, recipe.context, bool(testing.scales)
        return system_name(recipe.network, *improvements, self.pretraining, len(self.recipes))

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the run folders."""
        return tuple(self._run(recipe) + "-curve" * self.curve for recipe in self.recipes)

    @property
    def needs_evaluation(self) -> bool:
        """Whether the result of the training is not yet the result of the experiment."""
        if self.measure == AP:
            return self.testing != Testing() or len(self.recipes) > 1
        return self.measure != ERROR

    @property
    def file(self) -> str:
        """The name of the result file. A curve changes no weights, so it is named only for the
        result of the training itself."""
        parts = [self._run(self.recipe)]
        if self.measure == ERROR:
            parts = [*self.runs]
        elif self.measure == ENSEMBLE:
            members = sorted(f"{self._run(recipe)}-{MULTISCALE}.json" for recipe in self.recipes)
            steps = max(recipe.steps for recipe in self.recipes)
            parts = [slug(self.data), f"ensemble-of-{len(members)}", f"{steps}steps"]
            parts += [short_hash("\n".join(members)), MULTISCALE]
        elif self.measure == AP:
            parts += ["refined"] * self.testing.refinement
            parts += ["multiscale"] * bool(self.testing.scales)
            parts += [f"{len(self.recipes)}together"] * (len(self.recipes) > 1)
        else:
            parts += [self.measure]
        return f"{'-'.join(parts)}.json"

    def stored(self, results: Path) -> Path | None:
        """The result file, if it exists. A result with a curve serves where none is needed."""
        names = (self.file, replace(self, curve=True).file)
        return next((results / name for name in names if (results / name).exists()), None)

    def narrowed(self, networks: Sequence[str]) -> "Experiment | None":
        """The experiment with some of its networks, if it has any of them; with all if none are
        given."""
        recipes = tuple(r for r in self.recipes if not networks or r.network in networks)
        return replace(self, recipes=recipes) if recipes else None

    def changed(self, assignments: Sequence[str]) -> "Experiment":
        """The experiment with other values in fields of its recipes; a seed is that of the first
        member, and the others keep their distance to it. Raises ValueError for an unknown field."""
        changes = dict(parse_assignment(type(self.recipe), text) for text in assignments)
        shift = changes.pop("seed", self.recipe.seed) - self.recipe.seed
        recipes = (replace(r, **changes, seed=r.seed + shift) for r in self.recipes)
        return replace(self, recipes=tuple(recipes))

    def _run(self, recipe: Any) -> str:
        """Only fields that differ from the defaults count, so that a new field renames nothing."""
        defaults = to_json(type(recipe)(recipe.network))
        values = {key: v for key, v in to_json(recipe).items() if v != defaults[key]}
        if values.get("test_size") == CROP:  # what it was before it became a field
            del values["test_size"]
        key = json.dumps([recipe.network, values, self.fingerprint], sort_keys=True)
        kind = ["detector"] * isinstance(recipe, detection.DetectionRecipe)
        parts = [slug(self.data), *kind, recipe.network, f"{recipe.steps}steps"]
        return "-".join([*parts, f"seed{recipe.seed}", short_hash(key)])


def finished_run(runs: Path, name: str) -> Path | None:
    """The folder of a finished run, if there is one. A run with a curve serves as one without."""
    paths = (runs / name, runs / f"{name}-curve")
    return next((path for path in paths if (path / "result.json").exists()), None)


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """A name as part of a file name: `CIFAR-10 (JPEG copy)` becomes `cifar-10-jpeg-copy`."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def recipes(networks: Sequence[str], request: Request) -> list[ClassificationRecipe]:
    """The recipe of each network for each seed. With a batch other than the paper's, the steps are
    scaled so that as many images are seen; a baseline's full schedule is its own."""
    chosen = []
    for network in networks:
        recipe = recipe_for(network, request.data)
        if request.steps and request.steps != paper_steps(recipe, request.data):
            steps = round(request.steps * paper_recipe(network).batch / recipe.batch)
            recipe = with_steps(recipe, max(1, steps))
        chosen += [replace(recipe, seed=seed) for seed in range(request.seeds)]
    return chosen


def classifiers(
    networks: Sequence[str], request: Request, measure: str = ERROR, curve: bool = False
) -> list[Experiment]:
    """An experiment for each network and seed."""
    return [
        Experiment((recipe,), measure_of(measure, recipe.network), curve=curve)
        for recipe in recipes(networks, request)
    ]


def measure_of(measure: str, network: str) -> str:
    """The protocol by which a network is evaluated where a table has this one."""
    return PUBLISHED_PROTOCOLS.get(network, measure) if measure == MULTISCALE else measure


def with_depths(networks: Sequence[str], depths: Sequence[int]) -> list[str]:
    """The networks of these depths; all of them if no depth is given."""
    return [name for name in networks if not depths or model_spec(name).depth in depths]


def paper_recipe(network: str) -> ClassificationRecipe:
    """The paper's recipe for networks of such images (Sec. 3.4 and 4.2)."""
    return IMAGENET if takes_photographs(network) else CIFAR


def paper_steps(recipe: ClassificationRecipe, data: str) -> int:
    """The training length in steps of the paper's batch. A baseline that was trained by the full
    schedule of its own publication counts as trained by the paper's full schedule."""
    default, paper = recipe_for(recipe.network, data), paper_recipe(recipe.network)
    if model_spec(recipe.network).family == "baseline" and recipe.steps == default.steps:
        return paper.steps
    return round(recipe.steps * default.batch / paper.batch)


def detectors(
    name: str,
    request: Request,
    networks: Sequence[str],
    testing: Testing | None = None,
    context: bool = False,
    pretraining: str = "",
    members: int = 1,
) -> list[Experiment]:
    """Detectors of a named recipe: an experiment for each network and seed. The members of an
    ensemble are trained with as many seeds."""
    recipe = detection.RECIPES[name]
    if request.steps:
        recipe = detection.with_steps(recipe, request.steps)
    ensembles = [
        [replace(recipe, network=name, seed=seed + n, context=context) for n in range(members)]
        for name in networks
        for seed in range(request.seeds)
    ]
    return [Experiment(tuple(e), AP, testing or Testing(), pretraining) for e in ensembles]


def detector_networks(depths: Sequence[int]) -> list[str]:
    """The backbones of the paper, or ResNets of the given depths."""
    return [f"resnet{depth}" for depth in depths] or ["vgg16", "resnet101"]


def system_name(
    network: str,
    refinement: bool = False,
    context: bool = False,
    multiscale: bool = False,
    pretraining: str = "",
    members: int = 1,
) -> str:
    """For example `ResNet-101, box refinement, context`."""
    improvements = {
        "box refinement": refinement,
        "context": context,
        "multi-scale testing": multiscale,
        f"trained on {pretraining} before": bool(pretraining),
        f"{members} together": members > 1,
    }
    title = network.replace("resnet", "ResNet-").replace("vgg", "VGG-")
    return ", ".join([title, *(name for name, used in improvements.items() if used)])


def with_splits(experiments: Iterable[Experiment], splits: Sequence[str]) -> list[Experiment]:
    """Detectors as they can be trained on data with these splits: on trainval if the data has no
    years, and tested at scales in proportion to those of the training. Experiments that become
    equal are one; those with pretraining are left out (see `residual detect train --weights`)."""
    fitted: dict[Any, Experiment] = {}
    defaults = {"train_split": "trainval", "test_split": "test"}
    changes = defaults if set(defaults.values()) <= set(splits) else {}
    for experiment in experiments:
        if experiment.pretraining:
            continue
        recipes = tuple(replace(recipe, **changes) for recipe in experiment.recipes)
        testing, recipe = experiment.testing, recipes[0]
        if testing.scales:
            testing = replace(testing, scales=multiscale_sizes(recipe.shorter))
        fit = replace(experiment, recipes=recipes, testing=testing)
        key = recipe.network, recipe.seed, recipe.context, recipe.train_split, recipe.test_split
        fitted.setdefault((*key, testing, len(recipes)), fit)
    return list(fitted.values())
