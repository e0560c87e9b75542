"""The command `convert`: converts weights of other libraries."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.models import spec_named
from residual.cli.options import Root
from residual.cli.progress import counting, notify
from residual.storage import DEFAULT_ROOT

if TYPE_CHECKING:
    from residual.weights.published import PretrainedConfig


def convert(
    out: Annotated[Path, typer.Option(help="The file to write, e.g. resnet50.safetensors.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="A .safetensors, torch.save, .caffemodel or Detectron .pkl file."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Public weights in place of a file: resnet50.IMAGENET1K_V2.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="The network they are for, e.g. resnet50-v1.5.")
    ] = None,
    assume: Annotated[
        str | None, typer.Option(help="v1 or v1.5: the variant, if the file does not tell.")
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(help="Which of several weights in the file, e.g. state_dict_ema, encoder_q."),
    ] = None,
    mean: Annotated[
        Path | None, typer.Option(help="The authors' mean image, ResNet_mean.binaryproto.")
    ] = None,
    shorter: Annotated[
        int | None, typer.Option(min=1, help="Pixels of a resized picture's shorter side.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels on a side of the centre crop.")
    ] = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Convert weights of torchvision, timm, Caffe and others.

    Example: residual convert resnet50.pth --network resnet50-v1.5 --out resnet50.safetensors
    """
    from residual.weights import convert as conversions
    from residual.weights import files, published

    if (file is None) == (weights is None):
        raise typer.BadParameter("name a file of weights, or public ones by --weights")
    if network is None and weights is None:
        raise typer.BadParameter("say which network the weights are for with --network")
    if network is not None:
        spec_named(network)
    if assume not in (None, "v1", "v1.5"):
        raise typer.BadParameter(f"--assume takes v1 or v1.5, not {assume!r}")
    if out.exists():
        raise FileExistsError(f"{out} exists already; give another name as --out")
    if weights is not None:
        public = published.published(weights)
        network = network or public.network
        with counting(f"fetching {public.file}") as progress:
            file = published.download(public, root.expanduser(), progress)
    assert file is not None and network is not None
    file = files.file_of(file)
    config = published.config_of(file)
    try:
        conversion = conversions.convert(files.read(file), network, assume, config, entry)
    except conversions.Incomplete as error:
        print("\n".join(error.keys))
        raise
    conversion = replace(conversion, config=conversion.config.with_view(size, shorter))
    if mean is not None:
        conversion = conversion.with_mean_image(mean)
    conversions.write(conversion, out)
    for key, name in conversion.mapped:
        print(f"{key} -> {name}")
    print(
        f"{file}: weights of {conversion.source}, {len(conversion.mapped)} keys mapped, "
        "0 missing, 0 unexpected"
    )
    notify(conversion.config.says, *conversion.notices)
    body = "no last layer: good to begin a training with --weights; " if conversion.body else ""
    print(f"{out}: {conversion.network}, {body}{in_words(conversion.config)}")


def in_words(config: "PretrainedConfig") -> str:
    """The classes and the preprocessing in words."""
    names, size = config.classes, "{}x{}".format(*config.size)
    classes = "classes without names" if names is None else f"{len(names):,} classes"
    if config.shorter is None:
        return f"{classes}, pictures of {size}"
    return f"{classes}, the centre {size} of pictures with a shorter side of {config.shorter}"
