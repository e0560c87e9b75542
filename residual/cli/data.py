"""The commands about folders of pictures: `data check` and `data prepare imagenet`."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.options import BoxFrame, BoxUnit, Json
from residual.storage import json_text

if TYPE_CHECKING:
    from residual.preparation.check import Report
    from residual.preparation.imagenet import Report as Prepared

FEW = 20  # so many classes, or missing pictures, are listed one by one


def check(
    folder: Annotated[
        Path, typer.Argument(help="With train/, val/ or test/, with classes, or with boxes.")
    ],
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that read pictures; 0 takes every core.")
    ] = 0,
    draw: Annotated[
        int, typer.Option(min=0, help="Draw so many pictures with their boxes on one sheet.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="The file of the sheet.")] = Path("boxes.png"),
    box_frame: BoxFrame = None,
    box_unit: BoxUnit = None,
    as_json: Json = False,
) -> None:
    """Find damaged pictures in a folder, and count classes.

    Also told is what is changed in pictures when they are read, and what looks like a mistake:
    classes that are empty or very unequal, equal pictures. A folder of PASCAL VOC's form or of
    COCO's is looked through for boxes that cannot be, too. The exit status is 1 where any picture
    is damaged, or any box, and where training would refuse the folder.

    Example: residual data check photos
    """
    from residual.cli import boxes
    from residual.data.packed import is_packed
    from residual.tasks.detection.datasets import detect_format

    if is_packed(str(folder)):
        raise ValueError(f"{folder} holds packed data, which was checked when it was packed")

    workers = workers or os.cpu_count() or 1
    if detect_format(folder):
        reading = boxes.reading_of(box_frame, box_unit)
        boxes.check(folder, workers, as_json, (draw, out), reading)
    elif draw or box_frame or box_unit:
        option = "--draw" if draw else "--box-frame" if box_frame else "--box-unit"
        raise typer.BadParameter(f"{option} is for boxes, and {folder} is of no form that has them")
    else:
        check_classes(folder, workers, as_json)


def check_classes(folder: Path, workers: int, as_json: bool) -> None:
    """`data check` for a folder of classes."""
    from residual.cli.progress import counting
    from residual.preparation.check import check as checked

    with counting("checking pictures") as progress:
        report = checked(folder, workers, progress)
    if as_json:
        print(json_text(asdict(report) | {"seen": report.seen}))
    else:
        for line in told(report):
            print(line.encode(errors="backslashreplace").decode())  # a file's name may be anything
    if report.damaged:
        n = f"{len(report.damaged):,} of {report.seen:,}"
        typer.echo(f"residual: {n} pictures in {folder} are damaged", err=True)
    if report.refusal:
        typer.echo(f"residual: training refuses {folder}: {report.refusal}", err=True)
    if report.damaged or report.refusal:
        raise typer.Exit(1)


def told(report: "Report") -> Iterator[str]:
    """A report as a person reads it: what is most urgent comes last, where a terminal stays."""
    from residual.storage import display_name

    yield f"{report.folder}: {report.seen:,} pictures, {len(report.damaged):,} damaged"
    yield from sizes(report)
    notes = {
        "pictures of another format than their name says, read as what they are": report.misnamed,
        "files without a picture's ending, left out": report.others,
        "pictures in no class folder, left out": report.outside,
        "folders that are named like pictures": report.folders,
    }
    yield from remarks(report.converted, notes, report.warnings)
    if report.damaged:
        yield "\nDamaged:"
        for each in report.damaged:
            yield f"  {each.kind:<12} {display_name(each.path)} (class {each.label}): {each.reason}"


def remarks(
    converted: Mapping[str, int], notes: Mapping[str, Collection[str]], warnings: Sequence[str]
) -> Iterator[str]:
    """What is no damage: what reading changes, what is odd, and what looks like a mistake."""
    from residual.storage import summarize

    if converted:
        yield "\nChanged when they are read:"
        yield from (f"  {n:>9,}  {change}" for change, n in converted.items())
    if any(notes.values()):
        yield "\nNotes:"
        yield from (f"  {what} {summarize(list(files))}" for what, files in notes.items() if files)
    if warnings:
        yield "\nWarnings:"
        yield from (f"  {warning}" for warning in warnings)


def sizes(report: "Report") -> Iterator[str]:
    """How many whole pictures each class has in each set; of many classes, the extremes."""
    classes = list(next(iter(report.sets.values()), {}))
    if len(classes) > FEW:
        for name, own in report.sets.items():
            least, most = min(own, key=own.__getitem__), max(own, key=own.__getitem__)
            yield (
                f"  {name}: {sum(own.values()):,} whole pictures in {len(own):,} classes, from "
                f"{own[least]:,} ({least}) to {own[most]:,} ({most})"
            )
        return
    wide = max(map(len, ["all classes", *classes]))
    yield f"\n{'':{wide}}" + "".join(f"{name:>10}" for name in report.sets)
    for label in classes:
        yield f"{label:{wide}}" + "".join(f"{own[label]:>10,}" for own in report.sets.values())
    totals = "".join(f"{sum(own.values()):>10,}" for own in report.sets.values())
    yield f"{'all classes':{wide}}{totals}"


def imagenet(
    source: Annotated[Path, typer.Argument(help="Where the archives or folders lie.")],
    to: Annotated[
        Path | None, typer.Argument(metavar="DST", help="A folder; if left out, SOURCE/imagenet.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sort ImageNet (ILSVRC 2012) into train/ and val/.

    Takes the official archives, a flat validation folder with the devkit, Kaggle's layout, or a
    sorted tree; says what is missing then. Goes on where it was interrupted. Changes nothing in
    SOURCE; files are hard-linked where that can be.

    Example: residual data prepare imagenet downloads imagenet
    """
    from residual.cli.progress import counting
    from residual.preparation.imagenet import imagenet as prepared

    report = prepared(source, to, counting=counting)
    if as_json:
        print(json_text(asdict(report) | {"complete": report.complete}))
    else:
        for line in judgement(report):
            print(line)
    if not report.complete:
        typer.echo(f"residual: {report.folder} is not the whole ImageNet", err=True)
        raise typer.Exit(1)


def judgement(report: "Prepared") -> Iterator[str]:
    """What was prepared as a person reads it."""
    wanted = asdict(report.expected)
    for name in ("train", "val"):
        if name not in report.pictures:
            yield f"{report.folder}/{name}: not there, and nothing to make it of"
            continue
        yield (
            f"{report.folder}/{name}: {report.pictures[name]:,} of {wanted[name]:,} pictures in "
            f"{report.classes[name]:,} of {wanted['classes']:,} classes"
        )
    for what, names in (("missing", report.missing), ("superfluous", report.superfluous)):
        for name in names[:FEW]:
            yield f"  {what}: {name}"
        if len(names) > FEW:
            yield f"  {what}: {len(names) - FEW:,} more"
