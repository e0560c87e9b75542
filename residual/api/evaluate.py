"""Evaluation in Python: the error of a classifier, or the average precision of a detector."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from residual.api.models import Source, as_trained, load_trained
from residual.api.train import DataLike, in_memory
from residual.data.datasets import Data
from residual.data.folder_index import Split
from residual.data.sources import load as load_data
from residual.device import ComputeConfig, compute_config
from residual.runs.environment import check_split, existing_data
from residual.runs.folder import check_division
from residual.runs.load import Trained
from residual.storage import DEFAULT_ROOT, read_json_object
from residual.tasks import refuse_boxes
from residual.tasks.classification.evaluate import evaluate_ensemble
from residual.tasks.classification.inference import InferenceOptions
from residual.tasks.classification.protocols import Protocol, get_protocol


@dataclass(frozen=True)
class EvalResult:
    """The result of an evaluation. Errors and average precision are in percent."""

    networks: tuple[str, ...]
    data: str  # its name
    protocol: str
    seen: int  # images, each of them once
    damaged: tuple[str, ...]  # images that could not be read; they count as wrong, or as empty
    per_class: Mapping[str, Any]  # `Count` of a classifier; AP50-area of a detector
    record: Mapping[str, Any]  # what `residual evaluate --json` prints
    wrong_top1: int | None = None  # of a classifier
    wrong_top5: int | None = None  # of one with six classes or more
    error_top1: float | None = None
    error_top5: float | None = None
    ap: Mapping[str, float | None] | None = None  # of a detector, by the name of the measure


def evaluate(
    models: Source | Sequence[Source],
    data: DataLike | None = None,
    *,
    split: str | None = None,
    protocol: str | Protocol = "1crop",
    refine: bool = False,
    multiscale: bool = False,
    workers: int = 0,
    device: str = "auto",
    config: ComputeConfig | None = None,
    root: Path | str = DEFAULT_ROOT,
) -> EvalResult:
    """The error of a network by a named protocol, or of several as an ensemble.

    A network is one that `load` has returned, a run, a file, or public weights. `data` is as in
    `train`, by default that of the run; arrays are evaluated as a whole. The split is the test set
    if there is one. `refine` and `multiscale` are for detectors. Raises ValueError and OSError, in
    a sentence, if networks, classes and data do not go together.

    >>> result = evaluate(run, "digits")
    >>> result.seen == sum(count.images for count in result.per_class.values())
    True
    """
    root = Path(root).expanduser()
    sources: list[Any] = list(models) if isinstance(models, list | tuple) else [models]
    if not sources:
        raise ValueError("there is no network to evaluate")
    config = config or compute_config(device, torch.get_num_threads(), "float32")
    nets, first = [trained_copy(source, root) for source in sources], sources[0]
    if data is None:
        data, root = default_data(first)
    if all(hasattr(net, "annotations") for net in nets):
        if protocol != "1crop" or not isinstance(data, str | Path):
            raise ValueError("a detector is evaluated on a folder, without a protocol")
        return evaluate_detectors(nets, first, data, split, refine, multiscale, config, workers)
    if any(hasattr(net, "annotations") for net in nets):
        raise ValueError("an ensemble has classifiers or detectors, not both")
    if refine or multiscale:
        raise ValueError("refine and multiscale are for detectors")
    if split not in (None, "train", "val", "test"):
        raise ValueError(f"no split {split!r}; there are test, val and train")
    for source in sources if isinstance(data, str | Path) and split != "train" else ():
        if isinstance(source, str | Path):
            check_split(Path(source).expanduser(), str(data))
    loaded = evaluation_data(data, nets[0], workers, root)
    views = get_protocol(protocol) if isinstance(protocol, str) else protocol
    options = InferenceOptions(config, workers)
    part = cast("Split | None", split)
    record, damaged, by_class = evaluate_ensemble(nets, loaded, part, views, options)
    counts = zip(nets[0].classes or loaded.classes, by_class, strict=True)
    return EvalResult(
        tuple(net.network for net in nets), loaded.name, record["protocol"], record["seen"],
        tuple(damaged), {name: count for name, count in counts if count.images}, record,
        *(record[key] for key in ("wrong_top1", "wrong_top5", "error_top1", "error_top5")),
    )  # fmt: skip


def trained_copy(source: Any, root: Path) -> Trained:
    """A trained network, which may be moved and fused, in float32 or with more bits."""
    if isinstance(source, str | Path):
        return load_trained(source, root)
    if not isinstance(source, nn.Module | Trained):
        raise ValueError(f"{source!r:.60} is no network: give a run, or what residual.load returns")
    trained = source if isinstance(source, Trained) else as_trained(source)
    net = copy.deepcopy(trained.net)
    wide = next(net.parameters()).dtype == torch.float64
    return replace(trained, net=net if wide else net.float())


def default_data(source: Source) -> tuple[str, Path]:
    """The data that a run was trained on, and its root. Raises ValueError."""
    run = Path(source).expanduser() if isinstance(source, str | Path) else None
    if run is None or not (run / "environment.json").exists():
        raise ValueError("this is no run; name the data to evaluate it on")
    data = read_json_object(run / "environment.json")["data"]
    return existing_data(run, data["where"]), Path(data["root"])


def evaluation_data(data: DataLike, net: Trained, workers: int, root: Path) -> Data:
    """The data of an evaluation, as the network takes it. Arrays are the test set."""
    view = net.preprocessing
    as_files = view.shorter is not None
    if isinstance(data, str | Path):
        refuse_boxes(str(data))
        return load_data(str(data), root, size=view.size[0], as_files=as_files, workers=workers)
    if isinstance(data, tuple) and len(data) == 3:
        data = (*data, data[:2])
    return in_memory(data, as_files)


def evaluate_detectors(
    detectors: Sequence[Any],
    source: Source,
    data: str | Path,
    split: str | None,
    refine: bool,
    multiscale: bool,
    config: ComputeConfig,
    workers: int,
) -> EvalResult:
    """The average precision of a detector, or of an ensemble."""
    from residual.tasks.detection import datasets
    from residual.tasks.detection import evaluate as detection
    from residual.tasks.detection.metrics import MEASURES
    from residual.tasks.detection.recipe import choose_testing

    recipe = detectors[0].recipe
    split = split or recipe.test_split
    dataset = datasets.load(Path(data).expanduser(), split, detectors[0].classes, recipe.reading)
    if isinstance(source, str | Path):
        names = [example.name for example in dataset.examples]
        check_division(Path(source).expanduser(), split, names)
    testing = choose_testing(recipe, refine, multiscale)
    options = detection.EvalOptions(config, max(workers, 1))
    record = detection.evaluate(detectors, dataset, testing, options)
    ap = {name: record["ap"][name]["mean"] for name in MEASURES}
    return EvalResult(
        tuple(record["networks"]), dataset.name, record["protocol"], record["seen"],
        tuple(record["damaged"]), record["ap"]["AP50-area"]["classes"], record, ap=ap,
    )  # fmt: skip
