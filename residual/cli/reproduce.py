"""The command `reproduce`: every table and figure again, ours beside the paper's."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import (
    CACHE,
    Data_,
    Deterministic,
    Device,
    Precision,
    Root,
    Threads,
    Workers,
    loaded,
    setting_of,
    wrong_usage,
)
from residual.cli.train import asked_to_stop, watched

if TYPE_CHECKING:
    from residual.data.images import Data
    from residual.reproduction.experiments import Experiment
    from residual.training.recipe import Recipe
    from residual.world import Setting

BUILT = ("table1", "table6", "figure1", "figure6", "figure7")
GAPS = ("table2", "table3", "table4", "table5", "figure4", "tables 7 to 14")


def reproduce(
    what: Annotated[list[str], typer.Argument(help=f"{', '.join(BUILT)}, demo or all.")],
    data: Data_ = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many trainings of each network.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Another budget than 64,000.")] = None,
    depths: Annotated[
        list[str] | None, typer.Option(help="Only these depths; 1202 comes only when it is named.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="field=value: another recipe than the paper's."),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--only-print", help="Train nothing; print what there is.")
    ] = False,
    side_by_side: Annotated[
        int, typer.Option(min=1, help="So many trainings at once; small nets leave a GPU idle.")
    ] = 1,
    results: Annotated[Path, typer.Option(help="Where results are kept.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/reproduce"),
    root: Root = CACHE,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Precision = "auto",
    deterministic: Deterministic = False,
) -> None:
    """Print tables and draw figures of the paper, after training what is missing.

    Example: residual reproduce figure6 --data cifar10 --depths 20 56 --seeds 3
    """
    from residual.runs.training import found_again

    chosen, only = asked(what, depths or [])
    how = setting_of(device, threads, precision, deterministic)
    modules = [import_module(f"residual.reproduction.{name}") for name in chosen]
    name = data or ("digits" if "demo" in what else "cifar10")
    with wrong_usage():
        recipes = [varied(module.runs(name, steps, seeds, only), set_ or []) for module in modules]
    fingerprint = None
    if any(recipes) and not only_print:
        pictures = loaded(name, root, 32, workers)
        shop = Workshop(pictures, found_again(name, root), how, results, runs, side_by_side)
        fingerprint = shop.data.fingerprint
        curve = any(module.CURVE for module in modules)  # one training serves every table
        for module, wanted in zip(modules, recipes, strict=True):
            shop.supply(wanted, curve, responses=module.KEY == "responses")

    for each, module in zip(chosen, modules, strict=True):
        show(each, module, results, fingerprint, steps)
    if "all" in what:
        print(f"Not built yet: {', '.join(GAPS)}.")


def show(
    what: str, module: ModuleType, results: Path, fingerprint: str | None, steps: int | None
) -> None:
    """Print a table, and the files of a figure, for each data set and budget that is asked for."""
    from residual.reproduction.document import pages

    def asked_for(result: dict[str, Any]) -> bool:
        return fingerprint in (None, result["data"]["fingerprint"]) and (
            steps in (None, result["recipe"]["steps"])
        )

    there = list(pages(what, results, results / "figures", asked_for))
    for page in there:
        print(f"\n{what}: {page.title}\n\n{page.table}\n")
        for figure in page.figures:
            print(figure)
    if not there:
        print(f"\n{what}\n\n{module.table([])}")


def asked(what: list[str], depths: list[str]) -> tuple[list[str], list[int]]:
    """The tables and figures, and the depths: `--depths 20 56`, `--depths 20,56` or repeated."""
    numbers = [word for word in what if word.isdecimal()]
    numbers += [part for words in depths for part in words.split(",")]
    names = [word for word in what if not word.isdecimal()]
    for name in names:
        if name not in (*BUILT, "demo", "all"):
            gap = " is not built yet" if name in GAPS else " is no table or figure of the paper"
            raise typer.BadParameter(f"{name}{gap}; there are {', '.join(BUILT)}, demo and all")
    if not all(number.isdecimal() for number in numbers):
        raise typer.BadParameter(f"depths are numbers such as 20 56, not {' '.join(numbers)}")
    return list(BUILT) if "all" in names else names, sorted(map(int, numbers))


def varied(recipes: "list[Recipe]", assignments: list[str]) -> "list[Recipe]":
    """The recipes with other values in some fields. Raises ValueError for unknown ones."""
    from residual.training.recipe import parsed

    changes = dict(map(parsed, assignments))
    return [replace(recipe, **changes) for recipe in recipes]


@dataclass(frozen=True)
class Workshop:
    """Where missing results are made."""

    data: "Data"
    where: dict[str, str]
    how: "Setting"
    results: Path
    runs: Path
    side_by_side: int

    def supply(self, recipes: "list[Recipe]", curve: bool, responses: bool) -> None:
        """Train what is missing: finished results are used, interrupted runs go on."""
        from residual.reproduction.experiments import Experiment
        from residual.reproduction.figure7 import measure, responses_file

        data = self.data
        wanted = [Experiment(recipe, data.name, data.fingerprint, curve) for recipe in recipes]
        missing = [
            each
            for each in wanted
            if not (
                responses_file(each, self.results).exists()
                if responses
                else each.result(self.results)
            )
        ]
        self._train(
            [each for each in missing if not (self.runs / each.name / "result.json").exists()]
        )
        for each in missing:
            each.keep(self.runs / each.name, self.results)
            if responses:
                measure(each, self.runs / each.name, data, self.how, self.results)

    def _train(self, missing: "list[Experiment]") -> None:
        if self.side_by_side > 1:
            self._train_at_once(missing)
            return
        for n, each in enumerate(missing, start=1):
            run = each.begin(self.runs, self.data, self.where, self.how)
            title = f"{each.recipe.network}, seed {each.recipe.seed} ({n} of {len(missing)})"
            watched(title, run, self.data, 5.0)

    def _train_at_once(self, missing: "list[Experiment]") -> None:
        """Several trainings, each in a process of its own; they share the device and the cores."""
        each_its_threads = replace(self.how, threads=max(1, self.how.threads // self.side_by_side))
        runs = [e.begin(self.runs, self.data, self.where, each_its_threads) for e in missing]
        ended = at_once(runs, self.side_by_side)
        for run, status in ended.items():
            if status:
                raise ValueError(f"{run} ended with status {status}; go on with the same command")


def at_once(runs: list[Path], n: int) -> dict[Path, int]:
    """Resume runs in n processes at a time -> their exit statuses. A signal is passed on to all of
    them; each saves its run, and the command ends."""
    waiting, working, ended = list(runs), dict[Path, "subprocess.Popen[bytes]"](), dict[Path, int]()
    with asked_to_stop() as caught:
        while working or (waiting and not caught):
            while waiting and len(working) < n and not caught:
                run = waiting.pop(0)
                command = [sys.executable, "-m", "residual", "resume", str(run), "--json"]
                working[run] = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, start_new_session=True
                )
            if caught:
                for process in working.values():
                    process.send_signal(signal.SIGTERM)
                ended |= {run: process.wait() for run, process in working.items()}
                raise typer.Exit(128 + caught[0])
            time.sleep(0.2)
            done = {r: p.returncode for r, p in working.items() if p.poll() is not None}
            ended |= done
            working = {run: process for run, process in working.items() if run not in done}
    return ended
