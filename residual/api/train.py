"""Training in Python: of a network by name or of a user's module, on data by name or in memory."""

import copy
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from residual.api.models import Transform, as_trained, attach, load_trained, untrained
from residual.data import arrays
from residual.data.datasets import Data, no_progress
from residual.data.sources import data_source
from residual.device import ComputeConfig, compute_config, training_config
from residual.models.registry import build, build_meta, is_user_class, num_classes
from residual.runs import folder, session
from residual.runs.environment import existing_data
from residual.runs.load import Trained
from residual.storage import DEFAULT_ROOT, read_json, read_json_object
from residual.tasks import DETECTOR, refuse_boxes, task_module
from residual.tasks.classification import loader
from residual.tasks.classification.load import check_shapes
from residual.tasks.classification.train import takes_photographs
from residual.training.events import Event, RunOptions
from residual.training.recipe import Recipe

# A name or a folder, arrays in memory (images, labels, classes), or what `array_data` returns.
DataLike = str | Path | tuple[Any, ...] | Data


def train(
    model: str | nn.Module | None = None,
    data: DataLike = "digits",
    *,
    recipe: str | Recipe = "auto",
    steps: int | None = None,
    out: Path | str | None = None,
    weights: Path | str | nn.Module | None = None,
    teacher: Path | str | None = None,
    test_curve: bool = False,
    workers: int = 0,
    device: str = "auto",
    threads: int = 0,
    precision: str = "auto",
    deterministic: bool = False,
    config: ComputeConfig | None = None,
    checkpoint_minutes: float = 5.0,
    root: Path | str = DEFAULT_ROOT,
    **changes: Any,
) -> Iterator[Event]:
    """Train a network and yield an event after each step; the last one has the result.

    `model` is a network's name, `fasterrcnn-NETWORK` for a detector, a network of `create_model` or
    `load`, or a module of your own; a module is the beginning, and stays as it is. `data` is the
    name of a data set, a folder, or arrays `(images, labels, classes)`: images (N, H, W, 3) uint8
    and labels (N,). A fifth is the test set, unless a fourth element is `(images, labels)` for it.
    `recipe` is a recipe or its name, by default the usual one; `steps` scales its schedule, and
    `changes` are fields of it, such as `seed=1`, `batch=64` or `bad_images="skip"`.

    The run is kept in `out`, by default runs/<network>-<n>. Whoever closes the generator, or leaves
    it, leaves a run for `resume`. `config` replaces device, threads, precision and deterministic.
    Raises ValueError and OSError, in a sentence.

    >>> for event in train("resnet8", "digits", steps=2, out=folder / "first"):
    ...     pass
    >>> event.result["seen"]
    360
    """
    model = getattr(model, "_orig_mod", model)  # which torch.compile has wrapped
    task = "detection" if is_detector(model, recipe) else "classification"
    if isinstance(model, nn.Module) and weights is not None:
        raise ValueError("a module has weights already; name others with a network's name")
    place = str(data) if isinstance(data, str | Path) else arrays.NAME
    usual, chosen = choose_recipe(task, network_name(model, recipe), place, recipe, steps, changes)
    options: dict[str, Any] = {}
    if task == "classification":
        options = {"test_curve": test_curve, "teacher": Path(teacher) if teacher else None}
        config = config or training_config(device, threads, precision, deterministic)
    elif teacher or test_curve:
        raise ValueError("teacher and test_curve are for classifiers")
    else:
        exact = "float32" if precision == "auto" else precision
        config = config or compute_config(device, threads, exact, deterministic)
    module, root = task_module(task), Path(root).expanduser()
    source, initial = data_source(place, root), initial_weights(model, weights, root)
    if not isinstance(model, nn.Module):  # what is wrong is refused before data is read
        chosen = module.complete_recipe(chosen, config, initial, **options)
    loaded = open_data(task, chosen, data, source, workers)
    if isinstance(model, nn.Module) and initial is not None and task == "classification":
        initial = checked_module(initial, chosen, loaded, workers)
    module.check_effects(chosen, usual, loaded)
    if isinstance(model, nn.Module):
        chosen = module.complete_recipe(chosen, config, initial, **options)
    path = None if out is None else Path(out).expanduser()
    run = module.begin(path, chosen, loaded, source, config, initial, **options)
    for notice in (*module.notices(chosen, usual, loaded), *getattr(loaded, "notices", ())):
        yield Event(0, notice=notice, run=run)
    yield from advance(task, run, loaded, RunOptions(checkpoint_minutes, workers=workers))


def resume(
    run: Path | str,
    data: DataLike | None = None,
    *,
    workers: int = 0,
    checkpoint_minutes: float = 5.0,
    root: Path | str | None = None,
) -> Iterator[Event]:
    """Take the steps that remain of a run; its result is that of an uninterrupted run.

    `data` is where the data lies now, or the same arrays again. Raises ValueError and OSError, in a
    sentence, for other data, another machine or other versions.
    """
    run = Path(run).expanduser()
    task, environment = folder.task_of(run), read_json_object(run / "environment.json")
    if data is None:
        data = existing_data(run, environment["data"]["where"])
    place = str(data) if isinstance(data, str | Path) else arrays.NAME
    source = data_source(place, Path(root or environment["data"]["root"]))
    classes = tuple(read_json(run / "classes.json"))
    recipe = task_module(task).read_recipe(run)
    loaded = open_data(task, recipe, data, source, workers, classes)
    yield from advance(task, run, loaded, RunOptions(checkpoint_minutes, workers=workers))


def advance(task: str, run: Path, data: Any, options: RunOptions) -> Iterator[Event]:
    """The events of a run, with its folder."""
    with closing(cast("Any", task_module(task).advance(run, data, options))) as events:
        for event in events:
            yield replace(event, run=run)


def is_detector(model: str | nn.Module | None, recipe: str | Recipe) -> bool:
    """Whether a detector is asked for."""
    if isinstance(model, nn.Module):
        return getattr(vars(model).get("transform"), "longest", None) is not None
    return str(model).startswith(DETECTOR) or getattr(recipe, "task", "") == "detection"


def network_name(model: str | nn.Module | None, recipe: str | Recipe) -> str:
    """The name of a network, or the path of a user's class: module:Class. Raises ValueError."""
    if isinstance(model, nn.Module):
        kind = type(model)
        return str(vars(model).get("network", f"{kind.__module__}:{kind.__qualname__}"))
    if model is None:
        return "resnet20" if isinstance(recipe, str) else recipe.network
    if not isinstance(model, str):
        raise ValueError(f"{model!r:.60} is no network: give its name, or a torch.nn.Module")
    return model.removeprefix(DETECTOR)


def choose_recipe(
    task: str,
    network: str,
    place: str,
    recipe: str | Recipe,
    steps: int | None,
    changes: dict[str, Any],
) -> tuple[Any, Any]:
    """The usual recipe, and the one that is asked for. Raises ValueError."""
    if not isinstance(recipe, str | Recipe):
        raise ValueError(f"{recipe!r:.60} is no recipe: give its name, or a recipe")
    if task == "detection" and place == arrays.NAME:
        raise ValueError("a detector is trained on a folder of PASCAL VOC's form, or of COCO's")
    usual, chosen = task_module(task).choose_recipe(network, place, recipe, steps, changes)
    if task == "detection":
        from residual.tasks.detection.train import with_splits

        chosen = with_splits(chosen, place, changes)
    return usual, chosen


def initial_weights(
    model: str | nn.Module | None, weights: Path | str | nn.Module | None, root: Path
) -> Trained | None:
    """The network whose weights a training begins with; its preprocessing may be missing."""
    net = model if isinstance(model, nn.Module) else weights
    if not isinstance(net, nn.Module):
        return None if net is None else load_trained(net, root, body=True)
    if net is weights or isinstance(vars(net).get("transform"), Transform):
        return as_trained(net)
    return untrained(net, network_name(net, ""))


def open_data(
    task: str,
    recipe: Any,
    data: DataLike,
    source: dict[str, str],
    workers: int,
    classes: tuple[str, ...] | None = None,
) -> Any:
    """The data of a training. Raises ValueError for data of another task or kind."""
    if task == "detection" or isinstance(data, str | Path):
        if task == "classification":
            refuse_boxes(source["where"])
        return task_module(task).load_data(recipe, source, workers, no_progress, classes)
    return in_memory(data, takes_photographs(recipe.network))


def in_memory(data: Any, as_files: bool) -> Data:
    """Data in memory. Raises ValueError for anything else."""
    if isinstance(data, Data):
        return data
    if not isinstance(data, tuple) or len(data) not in (3, 4):
        kind = f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__
        raise ValueError(
            f"{kind} is no data: name digits, cifar10 or a folder, or give arrays as a tuple "
            f"(images, labels, classes)"
        )
    return arrays.array_data(*data, as_files=as_files)


def checked_module(initial: Trained, recipe: Any, data: Data, workers: int) -> Trained:
    """A module as the beginning of a training, with the preprocessing of the recipe if it has none.
    Raises ValueError for one that cannot be rebuilt from its name or its class."""
    if not isinstance(vars(initial.net).get("transform"), Transform):
        measured = loader.preprocessing(recipe, data, workers)
        initial = replace(initial, preprocessing=measured)
    if is_user_class(recipe.network):
        check_rebuilt(initial, recipe.network, len(data.classes))
        return replace(initial, classes=data.classes)
    check_frozen(initial.net, build_meta(recipe.network))
    outputs = num_classes(initial.net)
    tensors = {f"net.{name}": tensor for name, tensor in initial.net.state_dict().items()}
    check_shapes(tensors, recipe.network, outputs)
    fits = initial.classes is None and outputs == len(data.classes)
    return replace(initial, classes=data.classes) if fits else initial


def check_frozen(net: nn.Module, again: nn.Module) -> None:
    """Raises ValueError where a parameter is frozen, and not in the network built again, or the
    other way round."""
    for (name, tensor), fresh in zip(net.named_parameters(), again.parameters(), strict=False):
        if tensor.requires_grad != fresh.requires_grad:
            raise ValueError(
                f"a training builds the network again, and would not keep requires_grad of {name}: "
                "set it in __init__ of a class of your own, or not at all"
            )


def check_rebuilt(initial: Trained, path: str, classes: int) -> None:
    """Raises ValueError unless the class of a user's module builds it again, and it has a score for
    each class."""
    net, size = initial.net, initial.preprocessing.size
    inputs = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        again = session.fresh(0, lambda: build(path, classes)).eval()
        again.load_state_dict(net.state_dict())
        with torch.no_grad():
            scores, expected = again(inputs.clone()), copy.deepcopy(net).cpu().eval()(inputs)
        attach(replace(initial, net=again, classes=("",), recipe="", step=-1))
        reason = "" if torch.equal(scores, expected) else "the same weights give other scores"
        if tuple(scores.shape) != (2, classes):
            reason = f"two images give {tuple(scores.shape)}, not scores of {classes} classes"
    except Exception as error:  # whatever a user's class raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    if reason:
        raise ValueError(
            f"this {type(net).__name__} cannot be rebuilt by its class {path}, which takes "
            f"num_classes or nothing: {reason}"
        )
    check_frozen(net, again)
