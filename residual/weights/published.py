"""What publishers say of their weights: what a picture goes through first, and the classes."""

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from residual.models.resnet import ROWS
from residual.storage import file_digest, read_json

Three = tuple[float, float, float]  # of red, green, blue
MEAN: Three = (0.485, 0.456, 0.406)  # of torchvision, timm and the CIFAR nets
STD: Three = (0.229, 0.224, 0.225)
CIFAR_10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


@dataclass(frozen=True)
class Card:
    """What a picture goes through before it meets certain weights, and what they know."""

    says: str  # where this was found, or why it is assumed
    mean: Three = MEAN  # of pixels in [0, 1]
    std: Three = STD
    size: tuple[int, int] = (224, 224)  # the centre that is cut out
    shorter: int | None = 256  # of a picture whose shorter side is made so many pixels
    classes: tuple[str, ...] | None = None
    variant: str | None = None  # of bottleneck nets, where a file beside the weights says it

    def __post_init__(self) -> None:
        """Raises ValueError for what no picture can go through."""
        sides = [*self.size, 1 if self.shorter is None else self.shorter]
        if not all(type(side) is int and 0 < side < 2**15 for side in sides):
            raise ValueError(f"a picture's sides are pixels, not {sides}")
        numbers = [*self.mean, *self.std]
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
            raise ValueError(f"means and divisors are numbers, not {numbers}")
        if len(numbers) != 6 or min(self.std) <= 0:
            raise ValueError(f"means and divisors are three each, and these not 0: {numbers}")

    def with_view(self, size: int | None, shorter: int | None) -> "Card":
        """Another size, or another shorter side. Raises ValueError where the centre is larger."""
        if size is None and shorter is None:
            return self
        changed = replace(
            self,
            says="the view of a picture is as the command line says",
            size=self.size if size is None else (size, size),
            shorter=self.shorter if shorter is None else shorter,
        )
        if changed.shorter is not None and changed.shorter < max(changed.size):
            raise ValueError(
                f"a centre of {changed.size[0]} pixels is not in a picture whose shorter side is "
                f"{changed.shorter}; give both --size and --shorter"
            )
        return changed


UNKNOWN = Card(
    "nothing says which published weights these are: the usual view of a picture is assumed, which "
    "--shorter and --size change, and ImageNet's names for 1,000 classes"
)
# Choice: the authors take the centre of 224 pixels of a picture whose shorter side is 256, less a
# mean image (their README). Where that is not given, we take the means of its channels that all
# ports use. Their weights expect 0 to 255, hence the divisor.
MSRA = Card(
    "the view of a picture is that of the authors' README",
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
)
CIFAR = Card("the size is CIFAR-10's", size=(32, 32), shorter=None)


def class_names(family: str, classes: int) -> tuple[str, ...] | None:
    """The classes of ImageNet or CIFAR-10, where there are so many."""
    if family == "cifar":
        return CIFAR_10 if classes == len(CIFAR_10) else None
    from torchvision.models import ResNet50_Weights

    names = tuple(ResNet50_Weights.DEFAULT.meta["categories"])
    return names if classes == len(names) else None


# ---- torchvision --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A file that torchvision gives out. Its name ends in how the file's sha256 begins."""

    name: str  # e.g. resnet50.IMAGENET1K_V2
    network: str
    url: str
    card: Card

    @property
    def file(self) -> str:
        return Path(urlsplit(self.url).path).name

    @property
    def sha256(self) -> str:
        return Path(self.file).stem.rpartition("-")[2]


@cache
def torchvisions() -> dict[str, Published]:
    """The weights of our networks that torchvision gives out, by name."""
    from torchvision.models import get_model_weights

    found = {}
    names = {f"resnet{n}": f"resnet{n}" + "-v1.5" * (row[1] > 1) for n, row in ROWS.items()}
    for theirs, network in (names | {"vgg16": "vgg16", "vgg19": "vgg19"}).items():
        for weights in get_model_weights(theirs):
            name, view = f"{theirs}.{weights.name}", weights.transforms()
            if "FEATURES" in name:  # the body of a detector, without a classifier
                continue
            card = Card(
                f"these are torchvision's {name}",
                mean=tuple(view.mean),
                std=tuple(view.std),
                size=(view.crop_size[0], view.crop_size[0]),
                shorter=view.resize_size[0],
                classes=tuple(weights.meta["categories"]),
            )
            found[name] = Published(name, network, weights.url, card)
    return found


def card_of(file: Path) -> Card | None:
    """What is known of a file: by its content if it is torchvision's, or from the config.json of
    timm or Hugging Face beside it.

    Raises ValueError where its name says that it is torchvision's and its content does not.
    """
    sha256 = file_digest(file, "sha256")
    for each in torchvisions().values():
        if sha256.startswith(each.sha256):
            return each.card
        if file.name == each.file:
            raise ValueError(
                f"{file} has the name of torchvision's {each.name} and other content (its sha256 "
                f"begins {sha256[:8]}): it is damaged, or else give it a name of its own"
            )
    config = file.parent / "config.json"
    known = read_json(config) if config.is_file() else {}
    if isinstance(known, dict) and "pretrained_cfg" in known:
        library, read = "timm", timms
    elif isinstance(known, dict) and known.get("model_type") == "resnet":
        library, read = "Hugging Face's ResNet", transformers
    else:
        return None
    try:
        return read(config, known)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{config} is no config.json of {library}: {error}") from error


# ---- timm ---------------------------------------------------------------------------------------


def timms(config: Path, known: dict[str, Any]) -> Card:
    """What timm's config.json says, under timm's own defaults (timm/data/config.py)."""
    view = known["pretrained_cfg"]
    # Choice: timm's usual view. For many weights it also names a larger one, for tests.
    _, height, width = view.get("input_size") or (3, 224, 224)
    filter_, mode = view.get("interpolation") or "bicubic", view.get("crop_mode") or "center"
    says = f"the view of a picture is that of {config}"
    if filter_ != "bilinear":
        says += f", which resizes by {filter_} interpolation: here it is bilinear, as everywhere"
    if mode != "center":
        says += f"; its crop mode is {mode}: here it is the centre"
    if view.get("test_input_size"):
        larger = view["test_input_size"][-1]
        shorter = math.floor(larger / (view.get("test_crop_pct") or view.get("crop_pct") or 0.875))
        says += f"; its other one, for tests, is --shorter {shorter} --size {larger}"
    names = known.get("label_names")
    if isinstance(names, dict):
        names = [names[str(i)] for i in range(len(names))]
    red, green, blue = view.get("mean") or MEAN
    divisors = view.get("std") or STD
    return Card(
        says,
        mean=(red, green, blue),
        std=(divisors[0], divisors[1], divisors[2]),
        size=(height, width),
        shorter=math.floor(min(height, width) / (view.get("crop_pct") or 0.875)),
        classes=tuple(map(str, names)) if names else None,
    )


# ---- Hugging Face -------------------------------------------------------------------------------


def transformers(config: Path, known: dict[str, Any]) -> Card:
    """What Hugging Face's config.json and preprocessor_config.json say of a ResNet, under the
    defaults of transformers (ResNetConfig and ConvNextImageProcessor)."""
    if known.get("hidden_act", "relu") != "relu" or known.get("downsample_in_first_stage", False):
        raise ValueError("its activation or its first stage is not the paper's")
    variant = "v1" if known.get("downsample_in_bottleneck", False) else "v1.5"
    where = {"v1": "first 1x1", "v1.5": "3x3"}[variant]
    says = f"{config} has the stride of bottlenecks in the {where} layer: the variant {variant}"
    beside = config.with_name("preprocessor_config.json")
    view = read_json(beside) if beside.is_file() else {}
    edge = view.get("size", 224)
    edge = int(edge["shortest_edge"] if isinstance(edge, dict) else edge)
    # Choice: from 384 pixels on, their pictures are made square, whatever their shape; here the
    # centre is taken. A resize is bilinear here, as everywhere; theirs is bicubic unless told.
    shorter = edge if edge >= 384 else int(edge / view.get("crop_pct", 224 / 256))
    names = known.get("id2label") or {}
    red, green, blue = view.get("image_mean") or MEAN
    divisors = view.get("image_std") or STD
    return Card(
        f"{says}; the view of a picture is "
        + (f"that of {beside}" if view else "the usual one, for there is no " + beside.name),
        mean=(red, green, blue),
        std=(divisors[0], divisors[1], divisors[2]),
        size=(edge, edge),
        shorter=shorter,
        classes=tuple(str(names[str(i)]) for i in range(len(names))) or None,
        variant=variant,
    )
