"""The command `residual`. Each command is a plain function; this file lists them."""

import atexit
import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer

from residual.cli import (
    benchmark,
    boxes,
    convert,
    data,
    deploy,
    detect,
    detections,
    evaluate,
    networks,
    pack,
    reproduce,
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
        except (ValueError, OSError, ArithmeticError) as error:
            if DEBUG:
                raise
            if isinstance(error, BrokenPipeError):
                raise typer.Exit(1) from None
            typer.echo(f"residual: {error}", err=True)
            raise typer.Exit(1) from None
        except RuntimeError as error:
            if DEBUG or isinstance(error, typer.Exit | typer.Abort):
                raise
            typer.echo(f"residual: {str(error).splitlines()[0]}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("residual: interrupted; what a run had saved before is whole", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return run


for each in (
    networks.networks,
    networks.describe,
    train.train,
    train.resume,
    train.statistics,
    evaluate.evaluate,
    deploy.predict,
    deploy.export,
    evaluate.report,
    evaluate.responses,
    reproduce.reproduce,
    convert.convert,
):
    app.command()(one_sentence(each))

of_data = group("Check, prepare and pack folders of pictures.")
of_data.command()(one_sentence(data.check))
of_data.command()(one_sentence(pack.pack))
prepare = group("Put a public data set in its form, from its archives.")
for data_set in (data.imagenet, boxes.voc, boxes.coco):
    prepare.command()(one_sentence(data_set))
of_data.add_typer(prepare, name="prepare")
app.add_typer(of_data, name="data")
of_boxes = group("Object detection: Faster R-CNN on these networks (Section 4.3).")
for command in (detect.train, detections.evaluate, detections.predict):
    of_boxes.command()(one_sentence(command))
app.add_typer(of_boxes, name="detect")
measure = group("What this machine does, stage by stage, and what holds it back.")
for of_speed in (benchmark.train, benchmark.predict, benchmark.data):
    measure.command()(one_sentence(of_speed))
app.add_typer(measure, name="benchmark")


def main() -> None:
    """The entry point. `--debug` may stand anywhere."""
    sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app()
    except SystemExit as end:
        # Whoever joined others has their number here; where launch.py is not loaded, nobody did.
        among = "residual.launch" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1"
        if not among or not isinstance(end.code, int | None):
            raise
        # Threads of gloo's may outlive their group and abort a process whose interpreter winds up,
        # after all is done: one among others therefore ends at once.
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code or 0)
