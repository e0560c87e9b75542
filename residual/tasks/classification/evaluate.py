"""The error of a network, or of an ensemble, on data, by a named protocol."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from residual.data.datasets import Data, ImageFiles, ImageSet, apply_split
from residual.data.folder_index import Split
from residual.data.normalization import Preprocessing
from residual.runs.load import Trained
from residual.tasks.classification.checks import check_ensemble, match_labels
from residual.tasks.classification.inference import NO_ANSWER, InferenceOptions, Member, answers
from residual.tasks.classification.metrics import Count, confusion_matrix, count
from residual.tasks.classification.protocols import PROTOCOLS, Protocol


def evaluate_ensemble(
    nets: Sequence[Trained],
    data: Data,
    split: Split | None,
    protocol: Protocol,
    options: InferenceOptions,
) -> tuple[dict[str, Any], list[str], list[Count]]:
    """The error on one split, each image counted once; the damaged pictures; and a count for each
    class of the first network. Raises ValueError where networks, classes, sizes and the protocol do
    not go together."""
    first = nets[0]
    if first.recipe is not None:
        data = apply_split(data, first.recipe.split)
    split = split or data.headline
    images = data.split(split)
    damaged_labels = torch.tensor([label for _, label in images.damaged], dtype=torch.int64)
    damaged_labels = match_labels(first, data, damaged_labels)
    images = replace(images, labels=match_labels(first, data, images.labels))
    check_ensemble(nets, images, data.name, protocol)
    members = [ensemble_member(net.placed(options.config), first) for net in nets]
    start = time.perf_counter()
    predictions = answers(members, images, protocol, options)
    seconds = time.perf_counter() - start
    damaged = damaged_paths(predictions, images)
    labels, classes = images.labels.cpu(), range(first.num_classes)
    counted = count(predictions, labels, damaged=len(damaged_labels))
    by_class = [
        count(
            predictions[labels == i], labels[labels == i], damaged=int((damaged_labels == i).sum())
        )
        for i in classes
    ]
    top5 = min(len(data.classes), first.num_classes) >= 6
    names = [net.network for net in nets]
    record = {
        **({"network": names[0]} if len(names) == 1 else {"networks": names}),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "split": split},
        **protocol_record(protocol, members, images),
        "seen": counted.images,
        "damaged": len(damaged),
        "wrong_top1": counted.wrong_top1,
        "wrong_top5": counted.wrong_top5 if top5 else None,
        "error_top1": counted.error_top1,
        "error_top5": counted.error_top5 if top5 else None,
        "images_per_second": round(len(images) / seconds, 1),
        "precision": options.config.precision,
    }
    return record, damaged, by_class


def ensemble_member(net: Trained, first: Trained) -> Member:
    """A network with its classes in the order of the first one's."""
    if net.classes is None or first.classes is None or net.classes == first.classes:
        return Member(net.net, net.preprocessing, name=net.network)
    index = {name: i for i, name in enumerate(net.classes)}
    order = torch.tensor([index[name] for name in first.classes])
    return Member(net.net, net.preprocessing, order, net.network)


def damaged_paths(predictions: Tensor, images: ImageSet) -> list[str]:
    """The pictures that could not be read: when the data was listed, or now, by their answers
    (N, 5)."""
    paths = [path for path, _ in images.damaged]
    if isinstance(images, ImageFiles):
        paths += [images.name(i) for i in (predictions[:, 0] == NO_ANSWER).nonzero()[:, 0].tolist()]
    return paths


def protocol_record(
    protocol: Protocol, members: Sequence[Member], images: ImageSet
) -> dict[str, Any]:
    """The protocol as a record tells it. Sizes are in pixels."""
    large = isinstance(images, ImageFiles)
    cropped = large and not protocol.fully_convolutional
    sides = {side for member in members for side in protocol.shorter_sides(member.preprocessing)}
    return {
        "protocol": protocol.name,
        "resize": sorted(sides) if large else None,  # shorter sides
        "crop": list(members[0].preprocessing.size) if cropped else None,
        "interpolation": "bilinear, antialiased" if large else None,
        "mirror": protocol.mirror,
        "views": protocol.views,
        "averaged": protocol.average,
    }


def evaluate_member(
    member: Member, images: ImageSet, classes: int, options: InferenceOptions
) -> tuple[Count, Tensor, list[str]]:
    """The single-crop error of a network, its confusion matrix, and the damaged pictures."""
    predictions = answers([member], images, PROTOCOLS["1crop"], options)
    labels = images.labels.cpu()
    counted = count(predictions, labels, damaged=len(images.damaged))
    read = predictions[:, 0] != NO_ANSWER
    matrix = confusion_matrix(predictions[read, 0], labels[read], classes)
    return counted, matrix, damaged_paths(predictions, images)


# The fields of the log that a result keeps.
CURVE = (
    *("step", "loss", "wrong", "seen", "train_error", "lr", "test_wrong", "test_seen"),
    *("test_error", "val_wrong", "val_seen", "val_error", "skipped"),
)


def error_record(
    data: Data, counted: Count, preprocessing: Preprocessing, test_curve: bool
) -> dict[str, Any]:
    """The test error as a run's result tells it: in percent, with sizes in pixels."""
    record = {
        "data": {"name": data.name, "fingerprint": data.fingerprint, "split": data.headline},
        "protocol": "1crop",
        "test_opened": f"{'for the curve, and' if test_curve else 'once,'} after training",
        "seen": counted.images,
        "wrong_top1": counted.wrong_top1,
        "wrong_top5": counted.wrong_top5 if len(data.classes) > 5 else None,
        "error_top1": counted.error_top1,
    }
    if preprocessing.shorter is None:  # small pictures are seen as they are
        return record
    mean = "channels" if tuple(preprocessing.mean.shape[1:]) == (1, 1) else "image"
    photograph = {"resize": [preprocessing.shorter], "crop": list(preprocessing.size)}
    return record | photograph | {"mean": mean}
