"""The command `data pack`."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.options import Json, Workers
from residual.storage import json_text

if TYPE_CHECKING:
    from residual.preparation.pack import How, Summary


def pack(
    source: Annotated[Path, typer.Argument(help="A folder of pictures, as for training.")],
    to: Annotated[str, typer.Argument(help="A new folder, or a place like s3://bucket/name.")],
    shorter_side: Annotated[
        int, typer.Option(min=1, help="Pixels that a shorter side has at most.")
    ] = 480,
    form: Annotated[
        str, typer.Option("--as", help="jpeg; or raw: decoded, larger and faster to read.")
    ] = "jpeg",
    quality: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Encode all anew as JPEG, for smaller files that decode faster: 90.",
        ),
    ] = 0,
    bad_images: Annotated[
        str, typer.Option(help="error, or skip: damaged ones are packed as they are, and named.")
    ] = "error",
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Pack a folder of pictures into shards, for speed or for an object store.

    A JPEG that needs no change keeps its pixels, without loss. Where jpegtran is installed, a part
    of libjpeg-turbo, it gets restart markers, by which training decodes only the part that it
    needs; what is no pixel, such as EXIF data, is left out then.

    An S3 store other than Amazon's is named by the variable S3_ENDPOINT_URL.

    Example: residual data pack photos packed --shorter-side 480
    """
    from residual.cli.progress import counting
    from residual.preparation.pack import How
    from residual.preparation.pack import pack as packed

    for word, words in ((form, ("jpeg", "raw")), (bad_images, ("error", "skip"))):
        if word not in words:
            raise typer.BadParameter(f"no {word!r} here; there are {' and '.join(words)}")
    if quality and form == "raw":
        raise typer.BadParameter("--quality is of JPEG; raw pictures are decoded")
    how = How(shorter_side, form, quality, bad_images == "skip", max(workers, 1))
    with counting("packing pictures") as progress:
        summary = packed(source, to, how, progress)
    for damage in summary.damaged:
        typer.echo(f"residual: {damage}", err=True)
    print(json_text(asdict(summary) | {"to": to}) if as_json else in_words(summary, to, how))


def in_words(summary: "Summary", to: str, how: "How") -> str:
    """A packing as a person reads it."""
    from residual.preparation.pack import encoding

    if how.form == "raw":
        done = "all decoded"
    else:
        jpeg = encoding(how)
        done = (
            f"{summary.kept:,} with the same pixels, the others encoded as JPEG of quality "
            f"{jpeg['quality']}, colours {jpeg['subsampling']}; {summary.in_part:,} with restart "
            "markers, so that only what is needed of them is decoded"
        )
    text = (
        f"{to}: {summary.pictures:,} pictures, {done}; {summary.resized:,} made smaller, to a "
        f"shorter side of {how.shorter}; {summary.bytes_before / 1e6:,.1f} MB before, "
        f"{summary.bytes_after / 1e6:,.1f} MB after"
    )
    if summary.damaged:
        text += f"; {len(summary.damaged):,} damaged"
    if how.form == "jpeg" and summary.kept and not shutil.which("jpegtran"):
        text += (
            "\nWith jpegtran installed (a part of libjpeg-turbo), those with the same pixels get "
            "restart markers, too, and are read faster."
        )
    return text
