"""Weights from elsewhere as files of ours: converted, fetched by name, and kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from residual.data.datasets import Progress, no_progress
from residual.data.download import fetch
from residual.models.registry import BASELINES, check_input
from residual.storage import file_digest
from residual.training.checkpoint import save
from residual.weights import baselines, convert, files
from residual.weights.convert import Conversion
from residual.weights.published import Card, Published, torchvisions


def converted(
    state: Mapping[str, Any],
    network: str,
    assume: str | None = None,
    card: Card | None = None,
    wanted: str | None = None,
) -> Conversion:
    """Weights from elsewhere for one of our networks. Raises ValueError where they do not fit."""
    if network in BASELINES:
        return baselines.convert(state, network, card, wanted)
    return convert.convert(state, network, assume, card, wanted)


def write(conversion: Conversion, out: Path) -> None:
    """A weights file as every other command reads it. Raises ValueError where the network cannot
    look at pictures of the size that was asked for."""
    check_input(conversion.network, min(conversion.card.size))
    tensors = {f"net.{key}": tensor for key, tensor in conversion.state.items()}
    tensors["preprocessing.mean"] = conversion.mean
    tensors["preprocessing.std"] = torch.tensor(conversion.card.std).view(3, 1, 1)
    header = {
        "network": conversion.network,
        "classes": list(conversion.card.classes) if conversion.card.classes else None,
        "size": list(conversion.card.size),
        "shorter": conversion.card.shorter,
        "source": conversion.source,
    }
    if conversion.body:
        header["body"] = True
    save(out, tensors, header)


def obtained(name: str, root: Path, progress: Progress = no_progress) -> Path:
    """A run or a file of ours: the one that lies there, or public weights, fetched and converted.

    Public weights have torchvision's names, e.g. resnet50.IMAGENET1K_V2, and are kept in
    `root/weights`. Raises ValueError for foreign files and unknown names, and OSError, saying where
    to put the file by hand, where it cannot be fetched.
    """
    path = Path(name)
    if path.exists():
        check_ours(path)
        return path
    known = published(name)
    kept = root / "weights" / f"{known.name}.safetensors"
    if not kept.exists():
        state = files.read(fetched(known, root, progress))
        write(converted(state, known.network, card=known.card), kept)
    return kept


def check_ours(path: Path) -> None:
    """Raises ValueError for a file or a folder that was not written here."""
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


def published(name: str) -> Published:
    """Public weights by torchvision's name for them. Raises ValueError where it has none of it."""
    known = torchvisions()
    plain = name.replace("_Weights.", ".").lower()
    for each in known.values():
        if each.name.lower() == plain:
            return each
    raise ValueError(
        f"there is no file {name}, and no public weights of that name; there are {', '.join(known)}"
    )


def fetched(known: Published, root: Path, progress: Progress = no_progress) -> Path:
    """The file that torchvision gives out, from `root/weights` or fetched into it, and checked.

    Raises ValueError where the file that lies there is damaged, else what `fetch` raises.
    """
    file = root / "weights" / known.file
    if not file.exists():
        fetch([known.url], file, known.sha256, progress, algorithm="sha256")
        return file
    found = file_digest(file, "sha256")
    if not found.startswith(known.sha256):
        raise ValueError(
            f"{file} is damaged or incomplete (its sha256 begins {found[:8]} and should begin "
            f"{known.sha256}); delete it, and it is fetched again"
        )
    return file
