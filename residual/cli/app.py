"""The command `residual`. Each command is a plain function; this file lists them."""

import atexit
import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import typer

from residual.cli import (
    benchmark,
    convert,
    data,
    detect,
    evaluate,
    export,
    models,
    reproduce,
    runs,
    train,
)


def group(text: str) -> typer.Typer:
    """Commands under one name."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


app = group("Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015).")
DEBUG = "--debug" in sys.argv  # a traceback with every error

INTERRUPTED = 128 + signal.SIGINT


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with what goes wrong said in one sentence and in the exit status."""

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
            raise typer.Exit(INTERRUPTED) from None

    return run


def say(text: str) -> None:
    """A line on stderr, where somebody reads it."""
    with suppress(OSError):
        typer.echo(f"residual: {text}", err=True)


def sentence(error: Exception) -> str:
    """An error in one line. An error of an unexpected kind is called a fault of residual."""
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
    return f"{kind}{text and f': {text}'} (this is a fault of residual; --debug shows where)"


for each in (
    models.networks,
    models.describe,
    train.train,
    runs.resume,
    train.statistics,
    evaluate.evaluate,
    export.predict,
    export.export,
    evaluate.report,
    evaluate.responses,
    reproduce.reproduce,
    convert.convert,
):
    app.command()(one_sentence(each))

of_data = group("Check, prepare and pack folders of pictures.")
of_data.command()(one_sentence(data.check))
of_data.command()(one_sentence(data.pack))
prepare = group("Put a public data set in its form, from its archives.")
for data_set in (data.imagenet, data.voc, data.coco):
    prepare.command()(one_sentence(data_set))
of_data.add_typer(prepare, name="prepare")
app.add_typer(of_data, name="data")
of_boxes = group("Object detection: Faster R-CNN on these networks (Section 4.3).")
for command in (detect.train, detect.evaluate, detect.predict):
    of_boxes.command()(one_sentence(command))
app.add_typer(of_boxes, name="detect")
measure = group("What this machine does, stage by stage, and what holds it back.")
for of_speed in (benchmark.train, benchmark.predict, benchmark.data):
    measure.command()(one_sentence(of_speed))
app.add_typer(measure, name="benchmark")


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
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the first free number
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, errors="backslashreplace"))  # noqa: PTH123, SIM115


def flush() -> bool:
    """Flush stdout and stderr -> False where that fails, except in a pipe whose reader has ended.

    A stream that failed is redirected to /dev/null: otherwise the interpreter flushes it again at
    its end, and changes the exit status.
    """
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            whole = whole and isinstance(error, BrokenPipeError)
    return whole
