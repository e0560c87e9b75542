"""What `data check` and `data prepare` do with pictures that have boxes."""

import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.data import FEW, remarks
from residual.cli.options import Json, wrong_usage
from residual.storage import json_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from residual.preparation.check_boxes import Report
    from residual.preparation.voc_coco import Report as Prepared
    from residual.tasks.detection.recipe import Reading

NAMES = {"voc": "PASCAL VOC", "coco": "COCO"}
Source = Annotated[Path, typer.Argument(help="Where the archives lie.")]


# ---- data check ---------------------------------------------------------------------------------


def reading_of(box_frame: str | None, box_unit: str | None) -> "Reading":
    """How boxes are read; what is no such word is a wrong command line."""
    from residual.tasks.detection.recipe import Reading

    words: dict[str, Any] = {"box_frame": box_frame, "box_unit": box_unit}
    with wrong_usage():
        return Reading(**{field: word for field, word in words.items() if word})


def check(
    folder: Path, workers: int, as_json: bool, drawing: tuple[int, Path], reading: "Reading"
) -> None:
    """`data check` for a folder with boxes; a drawing is so many pictures in a file."""
    from residual.cli.progress import counting
    from residual.preparation.check_boxes import check as checked
    from residual.preparation.check_boxes import contact, everything
    from residual.storage import json_text, write_atomic

    draw, out = drawing
    if draw and not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent} for --out {out}")
    said = everything(folder, reading)
    with counting("checking pictures") as progress:
        report = checked(folder, workers, progress, said, reading)
    if as_json:
        print(json_text(asdict(report) | {"bad": report.bad}))
    else:
        for line in told(report):
            print(line.encode(errors="backslashreplace").decode())  # a file's name may be anything
    if draw:
        write_atomic(out, png(contact(said, draw)))
        typer.echo(f"residual: pictures with their boxes are in {out}", err=True)
    if report.bad:
        parts = {
            "damaged pictures": len(report.damaged),
            "bad boxes": len(report.boxes),
            "bad annotations": len(report.annotations),
            "wrong sizes": len(report.sizes),
            "refusals of training": len(report.refusals),
        }
        counts = ", ".join(f"{what} ({n:,})" for what, n in parts.items() if n)
        typer.echo(f"residual: {folder} has {counts}", err=True)
        raise typer.Exit(1)


def png(image: "Image") -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def told(report: "Report") -> Iterator[str]:
    """A report as a person reads it: what is most urgent comes last, where a terminal stays."""
    yield (
        f"{report.folder} ({NAMES[report.form]}): {report.pictures:,} pictures, "
        f"{len(report.damaged):,} damaged; bad boxes: {len(report.boxes):,}"
    )
    yield from sizes(report)
    notes = {
        "pictures of another format than their name says, read as what they are": report.misnamed,
        "pictures without an annotation": report.bare,
        "annotations without a picture": report.lonely,
    }
    yield from remarks(report.converted, notes, report.warnings)
    for what, sentences in (
        ("Annotations of another size than their picture's", report.sizes),
        ("Missing or damaged annotations and pictures", report.annotations),
        ("Bad boxes", report.boxes),
        ("Training refuses this folder", report.refusals),
        ("Damaged", [f"{each.kind:<12} {each.path}: {each.reason}" for each in report.damaged]),
    ):
        if sentences:
            yield f"\n{what}:"
            yield from (f"  {sentence}" for sentence in sentences)


def sizes(report: "Report") -> Iterator[str]:
    """How many boxes each class has in each split; of many classes, the extremes."""
    classes = list(next(iter(report.splits.values())).boxes) if report.splits else []
    rows = {label: [own.boxes[label] for own in report.splits.values()] for label in classes}
    if len(classes) > FEW:
        for name, own in report.splits.items():
            least, most = (choice(own.boxes, key=own.boxes.__getitem__) for choice in (min, max))
            yield (
                f"  {name}: {len(classes):,} classes, from {own.boxes[least]:,} boxes ({least}) "
                f"to {own.boxes[most]:,} ({most})"
            )
        rows = {}
    every = report.splits.values()
    rows["all boxes"] = [sum(own.boxes.values()) for own in every]
    rows["  of these difficult"] = [own.difficult for own in every]
    rows["pictures"] = [own.pictures for own in every]
    rows["  of these without boxes"] = [own.empty for own in every]
    wide, columns = max(map(len, rows)), [max(len(name), 8) + 2 for name in report.splits]
    names = zip(report.splits, columns, strict=True)
    yield f"\n{'':{wide}}" + "".join(f"{name:>{column}}" for name, column in names)
    for label, numbers in rows.items():
        cells = zip(numbers, columns, strict=True)
        yield f"{label:{wide}}" + "".join(f"{n:>{column},}" for n, column in cells)


# ---- data prepare -------------------------------------------------------------------------------


def voc(
    source: Source,
    to: Annotated[
        Path | None, typer.Argument(metavar="DST", help="A folder; if left out, SOURCE/voc.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Unpack PASCAL VOC 2007 and 2012 into VOCdevkit/VOC2007 and VOC2012.

    Takes the official archives (VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar,
    VOCtrainval_11-May-2012.tar), or some of them; says what is missing then. Goes on where it was
    interrupted. Changes nothing in SOURCE.

    Example: residual data prepare voc downloads voc
    """
    from residual.cli.progress import counting
    from residual.preparation.voc_coco import voc as prepared

    finish(prepared(source, to, counting=counting), "PASCAL VOC", as_json)


def coco(
    source: Source,
    to: Annotated[
        Path | None, typer.Argument(metavar="DST", help="A folder; if left out, SOURCE/coco.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Unpack COCO into annotations/, train2017/ and val2017/, or those of 2014.

    Takes the official archives (train2017.zip, val2017.zip, annotations_trainval2017.zip), or some
    of them; says what is missing then. Goes on where it was interrupted. Changes nothing in SOURCE.

    Example: residual data prepare coco downloads coco
    """
    from residual.cli.progress import counting
    from residual.preparation.voc_coco import coco as prepared

    finish(prepared(source, to, counting=counting), "COCO", as_json)


def finish(report: "Prepared", name: str, as_json: bool) -> None:
    """Tell what was prepared, by the exit status, too."""
    if as_json:
        print(json_text(asdict(report) | {"complete": report.complete}))
    else:
        for line in judgement(report):
            print(line)
    if not report.complete:
        typer.echo(f"residual: what {report.folder} has of {name} is not whole", err=True)
        raise typer.Exit(1)


def judgement(report: "Prepared") -> Iterator[str]:
    """What was prepared as a person reads it."""
    for each, wanted in report.expected.items():
        if each in report.absent:
            yield f"{report.folder}: {each}: not there; it comes with {report.absent[each]}"
        else:
            yield f"{report.folder}: {each}: {report.pictures[each]:,} of {wanted:,} pictures"
    for name in report.missing[:FEW]:
        yield f"  missing: {name}"
    if len(report.missing) > FEW:
        yield f"  missing: {len(report.missing) - FEW:,} more"
