"""Converts weights of other libraries with a check of each key, and writes them to files."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from residual.data.datasets import Progress, no_progress
from residual.models.registry import build_meta, check_input, model_spec
from residual.models.resnet import ROWS, ModelSpec
from residual.storage import summarize
from residual.training.checkpoint import save
from residual.weights import caffe, files, published
from residual.weights.layouts import AUTHORS, check_variant, layout_of, with_padding_behind
from residual.weights.published import PretrainedConfig, class_names

# Deviation: our max pooling begins one pixel before the border; the authors' weights were trained
# with Caffe's, which begins at the first pixel and rounds the size up. No conversion corrects this:
# inside, the image is in effect shifted by two pixels, and a few windows at the border differ.
POOLING = (
    "Caffe's max pooling begins at the first pixel and ours one before it: within a picture it is "
    "as if the picture were moved by two pixels, and at its border a few windows differ"
)
MEANS = (
    "the means of the channels are subtracted in place of the authors' mean image; "
    "--mean ResNet_mean.binaryproto takes it"
)


@dataclass(frozen=True)
class Conversion:
    """Weights of another library under residual's names, with their preprocessing."""

    source: str
    network: str
    state: dict[str, Tensor]
    mapped: list[tuple[str, str]]  # (key in the file, name in the network)
    config: PretrainedConfig
    mean: Tensor  # to subtract from pixels in [0, 1]: (3, 1, 1), or a mean image (3, H, W)
    notices: tuple[str, ...] = ()
    body: bool = False  # without the last layer

    def with_mean_image(self, file: Path) -> "Conversion":
        """With the mean image of a .binaryproto in place of the means. Raises ValueError."""
        if not self.source.startswith(AUTHORS):
            raise ValueError(f"a mean image belongs to {AUTHORS}, and these are of {self.source}")
        mean, (height, width) = caffe.read_mean(file).flip(0) / 255, self.config.size
        if mean.shape[1:] != (height, width):
            raise ValueError(
                f"{file} holds a mean image of {mean.shape[1]}x{mean.shape[2]} pixels, and a "
                f"picture has {height}x{width}"
            )
        notices = tuple(notice for notice in self.notices if notice != MEANS)
        return replace(self, mean=mean, notices=notices)


class Incomplete(ValueError):
    """Weights with missing, unexpected or misshapen keys; `keys` has a line for each key."""

    def __init__(self, sentence: str, keys: list[str]) -> None:
        super().__init__(sentence)
        self.keys = keys


def convert(
    state: Mapping[str, Any],
    network: str,
    assume: str | None = None,
    config: PretrainedConfig | None = None,
    entry: str | None = None,
) -> Conversion:
    """Convert weights of a library in layouts.py to one of residual's networks.

    Bottleneck nets are of the variant v1.5 in most libraries, which no key shows; `assume="v1"`
    says that these are not. `config` belongs to the file, and `entry` names one of several weights
    in it. Weights without the last layer are a body, to begin a training with. Raises ValueError
    for a network without convertible weights, and unless keys and shapes are the network's.
    """
    spec = model_spec(network)
    weights, inner_names, entry_notices = files.entry(state, entry)
    layout = layout_of(list(inner_names.values()), spec)
    check_variant(layout, spec, config, assume)
    names = {key: layout.name(name) for key, name in inner_names.items()}
    keys, head = {name: key for key, name in names.items() if name}, f"{layout.head}."
    # GoogLeNet's training heads have classes, too.
    body = network != "googlenet" and not any(name.startswith(head) for name in keys)
    bias = weights.get(keys.get(f"{head}bias", ""))
    classes = bias.numel() if isinstance(bias, Tensor) else spec.classes
    shapes = {
        name: tensor.shape
        for name, tensor in build_meta(spec.name, classes).state_dict().items()
        if not (body and name.startswith(head))
    }
    additional = caffe.additional_shapes(shapes) if layout.caffe_norm else {}
    keys = match_keys(spec, weights, names, shapes, additional)
    sizes = shapes | additional
    filled = {name: weights[key].reshape(sizes[name]) for name, key in keys.items()}
    if layout.caffe_norm:
        filled = caffe.merged(filled)
    if layout.bgr:
        first = next(name for name in shapes if name.startswith("conv1"))
        filled[first] = filled[first].flip(1)
    if spec.family == "cifar" and spec.option == "A":
        filled = with_padding_behind(filled)
    config = config or layout.config
    notices = (MEANS, POOLING) if layout.source.startswith(AUTHORS) else ()
    return Conversion(
        source=layout.source,
        network=spec.name,
        state={
            name: filled.get(name, torch.tensor(0)).detach().clone().contiguous() for name in shapes
        },
        mapped=[(key, name) for name, key in keys.items()],
        config=replace(config, classes=None if body else classes_of(config, spec.family, classes)),
        mean=torch.tensor(config.mean).view(3, 1, 1),
        notices=(*entry_notices, *notices),
        body=body,
    )


def classes_of(config: PretrainedConfig, family: str, classes: int) -> tuple[str, ...] | None:
    """The names of the weights' classes. Raises ValueError if the config has too few or many."""
    names = class_names(family, classes) if config.classes is None else config.classes
    if names and len(names) != classes:
        raise ValueError(
            f"{config.says}, and it names {len(names):,} classes where the weights have {classes:,}"
        )
    return names


def match_keys(
    spec: ModelSpec,
    state: Mapping[str, Any],
    names: Mapping[str, str | None],
    shapes: Mapping[str, torch.Size],
    additional: Mapping[str, torch.Size],
) -> dict[str, str]:
    """The file's key for each of the network's names. Raises Incomplete, which lists every key."""
    keys: dict[str, str] = {}
    unexpected: list[str] = []
    misshapen: dict[str, str] = {}
    for key, name in names.items():
        value = state[key]
        size = None if name in keys else shapes.get(name or "", additional.get(name or ""))
        if name is None or size is None:
            unexpected.append(key)
            continue
        shape = value.shape if isinstance(value, Tensor) else None
        # A fully-connected layer of a baseline may be a convolution in the file.
        reshaped = shape and spec.family == "baseline" and shape.numel() == size.numel()
        if shape == size or reshaped:
            keys[name] = key
        else:
            form = type(value).__name__ if shape is None else tuple(shape)
            misshapen[name] = f"{key} is {form} instead of {tuple(size)}"
    # Caffe's statistics are missing in all layers if they have been merged into scale and bias.
    merged = additional and not any("running_" in name for name in keys)
    optional = ("num_batches_tracked", "running_mean", "running_var")[: 3 if merged else 1]
    matched = keys.keys() | misshapen.keys()
    missing = [name for name in shapes if name not in matched and not name.endswith(optional)]
    if not (missing or unexpected or misshapen):
        return keys
    problems = {"missing": missing, "unexpected": unexpected}
    problems["of another shape"] = list(misshapen.values())
    depth = depth_of([name for name in names.values() if name])
    likely = f", but look like those of a network of {depth} layers"
    raise Incomplete(
        f"nothing is converted, for these are not the weights of {spec.name}"
        f"{'' if depth in (None, spec.depth) else likely}: {len(keys)} keys mapped"
        + "".join(f"; {kind} {summarize(lines)}" for kind, lines in problems.items() if lines),
        [f"{key} -> {name}" for name, key in keys.items()]
        + [f"{kind}: {line}" for kind, lines in problems.items() for line in lines],
    )


def depth_of(names: list[str]) -> int | None:
    """The depth of the network with these parameters; None if there is none."""
    blocks = {tuple(name.split(".")[:2]) for name in names if "_x." in name}
    counts = tuple(n for _, n in sorted(Counter(stage for stage, _ in blocks).items()))
    if len(counts) == 3 and len(set(counts)) == 1:
        return 6 * counts[0] + 2
    bottleneck = any(".branch.4." in name for name in names)
    rows = ((depth, (widens > 1, *row)) for depth, (_, widens, row) in ROWS.items())
    return next((depth for depth, row in rows if row == (bottleneck, *counts)), None)


# ---- residual's weight files --------------------------------------------------------------------


def write(conversion: Conversion, out: Path) -> None:
    """Write a weight file. Raises ValueError if its image size is too small for the network."""
    config = conversion.config
    check_input(conversion.network, min(config.size))
    tensors = {f"net.{key}": tensor for key, tensor in conversion.state.items()}
    tensors["preprocessing.mean"] = conversion.mean
    tensors["preprocessing.std"] = torch.tensor(config.std).view(3, 1, 1)
    header = {
        "network": conversion.network,
        "classes": list(config.classes) if config.classes else None,
        "size": list(config.size),
        "shorter": config.shorter,
        "source": conversion.source,
    }
    save(out, tensors, header | ({"body": True} if conversion.body else {}))


def find_or_download(name: str, root: Path, progress: Progress = no_progress) -> Path:
    """The path of a run or a weight file, or of public weights, downloaded and converted.

    Public weights are those in the package, e.g. resnet20.cifar10, and torchvision's by their
    names, e.g. resnet50.IMAGENET1K_V2, which are kept in `root/weights`. Raises ValueError for
    files of other programs and unknown names, and OSError, saying where to put the file by hand, if
    the download fails.
    """
    path = Path(name)
    if path.exists():
        require_own_format(path)
        return path
    if shipped := published.find(name, published.shipped_files()):
        return shipped
    weights = published.published(name)
    path = root / "weights" / f"{weights.name}.safetensors"
    if not path.exists():
        state = files.read(published.download(weights, root, progress))
        write(convert(state, weights.network, config=weights.config), path)
    return path


def locate(source: Path | str, root: Path, progress: Progress = no_progress) -> Path:
    """The path of public weights by their name; anything else is a path already."""
    path, name = Path(source), str(source)
    if path.exists() or "." not in name or path.suffix in (".safetensors", ".onnx"):
        return path
    is_public = published.find(name, published.public_names())
    return find_or_download(name, root, progress) if is_public else path


def require_own_format(path: Path) -> None:
    """Raises ValueError for a file or folder of another program."""
    if path.is_dir():
        if not (path / "recipe.json").exists():
            raise ValueError(f"{path} is a folder, and no run")
        return
    if path.suffix == ".onnx":
        return  # its reader names the run in its place
    unreadable = (safetensors.SafetensorError, OSError, RuntimeError)
    with suppress(*unreadable), safetensors.safe_open(path, framework="pt") as file:
        if not {"checksum", "weights_sha256"}.isdisjoint(file.metadata() or {}):  # or an export
            return
    raise ValueError(
        f"{path} was not written by residual; first: "
        f"residual convert {path} --network NETWORK --out FILE"
    )
