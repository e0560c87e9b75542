"""Lists torchvision's weights, and reads the preprocessing and classes that weights expect."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from residual.data.datasets import Progress, no_progress
from residual.data.download import fetch
from residual.data.loader import IMAGENET_MEAN, IMAGENET_STD
from residual.data.sources import CIFAR10_CLASSES
from residual.models.resnet import ROWS
from residual.storage import file_digest, read_json

T = TypeVar("T")
STRIDES = {"v1": "first 1x1", "v1.5": "3x3"}  # the layer with a bottleneck's stride, by variant


@dataclass(frozen=True)
class PretrainedConfig:
    """The preprocessing that weights expect of an image, and their classes."""

    says: str  # the source of these values, as a sentence
    mean: tuple[float, ...] = IMAGENET_MEAN  # of pixels in [0, 1]; also for CIFAR-10 nets
    std: tuple[float, ...] = IMAGENET_STD
    size: tuple[int, int] = (224, 224)  # of the centre crop
    shorter: int | None = 256  # pixels of the resized image's shorter side
    classes: tuple[str, ...] | None = None
    variant: str | None = None  # of bottleneck nets, if a file beside the weights tells it

    def __post_init__(self) -> None:
        """Raises ValueError for impossible values."""
        sides = [*self.size, 1 if self.shorter is None else self.shorter]
        if not all(type(side) is int and 0 < side < 2**15 for side in sides):
            raise ValueError(f"the sides of an image are pixels, not {sides}")
        numbers = [*self.mean, *self.std]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise ValueError(f"mean and std are numbers, not {numbers}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std have three values, std above 0: not {numbers}")

    def with_view(self, size: int | None, shorter: int | None) -> "PretrainedConfig":
        """Another crop size or shorter side. Raises ValueError if the crop is larger."""
        if size is None and shorter is None:
            return self
        changed = replace(
            self,
            says="size and shorter side are those of the command line",
            size=self.size if size is None else (size, size),
            shorter=self.shorter if shorter is None else shorter,
        )
        if changed.shorter is not None and changed.shorter < max(changed.size):
            raise ValueError(
                f"a centre of {changed.size[0]} pixels is not in a picture whose shorter side is "
                f"{changed.shorter}; give both --size and --shorter"
            )
        return changed


UNKNOWN = PretrainedConfig(
    "the source of these weights is unknown: the usual size and shorter side are assumed, which "
    "--shorter and --size change, and ImageNet's names for 1,000 classes"
)
TORCHVISION = PretrainedConfig("size and shorter side are torchvision's usual ones")
CIFAR = PretrainedConfig("the size is CIFAR-10's", size=(32, 32), shorter=None)
# Choice: the authors subtract a mean image and take the centre 224 pixels of an image with a
# shorter side of 256 (their README). Without the mean image, we subtract its channel means, as all
# ports do. Their weights expect 0 to 255, hence the divisor.
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
MSRA = PretrainedConfig(
    "size and shorter side are those of the authors' README",
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=CAFFE_STD,
)
VGG = replace(MSRA, says="the means are those of VGG's Caffe release")
GOOGLENET = PretrainedConfig(
    "the means are those of Caffe's bvlc_googlenet",
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=CAFFE_STD,
)


def class_names(family: str, classes: int) -> tuple[str, ...] | None:
    """The classes of ImageNet or CIFAR-10, if this is their number."""
    if family == "cifar":
        return CIFAR10_CLASSES if classes == len(CIFAR10_CLASSES) else None
    from torchvision.models import ResNet50_Weights

    names = tuple(ResNet50_Weights.DEFAULT.meta["categories"])
    return names if classes == len(names) else None


# ---- torchvision --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A weight file of torchvision. The file's name ends in the first digits of its sha256."""

    name: str  # e.g. resnet50.IMAGENET1K_V2
    network: str
    url: str
    config: PretrainedConfig

    @property
    def file(self) -> str:
        return Path(urlsplit(self.url).path).name

    @property
    def sha256(self) -> str:
        return Path(self.file).stem.rpartition("-")[2]


@cache
def torchvision_files() -> dict[str, Published]:
    """Torchvision's weight files for our networks, by name."""
    from torchvision.models import get_model_weights

    files = {}
    networks = {f"resnet{n}": f"resnet{n}" + "-v1.5" * (row[1] > 1) for n, row in ROWS.items()}
    for model, network in (networks | {"vgg16": "vgg16", "vgg19": "vgg19"}).items():
        for weights in get_model_weights(model):
            name, view = f"{model}.{weights.name}", weights.transforms()
            if "FEATURES" in name:  # the body of a detector
                continue
            config = PretrainedConfig(
                f"these are torchvision's {name}",
                mean=tuple(view.mean),
                std=tuple(view.std),
                size=(view.crop_size[0], view.crop_size[0]),
                shorter=view.resize_size[0],
                classes=tuple(weights.meta["categories"]),
            )
            files[name] = Published(name, network, weights.url, config)
    return files


PRETRAINED = Path(__file__).with_name("pretrained")  # NETWORK.DATA.safetensors, ours


def shipped_files() -> dict[str, Path]:
    """The weights that come with the package, by name; beside each file is its card, in JSON."""
    return {path.stem: path for path in sorted(PRETRAINED.glob("*.safetensors"))}


def public_names() -> dict[str, str]:
    """The names of all public weights, and the network of each; ours come first."""
    theirs = {name: file.network for name, file in torchvision_files().items()}
    return {name: name.partition(".")[0] for name in shipped_files()} | theirs


def network_of(name: str) -> tuple[str, dict[str, Any]]:
    """The network of public weights, and what is known of them; any other name itself."""
    if shipped := find(name, shipped_files()):
        return shipped.stem.partition(".")[0], dict(read_json(shipped.with_suffix(".json")))
    if "." not in name.removesuffix("-v1.5"):
        return name, {}
    theirs = find(name, torchvision_files())
    return (theirs.network, {"weights": theirs.config.says}) if theirs else (name, {})


def find(name: str, weights: Mapping[str, T]) -> T | None:
    """Public weights by name, in any case; torchvision's own spelling is accepted."""
    plain = name.replace("_Weights.", ".").lower()
    return next((value for key, value in weights.items() if key.lower() == plain), None)


def published(name: str) -> Published:
    """Torchvision's weights by its name for them. Raises ValueError for an unknown name."""
    if weights := find(name, torchvision_files()):
        return weights
    raise ValueError(
        f"there is no file {name}, and no public weights of that name; there are "
        f"{', '.join(public_names())}"
    )


def download(weights: Published, root: Path, progress: Progress = no_progress) -> Path:
    """The path of torchvision's file in `root/weights`, downloaded if necessary, and verified.

    Raises ValueError if the existing file is damaged, else like `fetch`.
    """
    file = root / "weights" / weights.file
    if not file.exists():
        fetch([weights.url], file, weights.sha256, progress, algorithm="sha256")
        return file
    sha256 = file_digest(file, "sha256")
    if not sha256.startswith(weights.sha256):
        raise ValueError(
            f"{file} is damaged or incomplete (its sha256 begins {sha256[:8]} and should begin "
            f"{weights.sha256}); delete it, and it is fetched again"
        )
    return file


# ---- configurations beside files ----------------------------------------------------------------


def config_of(file: Path) -> PretrainedConfig | None:
    """The configuration of a weight file: torchvision's, by the file's content, or that of
    timm's or Hugging Face's config.json beside it.

    Raises ValueError if the file has a name of torchvision's, but other content.
    """
    sha256 = file_digest(file, "sha256")
    for weights in torchvision_files().values():
        if sha256.startswith(weights.sha256):
            return weights.config
        if file.name == weights.file:
            raise ValueError(
                f"{file} has the name of torchvision's {weights.name} and other content (its "
                f"sha256 begins {sha256[:8]}): it is damaged, or should have another name"
            )
    path = file.parent / "config.json"
    values = read_json(path) if path.is_file() else {}
    if isinstance(values, dict) and "pretrained_cfg" in values:
        library, read = "timm", timm_config
    elif isinstance(values, dict) and values.get("model_type") == "resnet":
        library, read = "Hugging Face's ResNet", transformers_config
    else:
        return None
    try:
        return read(path, values)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path} is no config.json of {library}: {error}") from error


def timm_config(path: Path, values: dict[str, Any]) -> PretrainedConfig:
    """The configuration in timm's config.json, with timm's defaults (timm/data/config.py)."""
    view = values["pretrained_cfg"]
    # Choice: timm's usual size. Many of its weights name a larger one, too, for tests.
    _, height, width = view.get("input_size") or (3, 224, 224)
    interpolation, mode = view.get("interpolation") or "bicubic", view.get("crop_mode") or "center"
    says = f"size and shorter side are those of {path}"
    if interpolation != "bilinear":
        says += f", which resizes by {interpolation} interpolation: here it is always bilinear"
    if mode != "center":
        says += f"; its crop mode is {mode}: here it is the centre"
    if view.get("test_input_size"):
        larger = view["test_input_size"][-1]
        shorter = math.floor(larger / (view.get("test_crop_pct") or view.get("crop_pct") or 0.875))
        says += f"; its larger size, for tests, is --shorter {shorter} --size {larger}"
    names = values.get("label_names")
    if isinstance(names, dict):
        names = [names[str(i)] for i in range(len(names))]
    return PretrainedConfig(
        says,
        mean=tuple(view.get("mean") or IMAGENET_MEAN),
        std=tuple(view.get("std") or IMAGENET_STD),
        size=(height, width),
        shorter=math.floor(min(height, width) / (view.get("crop_pct") or 0.875)),
        classes=tuple(map(str, names)) if names else None,
    )


def transformers_config(path: Path, values: dict[str, Any]) -> PretrainedConfig:
    """The configuration in Hugging Face's config.json and preprocessor_config.json of a ResNet,
    with the defaults of transformers (ResNetConfig and ConvNextImageProcessor)."""
    if values.get("hidden_act", "relu") != "relu" or values.get("downsample_in_first_stage", False):
        raise ValueError("its activation or its first stage is not the paper's")
    variant = "v1" if values.get("downsample_in_bottleneck", False) else "v1.5"
    other = path.with_name("preprocessor_config.json")
    view = read_json(other) if other.is_file() else {}
    edge = view.get("size", 224)
    edge = int(edge["shortest_edge"] if isinstance(edge, dict) else edge)
    # Choice: from 384 pixels on, transformers resizes images to squares; here the centre is cut.
    # Resizing is bilinear, as everywhere here; transformers' default is bicubic.
    shorter = edge if edge >= 384 else int(edge / view.get("crop_pct", 224 / 256))
    names = values.get("id2label") or {}
    return PretrainedConfig(
        f"{path} has the stride of bottlenecks in the {STRIDES[variant]} layer: the variant "
        f"{variant}; size and shorter side are "
        + (f"those of {other}" if view else f"the usual ones, for there is no {other.name}"),
        mean=tuple(view.get("image_mean") or IMAGENET_MEAN),
        std=tuple(view.get("image_std") or IMAGENET_STD),
        size=(edge, edge),
        shorter=shorter,
        classes=tuple(str(names[str(i)]) for i in range(len(names))) or None,
        variant=variant,
    )
