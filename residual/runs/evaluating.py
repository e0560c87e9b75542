"""The verb `evaluate`: the error of a network, or of an ensemble, on data, by a named protocol."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.data.batches import evaluation_batches
from residual.data.images import Data, Images, Split, held_out
from residual.data.sources import DEFAULT_ROOT
from residual.data.sources import load as load_data
from residual.evaluation.errors import PROTOCOLS, best, count
from residual.runs.loading import Trained, load
from residual.world import Setting, setting


@dataclass(frozen=True)
class Judgement:
    """What `residual evaluate` prints."""

    record: dict[str, Any]
    damaged: tuple[str, ...]  # pictures that could not be read


def evaluate(
    paths: Sequence[Path | str] | Path | str,
    data: str,
    *,
    split: Split | None = None,
    protocol: str = "1crop",
    how: Setting | None = None,
) -> dict[str, Any]:
    """The error of one run or file, or of several as an ensemble; the keys say what it is.

    The split is the test set where there is one. Raises ValueError where classes do not match.
    """
    many = [paths] if isinstance(paths, str | Path) else list(paths)
    nets = [load(path) for path in many]
    loaded = load_data(data, DEFAULT_ROOT, size=nets[0].preprocessing.size[0])
    return judge(nets, loaded, split, protocol, how or setting(precision="float32")).record


def judge(
    nets: Sequence[Trained], data: Data, split: Split | None, protocol: str, how: Setting
) -> Judgement:
    """Each image once, in float32 unless the setting says otherwise. Raises ValueError where
    networks, classes or sizes do not go together."""
    how.apply()
    if nets[0].recipe is not None:
        data = held_out(data, nets[0].recipe.split)
    split = split or data.headline
    images = data.split(split)
    images = replace(images, labels=relabelled(nets[0], data, images))
    for net in nets:
        _check(net, nets[0], images, data.name)
    device = torch.device(how.device)
    begun = time.perf_counter()
    batches = evaluation_batches(images.to(device), nets[0].preprocessing.to(device))
    placed = [net.placed(how).net for net in nets]
    with how.autocast():
        answers = best(placed, batches, PROTOCOLS[protocol]).cpu()
    seconds = time.perf_counter() - begun
    found = count(answers, images.labels, damaged=len(images.damaged))
    names = [net.network for net in nets]
    few = answers.shape[1] < 5 or len(data.classes) < 6
    record = {
        **({"network": names[0]} if len(names) == 1 else {"networks": names}),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "split": split},
        "protocol": protocol,
        "seen": found.seen,
        "damaged": len(images.damaged),
        "wrong_top1": found.wrong_top1,
        "wrong_top5": None if few else found.wrong_top5,
        "error_top1": found.error_top1,
        "error_top5": None if few else found.error_top5,
        "images_per_second": round(len(images) / seconds, 1),
        "precision": how.precision,
    }
    return Judgement(record, tuple(path for path, _ in images.damaged))


def relabelled(net: Trained, data: Data, images: Images) -> Tensor:
    """The labels in the order of the network's classes, matched by name, not by place.

    Raises ValueError, with the names, where the data has a class that the network never learnt.
    """
    if net.classes is None or net.classes == data.classes:
        return images.labels
    unknown = [name for name in data.classes if name not in net.classes]
    if unknown:
        raise ValueError(
            f"{data.name} has classes that {net.network} does not know: {_few(unknown)}; "
            f"it knows {_few(net.classes)}"
        )
    place = torch.tensor([net.classes.index(name) for name in data.classes])
    return place[images.labels]


def _few(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_size(net: Trained, images: Images, name: str) -> None:
    """Raises ValueError where a network cannot look at these images."""
    if net.preprocessing.shorter is not None:
        raise ValueError(
            f"{net.network} is judged on crops of photographs, and only on small pictures can "
            f"networks be judged yet; residual predict takes photographs"
        )
    (height, width), (theirs_high, theirs_wide) = net.preprocessing.size, images.pixels.shape[2:]
    if (height, width) != (theirs_high, theirs_wide):
        raise ValueError(
            f"{net.network} takes pictures of {height}x{width} pixels, and those of {name} are "
            f"{theirs_high}x{theirs_wide}"
        )


def _check(net: Trained, first: Trained, images: Images, name: str) -> None:
    """Raises ValueError where a network cannot look at these images, or not beside the first."""
    same = torch.equal(net.preprocessing.mean, first.preprocessing.mean)
    if net.classes != first.classes or not same:
        raise ValueError(
            f"an ensemble is of networks that were trained on the same data; this {net.network} "
            f"and the first, {first.network}, differ in their classes or their preprocessing"
        )
    check_size(net, images, name)
