"""Errors and speeds of networks in eight bits beside float32, on pictures of their own data.

    python -m benchmarks.eight_bits runs/resnet18-1 runs/cells resnet20.cifar10 --keep FILE

Each is exported by `residual export --int8`, which evaluates both ONNX models in turn on the same
pictures; never on the test set. Runs are compared on their own data, public weights on --data.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.sides import record
from residual.storage import DEFAULT_ROOT, write_json


def comparison(network: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `residual export --int8 --json` prints of a network."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["export", network, "--int8", "--out", str(Path(folder) / "int8.onnx"), "--json"]
        words += ["--threads", str(options.threads), "--root", str(options.root)]
        words += ["--max-drop", str(options.max_drop)]
        if not Path(network).is_dir():
            words += ["--calibration", options.data]
        command = [sys.executable, "-m", "residual", *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    return {key: value for key, value in row.items() if key not in ("file", "parity", "format")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="+", help="runs, or names of public weights")
    parser.add_argument("--data", default="cifar10", help="of public weights")
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    parser.add_argument("--max-drop", type=float, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a file for the result")
    options = parser.parse_args()
    rows = [comparison(network, options) for network in options.networks]
    import torch

    torch.set_num_threads(options.threads)
    result = record("eight bits", "cpu", eight_bits=rows)
    print(json.dumps(rows, indent=1))
    if options.keep:
        write_json(options.keep, result)


if __name__ == "__main__":
    main()
