"""Write the network of a finished run as weights that come with the package, with their card.

python -m benchmarks.shipped_weights runs/resnet20-1 cifar10
"""

import argparse
from pathlib import Path
from typing import Any

from residual.storage import read_json, write_json
from residual.tasks.classification.load import load, save
from residual.training.checkpoint import weights_sha256
from residual.weights.published import PRETRAINED

LICENCE = (
    "The weights have the licence of the package, MIT. They contain no image; the images of the "
    "training have the terms of their authors."
)
RESULT = ("data", "protocol", "seen", "wrong_top1", "error_top1", "recipe", "hardware", "versions")


def ship(run: Path, data: str, folder: Path = PRETRAINED) -> Path:
    """Write NETWORK.DATA.safetensors, and its card as .json beside it. Raises ValueError for a run
    whose result is of other weights, and OSError for one without a result."""
    result, trained = read_json(run / "result.json"), load(run)
    digest = weights_sha256(trained.net.state_dict())
    if digest != result["weights_sha256"]:
        raise ValueError(f"the result of {run} is of other weights than its newest checkpoint")
    name = f"{trained.network}.{data}"
    card: dict[str, Any] = {"name": name, "network": trained.network, "steps": trained.step}
    card |= {"seed": result["recipe"]["seed"], **{key: result[key] for key in RESULT}}
    card |= {"finished": result["finished"], "weights_sha256": digest, "licence": LICENCE}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save(trained, path, {"source": name, "card": card})
    write_json(path.with_suffix(".json"), card)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("data", help="the second half of the name: cifar10")
    options = parser.parse_args()
    print(ship(options.run, options.data))


if __name__ == "__main__":
    main()
