"""The command `reproduce`: prints the paper's tables and figures with our results."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.options import (
    Data_,
    Deterministic,
    Device,
    Precision,
    Root,
    Threads,
    Workers,
    compute_config,
    load_pictures,
    load_trained,
    usage_errors,
)
from residual.cli.progress import (
    Display,
    ProgressOptions,
    counting,
    joined,
    log_text,
    stop_signals,
    with_progress,
)
from residual.storage import DEFAULT_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from residual.data.datasets import Data, Progress
    from residual.reproduction.experiments import Experiment
    from residual.reproduction.runner import Advance, Place

    Experiments = dict[str, list[Experiment]]  # by table or figure

IMAGENET = ("table2", "table3", "table4", "table5", "figure4")
BOXES = ("table7", "table8", "table9", "table10", "table11")
ALL = ("table1", *IMAGENET[:4], "table6", *BOXES, "figure1", "figure4", "figure6", "figure7")


def reproduce(
    words: Annotated[
        list[str], typer.Argument(metavar="what", help=f"{', '.join(ALL)}, demo or all.")
    ],
    data: Data_ = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings of each network.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps, instead of the paper's.")
    ] = None,
    depths: Annotated[
        list[str] | None, typer.Option(help="Only these depths; 1202 is trained only if named.")
    ] = None,
    networks: Annotated[
        list[str] | None, typer.Option(help="Only these networks, like resnet18-A plain18.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="field=value: changes the paper's recipe."),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--only-print", help="Train nothing; print stored results.")
    ] = False,
    side_by_side: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of trainings at once; small nets leave a GPU idle. 0: the number that is "
            "fastest in a short trial on the processor.",
        ),
    ] = 0,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs/reproduce"),
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Files of weights that detectors begin with, one per network."),
    ] = None,
    root: Root = DEFAULT_ROOT,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Precision = "auto",
    deterministic: Deterministic = False,
) -> None:
    """Train what is missing; print tables and draw figures.

    Example: residual reproduce figure6 --data cifar10 --depths 20 56 --seeds 3
    """
    from residual.reproduction.catalog import CATALOG, NOT_COVERED
    from residual.reproduction.experiments import Request
    from residual.reproduction.runner import Place

    chosen, numbers, names = scope_of(words, depths or [], networks or [])
    everything = "all" in words
    request = Request(data or ("digits" if "demo" in words else "cifar10"), steps, seeds, numbers)
    with usage_errors():
        # Of `all`, detectors are printed and not trained.
        trained = [name for name in chosen if not (everything and name in BOXES)]
        experiments = {
            name: [
                part.changed(set_ or [])
                for experiment in CATALOG[name].experiments(request)
                if (part := experiment.narrowed(names))
            ]
            for name in trained
        }
        if not any(experiments.values()) and (names or numbers):
            raise ValueError(f"{' and '.join(chosen)} has no such network")
        if data is None and not only_print:
            check_data_named(words)
    with joined() as world:
        config = compute_config(device, threads, precision, deterministic)
        place = Place(request.data, root, config, results, runs, side_by_side, workers)
        fingerprints: dict[str, set[str]] = {}
        if not only_print:
            fingerprints = train_missing(experiments, place, weights or [], everything)
        if world.rank == 0:
            for name in chosen:
                show(name, results, fingerprints.get(name, set()), steps)
    if everything:
        print(f"Not covered: {NOT_COVERED}.")


def scope_of(
    words: list[str], depths: list[str], networks: list[str]
) -> tuple[list[str], list[int], list[str]]:
    """Tables and figures, depths and networks; none of these two means all.

    Accepts `--depths 20 56`, `--depths 20,56` and repeated options; `--networks` likewise.
    """
    from residual.models.registry import BASELINES, model_spec
    from residual.models.resnet import NAME

    numbers = [word for word in words if word.isdecimal()]
    numbers += [part for text in depths for part in text.split(",")]
    nets = [name for text in networks for name in text.split(",")]
    nets += [word for word in words if networks and (NAME.fullmatch(word) or word in BASELINES)]
    names = [word for word in words if word not in (*numbers, *nets)]
    for name in names:
        if name not in (*ALL, "demo", "all"):
            raise typer.BadParameter(
                f"{name} is not a table or figure that is covered; choose from "
                f"{', '.join(ALL)}, demo and all"
            )
    if not all(number.isdecimal() for number in numbers):
        raise typer.BadParameter(f"depths are numbers such as 20 56, not {' '.join(numbers)}")
    with usage_errors():
        chosen = [model_spec(name).name for name in nets]
    entries = list(ALL) if "all" in names else list(dict.fromkeys(names))
    return entries, sorted(map(int, numbers)), chosen


def check_data_named(words: list[str]) -> None:
    """Raises ValueError for tables and figures that need a folder of data."""
    for name in words:
        if name in IMAGENET:
            raise ValueError(f"{name} needs photographs; name a folder of them with --data")
        if name in BOXES:
            raise ValueError(
                f"{name} needs pictures with boxes; name a folder of them with --data, or print "
                f"stored results with --only-print"
            )


def train_missing(
    experiments: "Experiments", place: "Place", weights: list[Path], everything: bool
) -> dict[str, set[str]]:
    """Train and evaluate missing experiments -> the data fingerprints of each table and figure.

    Of `all`, photographs serve the ImageNet networks, other data the CIFAR networks, and no
    detectors are trained.
    """
    from residual.distributed import current_world
    from residual.reproduction.runner import ClassifierTrainer, DetectorTrainer, run
    from residual.tasks.classification.train import takes_photographs

    display = ProgressDisplay(place.workers, current_world().rank == 0)
    fingerprints: dict[str, set[str]] = {}
    kinds = [has_photographs(place)] if everything else [False, True]
    for large in kinds:
        group = {
            name: [
                e for e in some if not everything or takes_photographs(e.recipe.network) == large
            ]
            for name, some in experiments.items()
            if some and name not in BOXES and (name in IMAGENET) == large
        }
        if any(group.values()):
            trainer = ClassifierTrainer(place, display, data_of(place, large))
            fingerprints |= run(group, trainer)
    if boxes := {name: some for name, some in experiments.items() if some and name in BOXES}:
        initial = {network.network: network for network in map(load_trained, weights)}
        fingerprints |= run(boxes, DetectorTrainer(place, display, initial))
    return fingerprints


def data_of(place: "Place", large: bool) -> "Data":
    """The data for networks that take photographs, or for those that take small images."""
    return load_pictures(place.data, place.root, 224 if large else 32, place.workers, large)


def has_photographs(place: "Place") -> bool:
    """Whether the first readable picture of a folder is at least as large as a crop."""
    from residual.data.decode import DamagedImage

    if place.data in ("digits", "cifar10"):
        return False
    pictures = data_of(place, large=True).train
    for i in range(len(pictures)):
        with suppress(DamagedImage):
            return min(pictures.image(i).size) >= 224  # type: ignore[union-attr]
    return False


def show(name: str, results: Path, fingerprints: set[str], steps: int | None) -> None:
    """Print a table, and the files of a figure, for each data set and budget."""
    from residual.reproduction.catalog import CATALOG, pages

    drawn = list(pages(name, results, results / "figures", steps, fingerprints))
    for page in drawn:
        print(f"\n{name}: {page.title}\n\n{page.table}\n")
        for figure in page.figures:
            print(figure)
    if not drawn:
        print(f"\n{name}\n\n{CATALOG[name].table([])}")


@dataclass(frozen=True)
class ProgressDisplay:
    """Runs trainings and evaluations with progress on stderr."""

    workers: int
    is_first: bool  # of several processes, only the first one shows anything

    def train(self, title: str, steps: int, advance: "Advance") -> None:
        with_progress(title, steps, advance, ProgressOptions(5.0, self.workers))

    def progress(self, title: str) -> "AbstractContextManager[Progress]":
        return counting(title, self.is_first)

    def notice(self, text: str) -> None:
        Display(self.is_first).notice(text)

    def resume(self, runs: "Sequence[Path]", at_once: int) -> None:
        """Resume runs in several processes. After a signal each of them saves its run, and the
        command ends; after a second one, at once. Raises ValueError if one of them fails."""
        waiting, failed, readers = list(runs), dict[Path, int](), list[Thread]()
        working: dict[Path, subprocess.Popen[str]] = {}
        with stop_signals() as signals, Display() as display:
            try:
                while (waiting or working) and not signals:
                    while waiting and len(working) < at_once:
                        run = waiting.pop(0)
                        working[run] = start_resume(run, pipe=display.live)
                        what = run.name, working[run].stderr, display
                        readers.append(Thread(target=print_lines, args=what, daemon=True))
                        readers[-1].start()
                    time.sleep(0.2)
                    failed |= {run: code for run, p in working.items() if (code := p.poll())}
                    working = {run: p for run, p in working.items() if p.returncode is None}
                    if display.live and display.due(1):
                        done = len(runs) - len(waiting) - len(working)
                        display.update("trainings", done, len(runs), f"{done} of {len(runs)} done")
                        show_logs(list(working), display)
            finally:
                for process in working.values():
                    process.send_signal(signal.SIGTERM)
                for process in working.values():
                    process.wait()
                for reader in readers:
                    reader.join()
        if signals:
            raise typer.Exit(128 + signals[0])
        for run, code in failed.items():
            raise ValueError(f"{run} ended with status {code}; go on with the same command")


def start_resume(run: Path, pipe: bool) -> "subprocess.Popen[str]":
    """A process that resumes a run; it gets signals only from here."""
    words = [sys.executable, "-m", "residual", "resume", str(run), "--json"]
    stderr = subprocess.PIPE if pipe else None
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=stderr, errors="replace", start_new_session=True
    )


def print_lines(name: str, lines: "Iterable[str] | None", display: Display) -> None:
    """Print the lines of a training, except those of its progress."""
    for line in lines or ():
        if not line.startswith(f"{name}: "):
            display.print(line.rstrip())


def show_logs(runs: "Sequence[Path]", display: Display) -> None:
    """A bar for each run, with the last line of its log."""
    from residual.runs import folder

    for name in display.tasks.keys() - {"trainings", *(run.name for run in runs)}:
        display.bars.remove_task(display.tasks.pop(name))
    for run in runs:
        lines, steps = folder.read_log(run / "log.jsonl"), folder.recipe_values(run)["steps"]
        step = lines[-1]["step"] if lines else 0
        details = log_text(lines[-1], step, steps) if lines else "first steps"
        display.update(run.name, step, steps, details)
