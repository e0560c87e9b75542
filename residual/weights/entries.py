"""The weights of one network, out of all that a training script saved with them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What scripts save weights under, those that they train first; beside them lie averaged ones
# (state_dict_ema, model_ema), optimizers and much else.
USUAL = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "blobs")
# What a network's keys begin with is what stands before the first of these, and the others, too.
STEMS = (
    ("conv1.weight", "layer1.0.conv1.weight"),
    (
        "embedder.embedder.convolution.weight",
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
    ),
    ("features.0.weight",),
)
COMPILED = "_orig_mod."  # which torch.compile puts before the names in what it compiled
COUNTED = "n_averaged"  # by torch.optim.swa_utils.AveragedModel
# Where a library keeps a network's last layer outside of what it calls the network's body.
HEADS = {  # of mmpretrain and of Hugging Face; and what it is called within the network
    "backbone.": ("head.fc.", "fc."),
    "resnet.": ("classifier.1.", "classifier.1."),
}
# Of these networks the last layers compare pictures with each other (MoCo): they know no classes.
CONTRASTIVE = ("encoder_q.", "encoder_k.", "base_encoder.", "momentum_encoder.")


@dataclass(frozen=True)
class Entry:
    """A network's weights, by the keys of its file."""

    state: dict[str, Any]
    names: dict[str, str]  # of a key: without what all of them begin with
    notices: tuple[str, ...] = ()


def entry(content: Mapping[str, Any], wanted: str | None = None) -> Entry:
    """The weights of one network in a file's content: those of the entry that is wanted, or of the
    usual one. An entry has the name that the content has it under, or what its keys begin with.

    Raises ValueError where there are several and none is the usual one, or not the one wanted.
    """
    there = dict(places(content, set())) or {"": content}
    place, beginning = chosen(list(there), wanted)
    state = {key: tensor_of(value) for key, value in there[place].items() if isinstance(key, str)}
    short = {key: key.replace(COMPILED, "") for key in state}
    before = prefix(set(short.values()), beginning, [each for each in there if each])
    names = {key: name for key in state if (name := within(short[key], before)) is not None}
    notices = []
    if len(there) > 1:
        others = few(each for each in there if each != place)
        notices.append(f"the weights under {place} are taken, not those under {others} (--entry)")
    outside = [key for key in state if key not in names and short[key] != COUNTED]
    if outside:
        notices.append(f"{few(outside)}: left out, for the network's keys begin with {before}")
    return Entry({key: state[key] for key in names}, names, tuple(notices))


def places(
    content: Mapping[Any, Any], seen: set[int], depth: int = 2
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Where weights lie: in the content itself, or under a name, or under a name in one."""
    seen.add(id(content))
    if any(isinstance(value, Tensor | np.ndarray) and value.ndim > 1 for value in content.values()):
        yield "", content
        return
    for name, value in content.items() if depth else ():
        if isinstance(name, str) and isinstance(value, Mapping) and id(value) not in seen:
            for place, state in places(value, seen, depth - 1):
                yield f"{name}.{place}".removesuffix("."), state


def chosen(there: list[str], wanted: str | None) -> tuple[str, str | None]:
    """Which of the places is taken, and what the keys in it shall begin with."""
    if wanted is not None:
        for place in filter(None, there):
            if f"{wanted}.".startswith(f"{place}."):
                return place, f"{wanted}.".removeprefix(f"{place}.") or None
        inside = [place for place in there if place.startswith(f"{wanted}.")]
        if inside:
            return chosen(inside, None)
    usual = [place for name in USUAL for place in there if place.partition(".")[0] == name]
    if len(there) > 1 and not usual:
        raise ValueError(
            f"there are weights under {', '.join(there)}: say which are meant with --entry"
        )
    return (usual or there)[0], None if wanted is None else f"{wanted}."


def prefix(keys: set[str], wanted: str | None, places: list[str]) -> str:
    """What the keys of the network begin with. Raises ValueError where there are several."""
    found = sorted(
        before
        for first, *others in STEMS
        for key in keys
        if f".{key}".endswith(f".{first}")
        for before in [key.removesuffix(first)]
        if all(before + other in keys for other in others)
    )
    listed = ", ".join(before.removesuffix(".") for before in found if before)
    if wanted is not None:
        for before in found:
            if before in (wanted, f"{wanted}resnet."):
                return before
        have = "; there are " + ", ".join([*places, listed]).removesuffix(", ")
        raise ValueError(
            f"there is no entry {wanted.removesuffix('.')}{have if places or listed else ''}"
        )
    if len(found) > 1:
        raise ValueError(
            f"there are several networks, whose keys begin with {listed}: say which is meant with "
            f"--entry"
        )
    return found[0] if found else ""


def within(key: str, before: str) -> str | None:
    """A key without what the network's keys begin with; None where it is not the network's."""
    if key.startswith(before):
        name = key.removeprefix(before)
        return None if before.endswith(CONTRASTIVE) and name.startswith("fc.") else name
    for body, (head, name) in HEADS.items():
        outer = before.removesuffix(body) + head
        if before.endswith(body) and key.startswith(outer):
            return name + key.removeprefix(outer)
    return None


def tensor_of(value: Any) -> Any:
    """An array of numbers as a tensor, and anything else as it is."""
    if isinstance(value, np.ndarray):
        try:
            return torch.tensor(value)
        except (TypeError, ValueError):
            return value
    return value


def few(names: Iterable[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most]) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
