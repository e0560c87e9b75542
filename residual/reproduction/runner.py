"""Trains and evaluates the experiments that have no stored result yet, for both tasks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from residual.analysis.responses import measure_responses
from residual.data.datasets import Data, Progress
from residual.data.sources import data_source
from residual.device import ComputeConfig, hardware_name
from residual.distributed import current_world
from residual.reproduction.experiments import (
    ENSEMBLE,
    MULTISCALE,
    RESPONSES,
    Experiment,
    finished_run,
    with_splits,
)
from residual.reproduction.results import Result
from residual.runs.autotune import trainings_at_once
from residual.runs.environment import versions
from residual.runs.load import Trained
from residual.storage import FORMAT, read_json, write_json
from residual.tasks.classification import evaluate, inference, throughput
from residual.tasks.classification import train as classifier
from residual.tasks.classification.load import load
from residual.tasks.classification.protocols import PROTOCOLS
from residual.tasks.detection import datasets
from residual.tasks.detection import evaluate as detection
from residual.tasks.detection import load as detectors
from residual.tasks.detection import train as detector
from residual.training.events import Event, RunOptions

Advance = Callable[[RunOptions], Iterator[Event]]


@dataclass(frozen=True)
class Place:
    """The data, the folders and the machine of a reproduction."""

    data: str
    root: Path
    config: ComputeConfig
    results: Path
    runs: Path
    side_by_side: int = 0  # trainings at once; 0: as many as a short trial shows to pay
    workers: int = 0

    @property
    def source(self) -> dict[str, str]:
        """The location of the data, as a run stores it."""
        return data_source(self.data, self.root)


class RunDisplay(Protocol):
    """Runs long work and shows its progress."""

    def train(self, title: str, steps: int, advance: Advance) -> object: ...
    def resume(self, runs: Sequence[Path], at_once: int) -> None: ...
    def progress(self, title: str) -> AbstractContextManager[Progress]: ...
    def notice(self, text: str) -> None: ...


@dataclass(frozen=True)
class ClassifierTrainer:
    """Classification on one data set."""

    place: Place
    display: RunDisplay
    data: Data

    def bind(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        return [on_data(e, self.data) for e in experiments]

    def begin(self, run: Path, recipe: Any, curve: bool, config: ComputeConfig) -> None:
        classifier.begin(run, recipe, self.data, self.place.source, config, test_curve=curve)

    def advance(self, run: Path, recipe: Any) -> Advance:
        return partial(classifier.advance, run, self.data)

    def side_by_side(self, recipes: Sequence[Any]) -> int:
        place, processes = self.place, current_world().size
        if processes > 1 and place.side_by_side > 1:
            raise ValueError("--side-by-side needs a single process; leave out torchrun")
        if place.side_by_side or processes > 1 or len(recipes) < 2:
            return place.side_by_side
        cache = (place.root / "trials.json").expanduser()
        first, classes = recipes[0], len(self.data.classes)
        measure = partial(throughput.seconds_per_step, recipe=first, classes=classes)
        key, steps = partial(throughput.trial_key, recipe=first), [r.steps for r in recipes]
        return trainings_at_once(place.config, steps, measure, key, cache)

    @property
    def size(self) -> Result:
        """The field of a result with the number of pictures of each split, and of classes."""
        splits = {name: getattr(self.data, name) for name in ("train", "val", "test")}
        sizes = {name: len(images) for name, images in splits.items() if images}
        return {"pictures": sizes | {"classes": len(self.data.classes)}}

    def evaluate(self, experiment: Experiment, runs: Sequence[Path]) -> Result:
        config, measure = self.place.config.in_float32(), experiment.measure
        trainings = [read_json(run / "result.json") for run in runs]
        networks = [load(run) for run in runs]
        shared = ("recipe", "data", "setting", "weights_sha256")
        result = {"format": FORMAT} | {key: trainings[0][key] for key in shared}
        if measure == RESPONSES:
            result |= {key: trainings[0][key] for key in ("versions", "hardware")}
            responses = measure_responses(networks[0].placed(config), self.data, config)
            return result | {RESPONSES: responses, "split": self.data.headline}
        protocol = PROTOCOLS[MULTISCALE if measure == ENSEMBLE else measure]
        if measure == ENSEMBLE:
            result["weights_sha256"] = [training["weights_sha256"] for training in trainings]
        with self.display.progress(f"evaluating {', '.join(experiment.networks)}") as progress:
            work = inference.InferenceOptions(config, self.place.workers, progress=progress)
            record, *_ = evaluate.evaluate_ensemble(networks, self.data, None, protocol, work)
        machine = {"versions": versions(), "hardware": hardware_name(config)}
        return result | {measure: record} | self.size | machine


@dataclass(frozen=True)
class DetectorTrainer:
    """Detection on the splits of one data set."""

    place: Place
    display: RunDisplay
    weights: dict[str, Trained]  # that recipes begin with, by network
    loaded: dict[Any, datasets.DetectionData] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.place.data).expanduser()

    @property
    def size(self) -> Result:
        return {}  # average precision has it

    def bind(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        """Raises ValueError if the data allows none of the experiments."""
        for system in sorted({e.system for e in experiments if e.pretraining}):
            self.display.notice(
                f"{system}: train it with residual detect train --weights, after the pretraining"
            )
        names = datasets.splits(self.folder)
        fitted = with_splits(experiments, names)
        needed = {split for e in fitted for split in splits_of(e.recipe)}
        absent = {split for split in needed if not datasets.has_split(self.folder, split)}
        possible = [e for e in fitted if not absent & set(splits_of(e.recipe))]
        if not possible:
            raise ValueError(
                f"{self.folder} has no split {' and no '.join(sorted(absent))}; it has "
                f"{', '.join(names)}; use --set train_split=... --set test_split=..."
            )
        for split in sorted(absent):
            self.display.notice(
                f"{self.folder} has no split {split}; detectors that need it are left out"
            )
        possible = [replace(e, recipes=tuple(map(self.with_weights, e.recipes))) for e in possible]
        for e in possible:
            detector.check(e.recipe, self.place.config)
        return [on_data(e, self.data(e.recipe)) for e in possible]

    def with_weights(self, recipe: Any) -> Any:
        """The recipe with the initial weights for its network, if there are any."""
        weights = self.weights.get(recipe.network)
        if weights and recipe.norm == "frozen":
            return detector.from_weights(recipe, weights)
        return recipe

    def data(self, recipe: Any) -> datasets.DetectionData:
        """The splits of a recipe, read once."""
        key = (*splits_of(recipe), recipe.reading)
        if key not in self.loaded:
            self.loaded[key] = detector.load_data(recipe, self.place.source)
        return self.loaded[key]

    def begin(self, run: Path, recipe: Any, curve: bool, config: ComputeConfig) -> None:
        start = self.weights.get(recipe.network) if recipe.start else None
        detector.begin(run, recipe, self.data(recipe), self.place.source, config, start)

    def advance(self, run: Path, recipe: Any) -> Advance:
        return partial(detector.advance, run, self.data(recipe))

    def side_by_side(self, recipes: Sequence[Any]) -> int:
        return 1

    def evaluate(self, experiment: Experiment, runs: Sequence[Path]) -> Result:
        networks, scenes = [detectors.load(run) for run in runs], self.data(experiment.recipe).test
        with self.display.progress(f"evaluating {experiment.system}") as progress:
            work = detection.EvalOptions(
                self.place.config.in_float32(), self.place.workers, progress, current_world()
            )
            result = detection.evaluate(networks, scenes, experiment.testing, work)
        for damage in result["damaged"]:
            self.display.notice(f"{damage}; nothing is found on it")
        shared = ("format", "recipe", "versions", "hardware", "setting", "finished")
        training = read_json(runs[0] / "result.json")
        return {key: training[key] for key in shared} | result


Trainer = ClassifierTrainer | DetectorTrainer


def run(groups: dict[str, list[Experiment]], trainer: Trainer) -> dict[str, set[str]]:
    """Train what is missing, continue interrupted runs, and store the results -> for each table
    and figure the fingerprints of the data that it was evaluated on.

    One training serves every table and figure. Of several processes the first decides what is
    missing.
    """
    results, first = trainer.place.results, current_world().on_first
    curve = any(e.curve for experiments in groups.values() for e in experiments)
    bound = {
        name: trainer.bind([replace(e, curve=curve) for e in experiments])
        for name, experiments in groups.items()
    }
    unique = dict.fromkeys(e for experiments in bound.values() for e in experiments)
    missing = first(lambda: [e for e in unique if not e.stored(results)])
    train(missing, trainer)
    for experiment in missing:
        runs = first(partial(store_trainings, experiment, trainer))
        if experiment.needs_evaluation:
            result = trainer.evaluate(experiment, runs)
            first(partial(write_json, results / experiment.file, result))
    first(partial(name_other_precisions, unique, trainer))

    def fingerprints(experiments: Sequence[Experiment]) -> set[str]:
        paths = [path for e in experiments if (path := e.stored(results))]
        return {read_json(path)["data"]["fingerprint"] for path in paths}

    return {name: first(partial(fingerprints, some)) for name, some in bound.items()}


def name_other_precisions(experiments: Iterable[Experiment], trainer: Trainer) -> None:
    """Say which results come from a training in another precision than is asked for."""
    results, asked = trainer.place.results, trainer.place.config.precision
    for path in filter(None, (e.stored(results) for e in experiments)):
        trained = read_json(path).get("setting", {}).get("precision", asked)  # old files lack it
        if asked not in ("auto", trained):
            trainer.display.notice(
                f"{path} is the result of a training in {trained}; to train in {asked}, name other "
                "folders with --results and --runs"
            )


def train(experiments: Sequence[Experiment], trainer: Trainer) -> None:
    """Train every recipe that has no finished run."""
    place, first = trainer.place, current_world().on_first
    missing = first(
        lambda: {
            place.runs / name: (recipe, e.curve)
            for e in experiments
            for name, recipe in zip(e.runs, e.recipes, strict=True)
            if not finished_run(place.runs, name)
        }
    )
    at_once = first(lambda: trainer.side_by_side([recipe for recipe, _ in missing.values()]))
    config = place.config
    if at_once > 1:
        config = replace(config, threads=max(1, config.threads // at_once))
    for n, (path, (recipe, curve)) in enumerate(missing.items(), start=1):
        if not first((path / "recipe.json").exists):
            first(partial(trainer.begin, path, recipe, curve, config))
        if at_once <= 1:
            title = f"{recipe.network}, seed {recipe.seed} ({n} of {len(missing)})"
            trainer.display.train(title, recipe.steps, trainer.advance(path, recipe))
    if at_once > 1:
        trainer.display.resume(list(missing), at_once)


def store_trainings(experiment: Experiment, trainer: Trainer) -> list[Path]:
    """Copy the results of the finished runs to the folder from which tables are drawn -> the
    folders of the runs."""
    place = trainer.place
    place.results.mkdir(parents=True, exist_ok=True)
    runs = [path for name in experiment.runs if (path := finished_run(place.runs, name))]
    for path in runs:
        file = place.results / f"{path.name}.json"
        if not file.exists():
            write_json(file, read_json(path / "result.json") | trainer.size)
    return runs


def on_data(experiment: Experiment, data: Data | datasets.DetectionData) -> Experiment:
    """The experiment with the name and the fingerprint of its data."""
    return replace(experiment, data=data.name, fingerprint=data.fingerprint)


def splits_of(recipe: Any) -> tuple[str, str]:
    return recipe.train_split, recipe.test_split
