"""The commands `data check`, `data pack` and `data prepare`."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import BoxFrame, BoxUnit, Json, Workers, usage_errors
from residual.cli.progress import counting, notify
from residual.storage import display_name, json_text, summarize, write_atomic

if TYPE_CHECKING:
    from residual.preparation.check import FolderReport, ImageReport
    from residual.preparation.check_boxes import BoxReport
    from residual.preparation.imagenet import PreparedImageNet
    from residual.preparation.pack import PackOptions, PackSummary
    from residual.preparation.voc_coco import PreparedBoxes

MAX_LINES = 20  # of classes or missing files that are listed one by one


def print_report(
    report: Any, extra: Mapping[str, Any], lines: Iterable[str], as_json: bool
) -> None:
    """Print a report as JSON or as lines."""
    if as_json:
        print(json_text(asdict(report) | dict(extra)))
    else:
        for line in lines:  # a file's name may be anything
            print(line.encode(errors="backslashreplace").decode())


def exit_on(errors: Iterable[str]) -> None:
    """Print errors; with any, the exit status is 1."""
    if lines := list(errors):
        notify(*lines)
        raise typer.Exit(1)


# ---- check --------------------------------------------------------------------------------------


def check(
    folder: Annotated[Path, typer.Argument(help="A folder of images by class, or with boxes.")],
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that read pictures; 0 takes every core.")
    ] = 0,
    draw: Annotated[
        int, typer.Option(min=0, help="Number of pictures to draw with their boxes.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="The file of --draw.")] = Path("boxes.png"),
    box_frame: BoxFrame = None,
    box_unit: BoxUnit = None,
    as_json: Json = False,
) -> None:
    """Find damaged pictures in a folder, and count classes.

    Also lists how decoding changes pictures, and likely mistakes: classes that are empty or very
    unequal, equal pictures; in PASCAL VOC's or COCO's format also invalid boxes. The exit status is
    1 if any picture or box is bad, or if training would refuse the folder.

    Example: residual data check photos
    """
    from residual.data.packed import is_packed
    from residual.tasks.detection.datasets import detect_format

    if is_packed(str(folder)):
        raise ValueError(f"{folder} holds packed data, which was checked when it was packed")
    workers = workers or os.cpu_count() or 1
    if detect_format(folder):
        options = {"box_frame": box_frame, "box_unit": box_unit}
        check_boxes(folder, workers, as_json, draw, out, options)
    elif draw or box_frame or box_unit:
        option = "--draw" if draw else "--box-frame" if box_frame else "--box-unit"
        raise typer.BadParameter(f"{option} is for boxes, and {folder} is of no form that has them")
    else:
        check_classes(folder, workers, as_json)


def check_classes(folder: Path, workers: int, as_json: bool) -> None:
    """Run `data check` for a folder of classes."""
    from residual.preparation import check

    with counting("checking pictures") as progress:
        report = check.check(folder, workers, progress)
    damaged, errors = f"{len(report.damaged):,} of {report.total:,}", []
    if report.damaged:
        errors.append(f"{damaged} pictures in {folder} are damaged")
    if report.refusal:
        errors.append(f"training refuses {folder}: {report.refusal}")
    print_report(report, {"seen": report.total}, class_lines(report), as_json)
    exit_on(errors)


def check_boxes(
    folder: Path, workers: int, as_json: bool, draw: int, out: Path, options: Mapping[str, Any]
) -> None:
    """Run `data check` for a folder with boxes."""
    from residual.preparation import check_boxes
    from residual.tasks.detection.recipe import Reading
    from residual.tasks.detection.visualization import png

    with usage_errors():
        reading = Reading(**{name: value for name, value in options.items() if value})
    if draw and not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent} for --out {out}")
    annotations = check_boxes.read_annotations(folder, reading)
    with counting("checking pictures") as progress:
        report = check_boxes.check(folder, workers, progress, annotations, reading)
    print_report(report, {"bad": report.bad}, box_lines(report), as_json)
    if draw:
        write_atomic(out, png(check_boxes.draw_sheet(annotations, draw)))
        notify(f"pictures with their boxes are in {out}")
    problems: dict[str, list[Any]] = {
        "damaged pictures": report.damaged,
        "bad boxes": report.boxes,
        "bad annotations": report.annotations,
        "wrong sizes": report.sizes,
        "refusals of training": report.refusals,
    }
    counts = [f"{kind} ({len(lines):,})" for kind, lines in problems.items() if lines]
    exit_on([f"{folder} has {', '.join(counts)}"] if counts else [])


def class_lines(report: "FolderReport") -> Iterator[str]:
    """A report in words. The most urgent comes last, where a terminal stays."""
    yield f"{report.folder}: {report.total:,} pictures, {len(report.damaged):,} damaged"
    totals = {"all classes": [sum(counts.values()) for counts in report.sets.values()]}
    yield from table(report.sets, totals, "pictures")
    notes = {
        "files without a picture's ending, left out": report.others,
        "pictures in no class folder, left out": report.outside,
        "folders that are named like pictures": report.folders,
    }
    yield from remarks(report, notes)
    damaged = [
        f"{image.kind:<12} {display_name(image.path)} (class {image.label}): {image.reason}"
        for image in report.damaged
    ]
    yield from section("Damaged", damaged)


def box_lines(report: "BoxReport") -> Iterator[str]:
    """A report in words. The most urgent comes last, where a terminal stays."""
    yield (
        f"{report.folder} ({ {'voc': 'PASCAL VOC', 'coco': 'COCO'}[report.form] }): "
        f"{report.pictures:,} pictures, {len(report.damaged):,} damaged; bad boxes: "
        f"{len(report.boxes):,}"
    )
    splits = report.splits.values()
    totals = {
        "all boxes": [sum(counts.boxes.values()) for counts in splits],
        "  of these difficult": [counts.difficult for counts in splits],
        "pictures": [counts.pictures for counts in splits],
        "  of these without boxes": [counts.empty for counts in splits],
    }
    yield from table({name: split.boxes for name, split in report.splits.items()}, totals, "boxes")
    notes = {
        "pictures without an annotation": report.bare,
        "annotations without a picture": report.lonely,
    }
    yield from remarks(report, notes)
    yield from section("Annotations of another size than their picture's", report.sizes)
    yield from section("Missing or damaged annotations and pictures", report.annotations)
    yield from section("Bad boxes", report.boxes)
    yield from section("Training refuses this folder", report.refusals)
    damaged = [f"{image.kind:<12} {image.path}: {image.reason}" for image in report.damaged]
    yield from section("Damaged", damaged)


def table(
    counts: Mapping[str, Mapping[str, int]], totals: dict[str, list[int]], unit: str
) -> Iterator[str]:
    """The counts of each set by class, with totals; of many classes, the extremes."""
    classes = list(next(iter(counts.values()), {}))
    rows = {label: [by_class[label] for by_class in counts.values()] for label in classes}
    if len(classes) > MAX_LINES:
        for name, by_class in counts.items():
            (least, n), (most, m) = (f(by_class.items(), key=itemgetter(1)) for f in (min, max))
            extremes = f"from {n:,} {unit} ({least}) to {m:,} ({most})"
            yield f"  {name}: {len(classes):,} classes, {extremes}"
        rows = {}
    rows |= totals
    width, columns = max(map(len, rows)), [max(len(name), 8) + 2 for name in counts]
    heads = zip(counts, columns, strict=True)
    yield f"\n{'':{width}}" + "".join(f"{name:>{column}}" for name, column in heads)
    for label, numbers in rows.items():
        cells = zip(numbers, columns, strict=True)
        yield f"{label:{width}}" + "".join(f"{n:>{column},}" for n, column in cells)


def remarks(report: "ImageReport", notes: dict[str, list[str]]) -> Iterator[str]:
    """Conversions, notes and warnings."""
    misnamed = "pictures of another format than their name says, read as what they are"
    notes = {misnamed: list(report.misnamed)} | notes
    changes = [f"{n:>9,}  {change}" for change, n in report.converted.items()]
    yield from section("Changed when they are read", changes)
    lines = [f"{note} {summarize(names)}" for note, names in notes.items() if names]
    yield from section("Notes", lines)
    yield from section("Warnings", report.warnings)


def section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"\n{title}:"
        yield from (f"  {line}" for line in lines)


# ---- pack ---------------------------------------------------------------------------------------


def pack(
    source: Annotated[Path, typer.Argument(help="A folder of pictures, as for training.")],
    to: Annotated[str, typer.Argument(help="A new folder, or a place like s3://bucket/name.")],
    shorter_side: Annotated[int, typer.Option(min=1, help="Most pixels of a shorter side.")] = 480,
    form: Annotated[
        str, typer.Option("--as", help="jpeg; or raw: decoded, larger and faster to read.")
    ] = "jpeg",
    quality: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Re-encode all as JPEG of this quality, e.g. 90; 0: do not.",
        ),
    ] = 0,
    bad_images: Annotated[
        str, typer.Option(help="error; or skip: pack damaged ones unchanged, and list them.")
    ] = "error",
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Pack a folder into shards, for speed or an object store.

    A JPEG that needs no change keeps its exact pixels. If jpegtran (of libjpeg-turbo) is installed,
    it gets restart markers, so that training decodes only the crop, and loses EXIF metadata.

    The environment variable S3_ENDPOINT_URL selects an S3 store other than Amazon's.

    Example: residual data pack photos packed --shorter-side 480
    """
    from residual.preparation.pack import PackOptions
    from residual.preparation.pack import pack as pack_folder

    for word, words in ((form, ("jpeg", "raw")), (bad_images, ("error", "skip"))):
        if word not in words:
            raise typer.BadParameter(f"no {word!r} here; there are {' and '.join(words)}")
    if quality and form == "raw":
        raise typer.BadParameter("--quality is of JPEG; raw pictures are decoded")
    options = PackOptions(shorter_side, form, quality, bad_images == "skip", max(workers, 1))
    with counting("packing pictures") as progress:
        summary = pack_folder(source, to, options, progress)
    notify(*summary.damaged)
    print_report(summary, {"to": to}, [pack_line(summary, to, options)], as_json)


def pack_line(summary: "PackSummary", to: str, options: "PackOptions") -> str:
    """The result of a packing in words."""
    counts, hint = {"decoded": summary.pictures - len(summary.damaged)}, ""
    if options.form == "jpeg":
        jpeg = options.encoding
        encoded = f"encoded as JPEG of quality {jpeg['quality']}, colours {jpeg['subsampling']}"
        counts = {
            "with the same pixels": summary.kept,
            encoded: summary.pictures - summary.kept - len(summary.damaged),
            "in all with restart markers, to decode only what is needed of them": summary.in_part,
        }
        if summary.kept and not shutil.which("jpegtran"):
            hint = (
                "\nWith jpegtran installed (a part of libjpeg-turbo), those with the same pixels "
                "get restart markers, too, and are read faster."
            )
    counts[f"made smaller, to a shorter side of {options.shorter}"] = summary.resized
    counts["damaged"] = len(summary.damaged)
    treated = "; ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    before, after = summary.bytes_before / 1e6, summary.bytes_after / 1e6
    size = f"{before:,.1f} MB before, {after:,.1f} MB after"
    return f"{to}: {summary.pictures:,} pictures: {treated}; {size}{hint}"


# ---- prepare ------------------------------------------------------------------------------------

Source = Annotated[Path, typer.Argument(help="The folder of the archives.")]


def target(default: str) -> Any:
    return typer.Argument(metavar="DST", help=f"A folder; if left out, SOURCE/{default}.")


def imagenet(
    source: Annotated[Path, typer.Argument(help="The folder of the archives or folders.")],
    to: Annotated[Path | None, target("imagenet")] = None,
    as_json: Json = False,
) -> None:
    """Sort ImageNet (ILSVRC 2012) into train/ and val/.

    Reads the official archives, a flat validation folder with the devkit, Kaggle's layout, or a
    sorted tree, and lists what is missing. Continues after an interruption. SOURCE stays
    unchanged; files are hard-linked if possible.

    Example: residual data prepare imagenet downloads imagenet
    """
    from residual.preparation import imagenet

    finish_prepared(imagenet.imagenet(source, to, show=counting), "ImageNet", as_json)


def voc(
    source: Source, to: Annotated[Path | None, target("voc")] = None, as_json: Json = False
) -> None:
    """Unpack PASCAL VOC 2007 and 2012 as VOCdevkit/VOC20xx.

    Reads the official archives (VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar,
    VOCtrainval_11-May-2012.tar), or some of them, and lists what is missing. Continues after an
    interruption. SOURCE stays unchanged.

    Example: residual data prepare voc downloads voc
    """
    from residual.preparation import voc_coco

    finish_prepared(voc_coco.voc(source, to, show=counting), "PASCAL VOC", as_json)


def coco(
    source: Source, to: Annotated[Path | None, target("coco")] = None, as_json: Json = False
) -> None:
    """Unpack COCO of 2017 or 2014 in its usual folders.

    Reads the official archives (train2017.zip, val2017.zip, annotations_trainval2017.zip), or some
    of them, and lists what is missing. Continues after an interruption. SOURCE stays unchanged.

    Example: residual data prepare coco downloads coco
    """
    from residual.preparation import voc_coco

    finish_prepared(voc_coco.coco(source, to, show=counting), "COCO", as_json)


def finish_prepared(report: "PreparedImageNet | PreparedBoxes", name: str, as_json: bool) -> None:
    """Print the report of a preparation; the exit status is 1 if it is incomplete."""
    lines = [*report.sets(), *first_lines("missing", report.missing)]
    lines += first_lines("superfluous", getattr(report, "superfluous", []))
    print_report(report, {"complete": report.complete}, lines, as_json)
    exit_on([] if report.complete else [f"{report.folder} does not hold the whole {name}"])


def first_lines(kind: str, names: list[str]) -> list[str]:
    """A line for each of the first files, and one for the number of the others."""
    lines = [f"  {kind}: {name}" for name in names[:MAX_LINES]]
    others = len(names) - MAX_LINES
    return lines + ([f"  {kind}: {others:,} more"] if others > 0 else [])
