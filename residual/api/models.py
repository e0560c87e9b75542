"""Networks in Python: create by name, load a run, a file or public weights, predict, explain."""

import copy
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from residual.data.decode import decode
from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig, compute_config
from residual.export.engine import Engine, engine, probabilities
from residual.export.predict import Picture, answers, classifier, to_image
from residual.models import registry
from residual.runs.folder import is_detection
from residual.runs.load import Trained
from residual.storage import DEFAULT_ROOT, read_json
from residual.tasks.classification.inference import evaluation_mode
from residual.weights.convert import find_or_download
from residual.weights.published import public_names, shipped_files

Pictures = Picture | Iterable[Picture]
Answer = dict[str, Any]
Source = nn.Module | Trained | Path | str  # of a network

if TYPE_CHECKING:
    from residual.analysis.explain import Explanation

    class TrainedModel(nn.Module):
        """What `load` and `create_model` return: the network itself, with these attributes."""

        network: str
        classes: tuple[str, ...] | None
        transform: "Transform"
        recipe: Any  # of its training
        step: int | None
        card: dict[str, Any] | None  # of weights that come with the package
        predict: Callable[..., Any]  # see `residual.predict`
        explain: Callable[..., "Explanation"]  # of a classifier
else:
    TrainedModel = nn.Module


@dataclass(frozen=True)
class Transform:
    """From a picture of any size to the input (3, H, W) of a network: a path, a Pillow picture, an
    array (H, W, 3) or (H, W), or a tensor (3, H, W) or (H, W), of uint8."""

    preprocessing: Preprocessing
    longest: int | None = None  # of a detector, whose pictures keep their proportions

    def __call__(self, picture: Picture) -> Tensor:
        image, view = to_image(picture), self.preprocessing
        if self.longest is None:
            return view(decode(image, view.size, view.shorter)[None])[0]
        from residual.tasks.detection.loader import load_image

        return view(load_image(image, view.size[0], self.longest).pixels[None])[0]


def list_models(filter: str = "*") -> list[str]:
    """The names of all networks, or of those that fit a pattern.

    >>> list_models("resnet1??")
    ['resnet101', 'resnet152', 'resnet110']
    """
    return [name for name in registry.NETWORKS if fnmatch(name, filter)]


def create_model(
    name: str, pretrained: str | Path | bool | None = None, num_classes: int | None = None
) -> TrainedModel:
    """A network by name: images (N, 3, H, W) -> scores (N, classes).

    `pretrained` is what `load` takes, or the second half of a public name: `IMAGENET1K_V2` or
    `cifar10`; True takes the first public weights of this network. For another number of classes
    the last layer is new. Raises ValueError for an unknown name and for weights of another network.

    >>> net = create_model("resnet20", num_classes=3)
    >>> net(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 3])
    """
    network = registry.model_spec(name).name
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes is at least 1, not {num_classes}")
    if not pretrained:
        return attach(untrained(registry.build(name, num_classes), network))
    trained = load_trained(weights_name(network, pretrained))
    if trained.network != network:
        raise ValueError(f"the weights are those of {trained.network}, not of {network}")
    if num_classes not in (None, registry.num_classes(trained.net)):
        net, last = registry.build(name, num_classes), registry.classifier_parameters(network)
        state = trained.net.state_dict().items()
        net.load_state_dict({k: t for k, t in state if k not in last}, strict=False)
        trained = replace(trained, net=net, classes=None)
    return attach(trained)


def weights_name(network: str, pretrained: str | Path | bool) -> str:
    """The name of public weights of a network, or the path of others."""
    public = public_names()
    names = [name for name, other in public.items() if other == network]
    if pretrained is True:
        if not names:
            raise ValueError(f"there are no public weights of {network}")
        return names[0]
    fits = [name for name in names if name.partition(".")[2].lower() == str(pretrained).lower()]
    other = public.get(f"{network}.{pretrained}", network)
    if other != network:
        raise ValueError(
            f"the weights {network}.{pretrained} are those of {other}, not of {network}"
        )
    return fits[0] if fits else str(pretrained)


def load(source: Path | str, *, root: Path = DEFAULT_ROOT) -> TrainedModel:
    """The trained network of a run, a file, or public weights, e.g. `resnet50.IMAGENET1K_V2`.

    It is a classifier or a detector, in evaluation mode on the CPU, with attributes: `classes`,
    `transform` (a picture -> its input), `recipe`, `network`, `step`, and `predict` (pictures ->
    labels or objects). Public weights are kept under `root`. Raises ValueError and OSError, in a
    sentence.
    """
    trained = load_trained(source, root)
    for notice in trained.notices:  # an older checkpoint is read, because a newer one is damaged
        warnings.warn(notice, stacklevel=2)
    return attach(trained)


@torch.random.fork_rng(devices=[])  # what draws weights at first leaves the caller's generator
def load_trained(source: Path | str, root: Path = DEFAULT_ROOT, body: bool = False) -> Trained:
    """A trained network by the path of its run or file, or by the name of public weights. Only with
    `body=True` may the weights lack the last layer."""
    path = Path(source).expanduser()
    path = path if path.exists() else find_or_download(str(source), root.expanduser())
    if is_detection(path):
        from residual.tasks.detection.load import load

        return load(path)
    from residual.tasks.classification.load import load as load_classifier

    return load_classifier(path, body=body)


def attach(trained: Trained) -> TrainedModel:
    """The network with its classes and the rest as attributes. Its class stays what it is, and its
    methods `predict` and `explain` stay if it has them. Raises ValueError for other such names."""
    net, recipe, view = trained.net, trained.recipe, trained.preprocessing
    shipped = shipped_files().get(trained.source or "")
    attributes: dict[str, Any] = {
        "network": trained.network,
        "classes": trained.classes,
        "recipe": recipe,
        "step": trained.step,
        "card": read_json(shipped.with_suffix(".json")) if shipped else None,
        "predict": partial(predict, net),
        "explain": partial(explain, net),
    }
    if view is not None:
        attributes["transform"] = Transform(view, getattr(recipe, "longest", None))
    taken = [name for name, value in attributes.items() if getattr(net, name, value) is not value]
    if lost := [name for name in taken if name not in ("predict", "explain")]:
        raise ValueError(f"load sets {lost[0]!r}: rename that attribute of {type(net).__name__}")
    vars(net).update({name: value for name, value in attributes.items() if name not in taken})
    return cast("TrainedModel", net)


def untrained(net: nn.Module, network: str) -> Trained:
    """A network that has no preprocessing yet."""
    return Trained(net, network, None, cast("Any", None), None, None)


def as_trained(net: nn.Module) -> Trained:
    """A network with the attributes of `attach`, which shares its weights. Raises ValueError."""
    net = getattr(net, "_orig_mod", net)  # which torch.compile has wrapped
    values = vars(net)
    if "network" not in values or not isinstance(values.get("transform"), Transform):
        raise ValueError(
            f"this {type(net).__name__} has no preprocessing: give what residual.load or "
            f"residual.create_model with pretrained weights has returned"
        )
    view, recipe = values["transform"].preprocessing, values["recipe"]
    parts = net, values["network"], values["classes"], view, recipe, values["step"]
    if values["transform"].longest is None:
        return Trained(*parts)
    from residual.tasks.detection.load import TrainedDetector

    fused = copy.deepcopy(net).eval().float()  # for its layers are fused
    return TrainedDetector(cast("Any", fused), *parts[1:])


def explain(net: nn.Module, image: Picture, class_name: str | None = None) -> "Explanation":
    """The class activation map of a picture, for the best class or one by name, by a classifier
    that `load` returned. Raises ValueError for a detector and what `analysis.explain` raises."""
    from residual.analysis.explain import explain as explain_image

    trained = as_trained(net)
    if hasattr(trained, "annotations"):
        raise ValueError("a detector has no class activation map; its boxes show what it sees")
    return explain_image(trained, to_image(image), class_name)


# ---- predictions --------------------------------------------------------------------------------


@overload
def predict(  # type: ignore[overload-overlap]
    model: Source, images: Iterator[Picture], top: int = ..., *, min_score: float = ...,
    refine: bool = ..., multiscale: bool = ..., device: str | None = ...,
) -> Iterator[Answer]: ...  # fmt: skip
@overload
def predict(
    model: Source, images: Pictures, top: int = ..., *, min_score: float = ...,
    refine: bool = ..., multiscale: bool = ..., device: str | None = ...,
) -> list[Answer]: ...  # fmt: skip
def predict(
    model: Source,
    images: Pictures,
    top: int = 5,
    *,
    min_score: float = 0.5,
    refine: bool = False,
    multiscale: bool = False,
    device: str | None = None,
) -> list[Answer] | Iterator[Answer]:
    """What is on pictures, as a list of one dictionary for each, or an iterator of an iterator's.

    The model is a network that `load` returned, a run, a file, or public weights. A picture is a
    path, a Pillow image, an array (H, W, 3) or (H, W), or a tensor (3, H, W) or (H, W), of 8-bit
    values; batches of arrays and tensors are possible. A picture in memory gives the result of the
    same picture in a file. A classifier gives `{"image", "labels": [{"label", "probability"},
    ...]}`, the best `top`; a detector `{"image", "objects": [{"label", "score", "box"}, ...]}`,
    those of at least `min_score`, with boxes as left, top, right, bottom in pixels. A damaged
    picture gives `{"image", "error"}`. `image` is the path, or `image 0`, `image 1` and so on.

    A network is used where it is, or on `device`. Raises ValueError for anything but a picture.
    """
    if top < 1:
        raise ValueError(f"top is at least 1, not {top}")
    single = isinstance(images, str | Path | Image.Image) or (
        isinstance(images, np.ndarray | Tensor) and images.ndim < 4
    )
    if not single and not isinstance(images, Iterable):
        to_image(images)  # raises
    lazy = isinstance(images, Iterator)
    pictures: Iterable[Any] = map(to_image, cast("Any", [images] if single else images))
    if not lazy:
        pictures = list(pictures)  # each is checked before the first is looked at
    options = {"refine": refine, "multiscale": multiscale}
    results = results_of(model, pictures, top, min_score, device, **options)
    return results if lazy else list(results)


def results_of(
    model: Source,
    pictures: Iterable[Path | Image.Image],
    top: int,
    min_score: float,
    device: str | None,
    **options: bool,
) -> Iterator[dict[str, Any]]:
    """The results of `predict`, one by one."""
    threads = torch.get_num_threads()
    if isinstance(model, str | Path):
        model, device = load_trained(model), device or "auto"
    create = engine if isinstance(model, Trained) else live_engine
    trained = model if isinstance(model, Trained) else as_trained(model)
    config = ComputeConfig(str(next(trained.net.parameters()).device), threads)
    if device is not None:
        config = compute_config(device, threads, "float32")
        trained = replace(trained, net=copy.deepcopy(trained.net).to(config.device))
    if hasattr(trained, "annotations"):
        return config.iterate(objects(trained, pictures, min_score, config, **options))
    if any(options.values()):
        raise ValueError("refine and multiscale are for detectors")
    return config.iterate(answers(classifier(trained, create), pictures, top))


def objects(
    detector: Any,
    pictures: Iterable[Path | Image.Image],
    min_score: float,
    config: ComputeConfig,
    *,
    refine: bool,
    multiscale: bool,
) -> Generator[dict[str, Any]]:
    """The objects on pictures, one picture at a time."""
    from residual.tasks.detection import inference
    from residual.tasks.detection.recipe import choose_testing

    testing = choose_testing(detector.recipe, refine, multiscale, min_score)
    detect = inference.file_detector([detector], testing, config)
    yield from inference.predict(detect, detector.classes, pictures, min_score)


def live_engine(trained: Trained) -> Engine:
    """The network as it is at each call."""
    net = trained.net

    def infer(inputs: Tensor) -> Tensor:
        with evaluation_mode([net]):
            return probabilities(trained.network, net, inputs.to(next(net.parameters())))

    return infer
