"""Where what the tables about detection ask for is made: trained, judged and kept."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from residual.cli.detect import of_detector
from residual.cli.progress import ProgressOptions, with_progress
from residual.cli.workshop import Place

if TYPE_CHECKING:
    from residual.reproduction.detections import Detection
    from residual.reproduction.detectors import Made
    from residual.runs.load import Trained
    from residual.tasks.detection.recipe import Reading


def supply(wanted: "list[Detection]", place: Place, weights: list[Path]) -> set[str]:
    """Make what is missing -> the fingerprints of the data that it is on."""
    from residual.distributed import current_world
    from residual.reproduction.detectors import Made
    from residual.tasks.detection.datasets import DetectionData
    from residual.tasks.detection.train import check, load

    folder = Path(place.name).expanduser()
    begun = {net.network: net for net in map(opened, weights)}
    splits: dict[tuple[str, str, Reading], DetectionData] = {}
    marks: set[str] = set()
    own = [replace(each, recipe=begun_with(each, begun)) for each in possible(wanted, folder)]
    for each in own:
        check(each.recipe, place.how)
    for each in own:
        key = each.recipe.train_split, each.recipe.test_split, each.recipe.reading
        if key not in splits:
            splits[key] = load(folder, each.recipe)
        data = splits[key]
        made = Made(each, data.name, data.fingerprint)
        marks.add(data.test.fingerprint)
        if current_world().on_first(made.file(place.results).exists):
            continue
        runs = [train(made, seed, data, place, begun) for seed in range(each.members)]
        if not made.plain:
            judge(made, runs, data, place)
    return marks


def possible(wanted: "list[Detection]", folder: Path) -> "list[Detection]":
    """What can be made of a folder; what cannot is said. Raises ValueError where nothing can."""
    from residual.reproduction.detectors import fitting
    from residual.tasks.detection.datasets import has_split, splits

    before = {each.system.words for each in wanted if each.before}
    for words in sorted(before):
        say(f"{words}: train that first, and then with --weights: residual detect train --help")
    found, lacking = [], set()
    for each in fitting(wanted, splits(folder)):
        absent = {
            split
            for split in (each.recipe.train_split, each.recipe.test_split)
            if not has_split(folder, split)
        }
        lacking |= absent
        found += [] if absent else [each]
    there = ", ".join(splits(folder))
    if not found:
        raise ValueError(
            f"{folder} has no split {' and no '.join(sorted(lacking))}; it has {there}; say --set "
            f"train_split=... --set test_split=..."
        )
    for split in sorted(lacking):
        say(f"{folder} has no split {split}; what needs it is left out")
    return found


def say(sentence: str) -> None:
    from residual.distributed import current_world

    if current_world().rank == 0:
        typer.echo(f"residual: {sentence}", err=True)


def opened(path: Path) -> "Trained":
    from residual.cli.options import opened

    return opened(path)


def begun_with(each: "Detection", begun: "dict[str, Trained]") -> Any:
    """The recipe, with the weights that it begins with, where there are some for its network."""
    from residual.tasks.detection.train import from_weights

    own = begun.get(each.recipe.network)
    return from_weights(each.recipe, own) if own and each.recipe.norm == "frozen" else each.recipe


def train(made: "Made", seed: int, data: Any, place: Place, begun: "dict[str, Trained]") -> Path:
    """A finished run: made, or gone on with, unless it is there."""
    from residual.distributed import current_world
    from residual.reproduction.detectors import keep
    from residual.tasks.detection.train import begin

    run, recipe = place.runs / made.run(seed), made.member(seed)
    start = begun.get(recipe.network) if recipe.start else None
    where = {"where": str(Path(place.name).expanduser().resolve()), "root": str(place.root)}

    def new() -> None:
        if not (run / "recipe.json").exists():
            begin(run, recipe, data, where, place.how, start)

    current_world().on_first(new)
    title = f"{recipe.network}, seed {recipe.seed}"
    with_progress(title, recipe.steps, of_detector(run, data), ProgressOptions(5.0, place.workers))
    current_world().on_first(lambda: keep(run, place.results / f"{run.name}.json"))
    return run


def judge(made: "Made", runs: list[Path], data: Any, place: Place) -> None:
    """What a table asks for besides the result of a training."""
    from residual.cli.progress import counting
    from residual.distributed import current_world
    from residual.reproduction.detectors import measured
    from residual.storage import read_json, write_json
    from residual.tasks.detection.evaluate import Work
    from residual.tasks.detection.evaluate import judge as judged
    from residual.tasks.detection.load import load

    how = place.how.in_float32()
    with counting(f"judging {made.wanted.system.words}") as progress:
        work = Work(
            how, place.workers, progress if current_world().rank == 0 else None, current_world()
        )
        found = judged([load(run) for run in runs], data.test, made.wanted.testing, work)
    first = current_world().on_first(lambda: read_json(runs[0] / "result.json"))
    current_world().on_first(lambda: write_json(made.file(place.results), measured(first, found)))
    for sentence in found["damaged"]:
        typer.echo(f"residual: {sentence}; nothing is found on it", err=True)
