"""The verb `evaluate`: the error of a network, or of an ensemble, on data, by a named protocol."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.data.datasets import Data, Photographs, Set, held_out
from residual.data.filenames import Split
from residual.data.sources import DEFAULT_ROOT
from residual.data.sources import load as load_data
from residual.device import ComputeConfig, setting
from residual.models.registry import check_input, num_classes
from residual.runs.load import Trained, load
from residual.tasks.classification.inference import Judged, Work, answers, sides, unread
from residual.tasks.classification.metrics import count
from residual.tasks.classification.protocols import PROTOCOLS, Protocol
from residual.tasks.classification.protocols import protocol as protocol_named


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
    protocol: str | Protocol = "1crop",
    how: ComputeConfig | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """The error of one run or file, or of several as an ensemble; the keys say what it is.

    The split is the test set where there is one. Raises ValueError where classes do not match.
    """
    many = [paths] if isinstance(paths, str | Path) else list(paths)
    nets = [load(path) for path in many]
    before = nets[0].preprocessing
    whole = before.shorter is not None
    loaded = load_data(data, DEFAULT_ROOT, size=before.size[0], whole=whole, workers=workers)
    chosen = protocol_named(protocol) if isinstance(protocol, str) else protocol
    work = Work(how or setting(precision="float32"), workers)
    return judge(nets, loaded, split, chosen, work).record


def judge(
    nets: Sequence[Trained], data: Data, split: Split | None, protocol: Protocol, work: Work
) -> Judgement:
    """Each image once, in float32 unless the setting says otherwise. Raises ValueError where
    networks, classes, sizes or the protocol do not go together."""
    if nets[0].recipe is not None:
        data = held_out(data, nets[0].recipe.split)
    split = split or data.headline
    images = data.split(split)
    images = replace(images, labels=relabelled(nets[0], data, images.labels))
    for net in nets:
        check_beside(net, nets[0])
        check_size(net, images, data.name)
    check_protocol(nets[0], images, protocol)
    judged = [in_order(net.placed(work.how), nets[0]) for net in nets]
    begun = time.perf_counter()
    found = answers(judged, images, protocol, work)
    seconds = time.perf_counter() - begun
    damaged = [path for path, _ in images.damaged]
    counted = count(found, images.labels.cpu(), damaged=len(damaged))
    if isinstance(images, Photographs):
        damaged += [images.name(i) for i in unread(found).tolist()]
    names = [net.network for net in nets]
    few = min(len(data.classes), num_classes(nets[0].net)) < 6
    record = {
        **({"network": names[0]} if len(names) == 1 else {"networks": names}),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "split": split},
        **described(protocol, judged, images),
        "seen": counted.seen,
        "damaged": len(damaged),
        "wrong_top1": counted.wrong_top1,
        "wrong_top5": None if few else counted.wrong_top5,
        "error_top1": counted.error_top1,
        "error_top5": None if few else counted.error_top5,
        "images_per_second": round(len(images) / seconds, 1),
        "precision": work.how.precision,
    }
    return Judgement(record, tuple(damaged))


def described(protocol: Protocol, nets: Sequence[Judged], images: Set) -> dict[str, Any]:
    """The protocol in a record, so that no other can be taken for it. Sizes are in pixels."""
    large = isinstance(images, Photographs)
    return {
        "protocol": protocol.name,
        "resize": sorted({side for net in nets for side in sides(net.preprocessing, protocol)})
        if large
        else None,  # shorter sides
        "crop": list(nets[0].preprocessing.size) if large and not protocol.whole else None,
        "interpolation": "bilinear, antialiased" if large else None,
        "mirror": protocol.mirror,
        "views": protocol.views,
        "averaged": protocol.average,
    }


def in_order(net: Trained, first: Trained) -> Judged:
    """A network whose scores come in the order of the first one's classes."""
    if net.classes is None or first.classes is None or net.classes == first.classes:
        return Judged(net.net, net.preprocessing, name=net.network)
    place = {name: i for i, name in enumerate(net.classes)}
    order = torch.tensor([place[n] for n in first.classes])
    return Judged(net.net, net.preprocessing, order, net.network)


def relabelled(net: Trained, data: Data, labels: Tensor) -> Tensor:
    """The labels in the order of the network's classes, matched by name, not by place.

    The data may have fewer classes. Raises ValueError, with the names, where it has one that the
    network never learnt, and where they cannot be matched.
    """
    if net.classes == data.classes:
        return labels
    if net.classes is None:
        if num_classes(net.net) != len(data.classes):
            raise ValueError(
                f"{net.network} has {num_classes(net.net)} classes without names, and {data.name} "
                f"has {len(data.classes)}"
            )
        return labels
    place = {name: i for i, name in enumerate(net.classes)}
    unknown = [name for name in data.classes if name not in place]
    if unknown:
        raise ValueError(
            f"{data.name} has classes that {net.network} does not know: {_few(unknown)}; "
            f"it knows {_few(net.classes)}"
        )
    return torch.tensor([place[name] for name in data.classes])[labels]


def _few(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_size(net: Trained, images: Set, name: str) -> None:
    """Raises ValueError where a network cannot look at these images."""
    (height, width), shorter = net.preprocessing.size, net.preprocessing.shorter
    if isinstance(images, Photographs):
        if shorter is None:
            raise ValueError(
                f"{net.network} takes pictures of {height}x{width} pixels, and no photographs"
            )
        return
    if shorter is not None:
        raise ValueError(f"{net.network} takes photographs, and {name} has small pictures")
    theirs_high, theirs_wide = images.pixels.shape[2:]
    if (height, width) != (theirs_high, theirs_wide):
        raise ValueError(
            f"{net.network} takes pictures of {height}x{width} pixels, and those of {name} are "
            f"{theirs_high}x{theirs_wide}"
        )


def check_protocol(net: Trained, images: Set, protocol: Protocol) -> None:
    """Raises ValueError where a protocol has no meaning for a network."""
    if not isinstance(images, Photographs):
        if replace(protocol, average="probabilities") != PROTOCOLS["1crop"]:
            raise ValueError(
                f"{net.network} takes small pictures, of which there is one view (Sec. 4.2): "
                f"protocol 1crop, without sides and without a mirror"
            )
        return
    size, least = net.preprocessing.size, min(sides(net.preprocessing, protocol))
    if not protocol.whole and least < max(size):
        raise ValueError(
            f"a crop of {size[0]}x{size[1]} is not in a picture whose shorter side is {least}; "
            f"choose larger sides"
        )
    if protocol.whole:
        check_input(net.network, least)


def check_beside(net: Trained, first: Trained) -> None:
    """Raises ValueError where a network cannot answer together with the first."""
    if (net.classes is None) != (first.classes is None):
        differ = "only one of them knows the names of its classes"
    elif len({num_classes(each.net) for each in (net, first)}) > 1 or (
        set(net.classes or ()) != set(first.classes or ())
    ):
        differ = "they differ in their classes"
    elif net.preprocessing.size != first.preprocessing.size:
        sizes = ["x".join(map(str, each.preprocessing.size)) for each in (net, first)]
        differ = f"they take pictures of {' and '.join(sizes)} pixels"
    else:
        return
    raise ValueError(
        f"the networks of an ensemble have the same classes and the same size of pictures; of this "
        f"{net.network} and the first, {first.network}: {differ}"
    )
