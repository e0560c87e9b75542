"""Weights of other libraries, converted to ours with a check of each key, and kept as files."""

from collections import Counter
from collections.abc import Iterable, Mapping
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

# Deviation: our max pooling begins one pixel before the border, and the authors' weights were
# trained with Caffe's, which begins at the first pixel and rounds the size up. No weights make up
# for that: within an image it is as if the image were moved by two pixels, and at its border a few
# windows hold other pixels.
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
    """Weights of another library under our names, with the preprocessing that they expect."""

    source: str
    network: str
    state: dict[str, Tensor]
    mapped: list[tuple[str, str]]  # (their key, our key)
    config: PretrainedConfig
    notices: tuple[str, ...] = ()
    mean_image: Tensor | None = None  # (3, H, W) of pixels in [0, 1], in place of the means
    body: bool = False  # without the last layer

    @property
    def mean(self) -> Tensor:
        """The mean to subtract: (3, 1, 1), or a mean image (3, H, W)."""
        means = torch.tensor(self.config.mean).view(3, 1, 1)
        return means if self.mean_image is None else self.mean_image

    def with_mean_image(self, file: Path) -> "Conversion":
        """With the mean image of a .binaryproto in place of the means. Raises ValueError."""
        if not self.source.startswith(AUTHORS):
            raise ValueError(f"a mean image belongs to {AUTHORS}, and these are of {self.source}")
        mean = caffe.read_mean(file).flip(0) / 255
        if mean.shape[1:] != self.config.size:
            (height, width), size = mean.shape[1:], self.config.size
            raise ValueError(
                f"{file} holds a mean image of {height}x{width} pixels, and a picture has "
                f"{size[0]}x{size[1]}"
            )
        notices = tuple(notice for notice in self.notices if notice != MEANS)
        return replace(self, mean_image=mean, notices=notices)


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
    """Convert weights of a library in layouts.py for one of our networks.

    Bottleneck nets are of the variant v1.5 in most libraries, which no key shows; `assume="v1"`
    says that these are not. `config` belongs to the file, and `entry` names one of several weights
    in it. Weights without the last layer are a body, to begin a training with. Raises ValueError
    for a network without convertible weights, and unless the keys and shapes are exactly ours.
    """
    spec = model_spec(network)
    weights = files.entry(state, entry)
    layout = layout_of(weights.names.values(), spec)
    check_variant(layout, spec, config, assume)
    names = {key: layout.name(name) for key, name in weights.names.items()}
    last = [key for key, name in names.items() if name and name.startswith(f"{layout.head}.")]
    body = not last and network != "googlenet"  # whose training heads have classes, too
    bias = next((weights.state[key] for key in last if names[key] == f"{layout.head}.bias"), None)
    classes = bias.numel() if isinstance(bias, Tensor) else spec.classes
    ours = {
        key: tensor.shape
        for key, tensor in build_meta(spec.name, classes).state_dict().items()
        if not (body and key.startswith(f"{layout.head}."))
    }
    shapes = ours | (caffe.additional_shapes(ours) if layout.caffe_norm else {})
    keys = matched(spec, weights.state, names, shapes, ours)
    filled = {name: weights.state[key].reshape(shapes[name]) for name, key in keys.items()}
    if layout.caffe_norm:
        filled = caffe.merged(filled)
    if layout.bgr:
        first = next(key for key in ours if key.startswith("conv1"))
        filled[first] = filled[first].flip(1)
    if spec.family == "cifar" and spec.option == "A":
        filled = with_padding_behind(filled)
    config = config or layout.config
    notices = (MEANS, POOLING) if layout.source.startswith(AUTHORS) else ()
    return Conversion(
        source=layout.source,
        network=spec.name,
        state={key: filled.get(key, torch.tensor(0)).detach().clone().contiguous() for key in ours},
        mapped=[(key, name) for name, key in keys.items()],
        config=replace(config, classes=None if body else classes_of(config, spec.family, classes)),
        notices=(*weights.notices, *notices),
        body=body,
    )


def classes_of(config: PretrainedConfig, family: str, classes: int) -> tuple[str, ...] | None:
    """The names of the weights' classes. Raises ValueError if the config has too few or many."""
    if config.classes is None:
        return class_names(family, classes)
    if len(config.classes) != classes:
        raise ValueError(
            f"{config.says}, and it names {len(config.classes):,} classes where the weights have "
            f"{classes:,}"
        )
    return config.classes


def matched(
    spec: ModelSpec,
    state: Mapping[str, Any],
    names: Mapping[str, str | None],
    shapes: Mapping[str, torch.Size],
    needed: Mapping[str, torch.Size],
) -> dict[str, str]:
    """Their key for each of our names. Raises Incomplete, which lists every key."""
    keys: dict[str, str] = {}
    unexpected: list[str] = []
    misshapen: dict[str, str] = {}
    for key, name in names.items():
        value = state[key]
        if name is None or name not in shapes or name in keys:
            unexpected.append(key)
        elif isinstance(value, Tensor) and fits(value.shape, shapes[name], spec):
            keys[name] = key
        else:
            form = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            misshapen[name] = f"{key} is {form} instead of {tuple(shapes[name])}"
    # Caffe's statistics are missing in all layers if they have been merged into scale and bias.
    merged = len(shapes) > len(needed) and not any("running_" in name for name in keys)
    optional = ("num_batches_tracked", "running_mean", "running_var")[: 3 if merged else 1]
    matched = keys.keys() | misshapen.keys()
    missing = [n for n in needed if n not in matched and not n.endswith(optional)]
    if not (missing or unexpected or misshapen):
        return keys
    depth = depth_of(name or "" for name in names.values())
    problems = {"missing": missing, "unexpected": unexpected}
    problems["of another shape"] = list(misshapen.values())
    raise Incomplete(
        f"nothing is converted, for these are not the weights of {spec.name}"
        + (
            f", but look like those of a network of {depth} layers"
            if depth not in (None, spec.depth)
            else ""
        )
        + f": {len(keys)} keys mapped"
        + "".join(f"; {what} {summarize(lines)}" for what, lines in problems.items() if lines),
        [f"{key} -> {name}" for name, key in keys.items()]
        + [f"{what}: {line}" for what, lines in problems.items() for line in lines],
    )


def fits(shape: torch.Size, wanted: torch.Size, spec: ModelSpec) -> bool:
    """Whether a tensor can be taken. A baseline's fully-connected layer may be a convolution."""
    return shape == wanted or (spec.family == "rival" and shape.numel() == wanted.numel())


def depth_of(names: Iterable[str]) -> int | None:
    """The depth of the network with these parameters, by our names; None if there is none."""
    names = list(names)
    blocks = {tuple(name.split(".")[:2]) for name in names if "_x." in name}
    counts = tuple(n for _, n in sorted(Counter(stage for stage, _ in blocks).items()))
    if len(counts) == 3 and len(set(counts)) == 1:
        return 6 * counts[0] + 2
    bottleneck = any(".branch.4." in name for name in names)
    rows = ((depth, (widens > 1, *row)) for depth, (_, widens, row) in ROWS.items())
    return next((depth for depth, row in rows if row == (bottleneck, *counts)), None)


# ---- files of ours ------------------------------------------------------------------------------


def write(conversion: Conversion, out: Path) -> None:
    """Write a weight file of ours. Raises ValueError if its image size is too small for it."""
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
    """The path of a run or a weight file of ours, or of public weights, downloaded and converted.

    Public weights have torchvision's names, e.g. resnet50.IMAGENET1K_V2, and are kept in
    `root/weights`. Raises ValueError for foreign files and unknown names, and OSError, saying where
    to put the file by hand, if the download fails.
    """
    path = Path(name)
    if path.exists():
        check_ours(path)
        return path
    weights = published.published(name)
    path = root / "weights" / f"{weights.name}.safetensors"
    if not path.exists():
        state = files.read(published.download(weights, root, progress))
        write(convert(state, weights.network, config=weights.config), path)
    return path


def check_ours(path: Path) -> None:
    """Raises ValueError for a file or folder of another program."""
    if path.is_dir():
        if not (path / "recipe.json").exists():
            raise ValueError(f"{path} is a folder, and no run")
        return
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            ours = "checksum" in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError, RuntimeError):
        ours = False
    if not ours:
        raise ValueError(
            f"{path} was not written by residual; first: "
            f"residual convert {path} --network NETWORK --out FILE"
        )
