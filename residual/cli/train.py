"""The commands `train` and `resume`."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import (
    CACHE,
    Data_,
    Deterministic,
    Device,
    Json,
    Precision,
    Root,
    Threads,
    Workers,
    loaded,
    setting_of,
    wrong_usage,
)
from residual.cli.progress import Display
from residual.files import read_json

if TYPE_CHECKING:
    from residual.data.images import Data
    from residual.training.recipe import Recipe

Record = Callable[[dict[str, Any]], None]
Minutes = Annotated[float, typer.Option(min=0, help="Minutes between two checkpoints.")]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard into the run, too.")
]


def train(
    network: Annotated[str, typer.Argument(help="The network's name: see `residual networks`.")],
    data: Data_ = "digits",
    recipe: Annotated[
        str, typer.Option(help="cifar, cifar-deep or digits; auto goes by network and data.")
    ] = "auto",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Another budget; drops and warm-up keep their proportions."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the recipe; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Start, order and augmentation.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/<network>-<n>.")
    ] = None,
    test_curve: Annotated[
        bool, typer.Option("--test-curve", help="Look at the test set during training, too.")
    ] = False,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Root = CACHE,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Precision = "auto",
    deterministic: Deterministic = False,
    as_json: Json = False,
) -> None:
    """Train a network of the paper; without options, on the bundled handwritten digits.

    Example: residual train resnet20 --data cifar10
    """
    from residual.nets.networks import specify
    from residual.runs import folder
    from residual.runs.training import begin, found_again, trainable

    name = data or "digits"
    chosen = recipe_of(network, name, recipe, steps, seed, set_ or [])
    how = setting_of(device, threads, precision, deterministic)
    run = out or folder.named(chosen.network, Path("runs"))
    if (run / "recipe.json").exists():
        raise ValueError(f"{run} holds a run already; go on with: residual resume {run}")
    trainable(chosen.network)
    size = specify(chosen.network).input_size
    pictures = loaded(name, root, size, workers)
    begin(run, chosen, pictures, found_again(name, root), how, test_curve)
    carry_on(run, pictures, checkpoint_minutes, tensorboard, as_json)


def recipe_of(
    network: str, data: str, name: str, steps: int | None, seed: int, assignments: list[str]
) -> "Recipe":
    """The recipe that the command line asks for. What it cannot mean is a wrong command line."""
    from residual.runs.training import recipe_for
    from residual.training.recipe import parsed, with_steps

    with wrong_usage():
        recipe = recipe_for(network, data, name)
        if steps is not None:
            recipe = with_steps(recipe, steps)
        return replace(recipe, **{"seed": seed} | dict(map(parsed, assignments)))


def resume(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    data: Data_ = None,
    out: Annotated[
        Path | None, typer.Option(help="Go on in a copy of the run, and leave this one as it is.")
    ] = None,
    inexact: Annotated[
        bool, typer.Option("--inexact", help="Go on although versions or the machine differ.")
    ] = False,
    checkpoint_minutes: Minutes = 5.0,
    tensorboard: Tensorboard = False,
    root: Annotated[Path | None, typer.Option(help="Where data sets lie now.")] = None,
    device: Annotated[str | None, typer.Option(help="Another device than before.")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="Other threads than before.")] = None,
    workers: Workers = 2,
    precision: Annotated[str | None, typer.Option(help="Another precision than before.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with a run where it stopped; it ends exactly as if it had not.

    Example: residual resume runs/resnet20-1
    """
    from residual.nets.networks import specify
    from residual.runs import folder
    from residual.runs.resuming import copied, exact, known_of, move, same_data
    from residual.runs.training import found_again
    from residual.world import Setting

    known, recipe = known_of(run), folder.recipe_of(run)
    if (run / "result.json").exists():
        typer.echo(f"residual: {run} is finished; no step is left to take", err=True)
        finished(run, read_json(run / "result.json"), as_json)
        return
    before = Setting(**known["setting"])
    chosen = setting_of(
        device or before.device,
        before.threads if threads is None else threads,
        precision or before.precision,
        before.deterministic,
    )
    how = replace(before, **{f: getattr(chosen, f) for f in ("device", "threads", "precision")})
    if not inexact:
        exact(run, known, how)
    where = found_again(data or known["data"]["where"], root or Path(known["data"]["root"]))
    size = specify(recipe.network).input_size
    pictures = loaded(where["where"], Path(where["root"]), size, workers)
    same_data(run, known, pictures)
    run = copied(run, out) if out else run
    move(run, known, where, how)
    carry_on(run, pictures, checkpoint_minutes, tensorboard, as_json)


def carry_on(run: Path, data: "Data", minutes: float, tensorboard: bool, as_json: bool) -> None:
    """Take the steps that remain, show them, and print how it ended."""

    watched(run.name, run, data, minutes, recorder(run) if tensorboard else None)
    finished(run, read_json(run / "result.json"), as_json)


def watched(
    title: str, run: Path, data: "Data", minutes: float, record: Record | None = None
) -> None:
    """Take the steps that remain, and show them. A signal saves the run and ends the command."""
    from residual.runs import folder
    from residual.runs.session import Stopped, Watch
    from residual.runs.training import advance

    steps = folder.recipe_of(run).steps
    with asked_to_stop() as caught, Display(title, steps) as display:
        try:
            for moment in advance(run, data, Watch(minutes, stop=lambda: bool(caught))):
                if moment.notice:
                    display.notice(moment.notice)
                display.show(moment.step, moment.line)
                if record and moment.line:
                    record(moment.line)
        except Stopped as stopped:
            display.notice(str(stopped))
            raise typer.Exit(128 + caught[0]) from None


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Gathers SIGINT and SIGTERM. The first asks; one that comes a second or more later kills as
    usual, so that an impatient Ctrl-C, Ctrl-C loses nothing."""
    caught: list[int] = []
    asked: list[float] = []
    usual = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        caught.append(number)
        asked.append(time.monotonic())
        if asked[-1] - asked[0] >= 1:
            signal.signal(number, usual[signal.Signals(number)])
            signal.raise_signal(number)

    for each in usual:
        signal.signal(each, note)
    try:
        yield caught
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)


def recorder(run: Path) -> Record:
    """Writes lines of the log for TensorBoard. Raises ValueError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "TensorBoard is not installed; pip install 'residual-learning[tensorboard]'"
        ) from None
    writer = SummaryWriter(str(run / "tensorboard"))

    def record(line: dict[str, Any]) -> None:
        for name in ("loss", "train_error", "test_error", "lr", "images_per_second"):
            if name in line:
                writer.add_scalar(name, line[name], line["step"])

    return record


def finished(run: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print how a run ended."""
    steps = result["recipe"]["steps"]
    if as_json:
        keys = ("seen", "wrong_top1", "error_top1", "weights_sha256")
        print(json.dumps({"run": str(run), "step": steps} | {key: result[key] for key in keys}))
        return
    print(
        f"{result['recipe']['network']} after {steps:,} steps on {result['data']['name']}: "
        f"{result['error_top1']:.2f} % error, {result['wrong_top1']:,} of {result['seen']:,} "
        f"{result['data']['split']} images wrong, one view each"
    )
    print(f"{run} has it; see: residual report {run}")
