"""Trains, evaluates and stores the results that a table or a figure needs."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from residual.cli.options import loaded
from residual.cli.progress import ProgressOptions, asked_to_stop, of_classes, with_progress

if TYPE_CHECKING:
    from residual.data.datasets import Data
    from residual.device import ComputeConfig
    from residual.reproduction.experiments import Experiment
    from residual.training.recipe import Recipe


@dataclass(frozen=True)
class Place:
    """Where and how missing results are made."""

    name: str  # of the data
    root: Path
    how: "ComputeConfig"
    results: Path
    runs: Path
    side_by_side: int  # trainings; 0: as many as a short trial shows to pay
    workers: int

    def data(self, large: bool) -> "Data":
        """As networks for photographs, or for small pictures, look at it."""
        return loaded(self.name, self.root, 224 if large else 32, self.workers, large)

    def has_photographs(self) -> bool:
        """Whether the first picture of a folder that can be read is no smaller than a crop."""
        from residual.data.decode import DamagedImage

        if self.name in ("digits", "cifar10"):
            return False
        pictures = self.data(large=True).train
        for i in range(len(pictures)):
            with suppress(DamagedImage):
                return min(pictures.image(i).size) >= 224  # type: ignore[union-attr]
        return False


@dataclass(frozen=True)
class Workshop:
    """Makes missing results on some data. Of many processes the first decides what is missing."""

    place: Place
    data: "Data"

    def supply(self, recipes: "list[Recipe]", curve: bool, key: str) -> None:
        """Train what is missing: finished results are used, interrupted runs go on."""
        from residual.distributed import current_world
        from residual.reproduction import evaluations
        from residual.reproduction.experiments import Experiment

        data, results, runs = self.data, self.place.results, self.place.runs
        wanted = [Experiment(recipe, data.name, data.fingerprint, curve) for recipe in recipes]
        joined = evaluations.ensemble_file(wanted, results)

        def absent() -> list[Experiment]:
            if key == evaluations.ENSEMBLE:
                return [] if joined.exists() else wanted
            return [each for each in wanted if not each.there(results, own(each))]

        def own(each: Experiment) -> str:
            return evaluations.key_of(key, each.recipe.network)

        missing = current_world().on_first(absent)
        untrained = current_world().on_first(lambda: [e for e in missing if not e.trained(runs)])
        self._train(untrained)
        trained = current_world().on_first(
            lambda: [(e, e.trained(runs) or runs / e.name) for e in missing]
        )
        for each, run in trained:
            current_world().on_first(partial(each.keep, run, results, data))
            if key != evaluations.ENSEMBLE:
                path = each.measurement(results, own(each))
                self._measure(own(each), [run], path, each.recipe.network)
        if key == evaluations.ENSEMBLE and trained:
            self._measure(key, [run for _, run in trained], joined, f"{len(trained)} together")

    def _measure(self, key: str, runs: list[Path], path: Path, name: str) -> None:
        """What a table needs besides the result of a training."""
        from residual.cli.progress import counting
        from residual.distributed import current_world
        from residual.reproduction import evaluations, figure7
        from residual.storage import write_json
        from residual.tasks.classification.inference import InferenceOptions

        if key == "error_top1":
            return
        how = self.place.how.in_float32()
        if key == figure7.KEY:
            found = figure7.measured_on(runs[0], self.data, how)
        else:
            with counting(f"evaluating {name}") as progress:
                work = InferenceOptions(
                    how, self.place.workers, 0, progress if current_world().rank == 0 else None
                )
                found = evaluations.judged(runs, self.data, key, work)
        current_world().on_first(lambda: write_json(path, found))

    def _train(self, missing: "list[Experiment]") -> None:
        from residual.distributed import current_world
        from residual.tasks.classification.train import found_again

        place, where = self.place, found_again(self.place.name, self.place.root)
        if (side_by_side := current_world().on_first(lambda: self._side_by_side(missing))) > 1:
            self._train_at_once(missing, where, side_by_side)
            return
        for n, each in enumerate(missing, start=1):
            run = current_world().on_first(
                partial(each.begin, place.runs, self.data, where, place.how)
            )
            title = f"{each.recipe.network}, seed {each.recipe.seed} ({n} of {len(missing)})"
            advance = of_classes(run, self.data)
            with_progress(title, each.recipe.steps, advance, ProgressOptions(5.0, place.workers))

    def _side_by_side(self, missing: "list[Experiment]") -> int:
        """How many of these trainings go on at once."""
        from residual.distributed import current_world
        from residual.tasks.classification.autotune import side_by_side

        place = self.place
        if current_world().size > 1 and place.side_by_side > 1:
            raise ValueError("trainings side by side are those of one process; leave out torchrun")
        if place.side_by_side or current_world().size > 1 or len(missing) < 2:
            return place.side_by_side
        recipes, cache = [each.recipe for each in missing], place.root / "trials.json"
        return side_by_side(place.how, recipes, len(self.data.classes), cache.expanduser())

    def _train_at_once(
        self, missing: "list[Experiment]", where: dict[str, str], side_by_side: int
    ) -> None:
        """Several trainings, each in a process of its own; they share the device and the cores."""
        place = self.place
        own = replace(place.how, threads=max(1, place.how.threads // side_by_side))
        runs = [each.begin(place.runs, self.data, where, own) for each in missing]
        ended = at_once(runs, side_by_side)
        for run, status in ended.items():
            if status:
                raise ValueError(f"{run} ended with status {status}; go on with the same command")


def at_once(runs: list[Path], n: int) -> dict[Path, int]:
    """Resume runs in n processes at a time -> their exit statuses. A signal is passed on to all of
    them; each saves its run, and the command ends."""
    from residual.cli.progress import SideBySide

    waiting, working, ended = list(runs), dict[Path, "subprocess.Popen[str]"](), dict[Path, int]()
    with asked_to_stop() as caught, SideBySide(len(runs)) as display:
        while working or (waiting and not caught):
            while waiting and len(working) < n and not caught:
                run = waiting.pop(0)
                working[run] = subprocess.Popen(
                    [sys.executable, "-m", "residual", "resume", str(run), "--json"],
                    stdout=subprocess.DEVNULL, stderr=display.stderr, text=True,
                    errors="replace", start_new_session=True,
                )  # fmt: skip
                display.follow(run.name, working[run].stderr)
            if caught:
                for process in working.values():
                    process.send_signal(signal.SIGTERM)
                ended |= {run: process.wait() for run, process in working.items()}
                raise typer.Exit(128 + caught[0])
            time.sleep(0.2)
            done = {r: p.returncode for r, p in working.items() if p.poll() is not None}
            ended |= done
            working = {run: process for run, process in working.items() if run not in done}
            display.show(len(ended), partial(progress_of, list(working)))
    return ended


def progress_of(runs: list[Path]) -> Iterator[tuple[str, str]]:
    """The name and the progress of each run, from the last line of its log."""
    from residual.cli.progress import described
    from residual.runs import folder

    for run in runs:
        lines = folder.read_log(run / "log.jsonl")
        steps = folder.recipe_of(run).steps
        yield run.name, described(lines[-1], lines[-1]["step"], steps) if lines else "first steps"
