"""The command `residual`. Each command is a plain function; this file lists them."""

import atexit
import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from residual import __version__
from residual.cli import (
    benchmark,
    convert,
    data,
    detect,
    evaluate,
    export,
    models,
    predict,
    reproduce,
    runs,
    serve,
    train,
)

DEBUG = "--debug" in sys.argv  # a traceback with every error


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with one sentence on stderr and an exit status for each error."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if DEBUG:
                raise
            if not isinstance(error, BrokenPipeError):
                say(sentence(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("interrupted; what a run had saved before is whole")
            raise typer.Exit(128 + signal.SIGINT) from None

    return run


def say(text: str) -> None:
    """Print a line on stderr, if it is open."""
    with suppress(OSError):
        typer.echo(f"residual: {text}", err=True)


def sentence(error: Exception) -> str:
    """An error in one line. An error of an unexpected kind is reported as a fault of residual."""
    kind = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:1] if isinstance(error, RuntimeError) else lines)  # torch says much
    foreseen = isinstance(error, ValueError | OSError | ArithmeticError | RuntimeError)
    if foreseen and text:
        return text
    if isinstance(error, MemoryError):
        return f"the memory of this machine does not suffice{text and f': {text}'}"
    if isinstance(error, ImportError) and not (error.name or "").startswith("residual"):
        return f"{text}; pip install 'residual-learning[all]' has what a command may need"
    return f"{kind}{text and f': {text}'} (this is a bug in residual; --debug shows the traceback)"


def group(text: str, *commands: Callable[..., None]) -> typer.Typer:
    """Commands under one name."""
    group = typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in commands:
        group.command()(one_sentence(command))
    return group


app = group(
    "Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015).",
    *(models.networks, models.describe, train.train, runs.resume, train.statistics),
    *(evaluate.evaluate, evaluate.report, evaluate.responses),
    *(predict.predict, predict.explain, export.export, serve.serve),
    *(reproduce.reproduce, convert.convert),
)
data_sets = group("Check, prepare and pack folders of pictures.", data.check, data.pack)
public = "Prepare a public data set from its archives."
data_sets.add_typer(group(public, data.imagenet, data.voc, data.coco), name="prepare")
app.add_typer(data_sets, name="data")
detection = "Object detection by Faster R-CNN (Section 4.3)."
commands = detect.train, detect.evaluate, detect.predict
app.add_typer(group(detection, *commands), name="detect")
speed = "Measure training, prediction and data loading speed."
app.add_typer(group(speed, benchmark.train, benchmark.predict, benchmark.data), name="benchmark")


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"residual {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """The options of `residual` itself."""


def main() -> None:
    """The entry point. `--debug` may stand anywhere."""
    sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
    open_closed()
    if isinstance(sys.stdout, TextIOWrapper):  # a file's name may be anything; so is it on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        if not flush() and not end.code:
            say("what is printed cannot be written")
            end.code = 1
        # `join` sets WORLD_SIZE; where distributed.py is not loaded, nobody has called it.
        among = "residual.distributed" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1"
        if not among or not isinstance(end.code, int | None):
            raise
        # Threads of gloo's may outlive their group and abort a process whose interpreter winds up,
        # after all is done: one among others therefore ends at once.
        atexit._run_exitfuncs()
        flush()
        os._exit(end.code or 0)


def open_closed() -> None:
    """Open closed standard streams on /dev/null. Otherwise a file that is opened later takes the
    number of one, and what is printed is written into the file."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the first free number
            if null != number:
                os.dup2(null, number)
                os.close(null)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, errors="backslashreplace"))  # noqa: PTH123, SIM115


def flush() -> bool:
    """Flush stdout and stderr -> whether that succeeds; a pipe that nobody reads is no failure.

    A stream that failed is redirected to /dev/null: otherwise the interpreter flushes it again at
    its end, and changes the exit status.
    """
    success = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            success = success and isinstance(error, BrokenPipeError)
    return success
