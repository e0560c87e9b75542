"""Trained networks judged by a protocol of Section 3.4, one or several together, and their rows."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from residual.data.datasets import Data
from residual.device import hardware_name
from residual.reproduction.experiments import (
    Experiment,
    Result,
    by_network,
    is_imagenet,
    pictures,
    slug,
)
from residual.reproduction.spread import Spread, markdown
from residual.runs.load import load
from residual.runs.results import versions
from residual.storage import FORMAT, read_json
from residual.tasks.classification.evaluate import evaluate_ensemble
from residual.tasks.classification.inference import InferenceOptions
from residual.tasks.classification.protocols import PROTOCOLS

ENSEMBLE = "ensemble"  # what the result file of several networks together must hold
TOGETHER = "multiscale"  # their protocol (Sec. 4.1)
OWN = {  # in place of the paper's multi-scale test, what these networks were published with
    "vgg19": "dense",
    "googlenet": "144crop",
    "bn-inception": "144crop",
    "prelu-net-C": "multiview",
}
MODELS = {  # as Tables 3 and 4 call them: our names
    "VGG-16": "vgg16",
    "GoogLeNet": "googlenet",
    "PReLU-net": "prelu-net-C",
    "GoogLeNet (ILSVRC'14)": "googlenet",
    # Choice: VGG's row is the 19-layer net by its dense test; the row printed is of crops besides.
    "VGG (v5)": "vgg19",
    "BN-inception": "bn-inception",
    "plain-34": "plain34",
    "ResNet-34 A": "resnet34-A",
    "ResNet-34 B": "resnet34",
    "ResNet-34 C": "resnet34-C",
    "ResNet-50": "resnet50",
    "ResNet-101": "resnet101",
    "ResNet-152": "resnet152",
}


def key_of(key: str, network: str) -> str:
    """What a network is judged by, where a table asks for this."""
    return OWN.get(network, key) if key == TOGETHER else key


def ensemble_file(members: Sequence[Experiment], folder: Path) -> Path:
    """Named by what can change its answer: the networks, in whatever order, and the protocol."""
    names = sorted(member.measurement(folder, TOGETHER).name for member in members)
    short = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    steps = max(member.recipe.steps for member in members)
    words = [slug(members[0].data), f"ensemble-of-{len(members)}", f"{steps}steps", short]
    return folder / f"{'-'.join([*words, TOGETHER])}.json"


def judged(runs: Sequence[Path], data: Data, key: str, work: InferenceOptions) -> Result:
    """The content of a result file: finished runs, judged together, on the headline's set."""
    protocol = PROTOCOLS[TOGETHER if key == ENSEMBLE else key]
    known = [read_json(run / "result.json") for run in runs]
    found: dict[str, Any] = {
        "format": FORMAT,
        key: evaluate_ensemble([load(run) for run in runs], data, None, protocol, work).record,
        "pictures": pictures(data),
        "versions": versions(),
        "hardware": hardware_name(work.config),
    }
    if key == ENSEMBLE:
        found["weights_sha256"] = [each["weights_sha256"] for each in known]
        return found | {part: known[0][part] for part in ("recipe", "data")}
    return found | {part: known[0][part] for part in ("recipe", "data", "weights_sha256")}


def errors(results: Sequence[Result], key: str, which: str) -> Spread | None:
    """Of one network, over its seeds; None where the data has too few classes for a top-5 error."""
    values = [result[key_of(key, result["recipe"]["network"])][which] for result in results]
    return None if None in values else Spread(values)


def ours(results: Sequence[Result], key: str, which: str, printed: float | None) -> list[str]:
    """Two cells: our error, and how far it is from a printed one that is its equal."""
    spread = errors(results, key, which)
    if spread is None:
        return [f"none: {results[0]['pictures']['classes']} classes", ""]
    equal = printed is not None and all(map(is_imagenet, results))
    return [spread.in_words(), spread.verdict(printed) if equal and printed is not None else ""]


def number(error: float | None) -> str:
    return "" if error is None else f"{error:.2f}"


def models(
    results: Sequence[Result], key: str, printed: Mapping[str, tuple[float | None, float]]
) -> str:
    """Tables 3 and 4: top-1 and top-5 errors; a row without a network is the paper's own."""
    of, rows = by_network(results), []
    for model, (top_1, top_5) in printed.items():
        row = [model]
        for which, theirs in (("error_top1", top_1), ("error_top5", top_5)):
            row.append(number(theirs))
            known = model in MODELS
            row += ours(of(MODELS[model]), key, which, theirs) if known else ["", ""]
        rows.append(row)
    header = [
        *("model", "top-1 error %, paper", "ours", "ours - paper"),
        *("top-5 error %, paper", "ours", "ours - paper"),
    ]
    return markdown(header, rows) + remark(results)


def remark(results: Sequence[Result]) -> str:
    """Below a table: on what ours are, where that is not what the paper's are on."""
    if not results or all(map(is_imagenet, results)):
        return ""
    data, own = results[0]["data"], results[0]["pictures"]
    return (
        f"\n\nOurs are on the {data['split']} set of {data['name']}, {own[data['split']]:,} "
        f"photographs of {own['classes']:,} classes, and the paper's on ImageNet: they show that "
        f"the path works, and are no equals."
    )
