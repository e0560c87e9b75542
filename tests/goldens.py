"""Whether two commits compute the same, bit for bit: the same commands on both, and all they leave.

    python -m tests.goldens OLD NEW

OLD and NEW are checkouts. Every command of the table below runs in both, on the same machine, with
the same made pictures and one thread; exit statuses, JSON, results, logs, recipes, checkpoints and
exported files are compared. What must differ (times, speeds, versions) is left out. The newer also
goes on with what the older has begun.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import safe_open

sys.path.append(str(Path(__file__).parent))

from made_boxes import draw_voc
from PIL import Image

EXACT = "--threads 1 --precision float32 --workers 1"
SMALL = "--set batch=16 --set norm_group=8"
PHOTOS = f"--data photos --set size=64 --set shorter=72 {SMALL} --steps 2 {EXACT}"
FEW = "--data photos --set batch=2 --set norm_group=2 --steps 1 {EXACT}".replace("{EXACT}", EXACT)
BOXES = (
    "--data boxes --shorter-side 64 --set bins=3 --set scales=16,32 --set smallest=4 "
    "--set candidates=300 --set proposals=50 --set regions=8 --set anchors=16 --set lr=0.005 "
    f"{EXACT} --json"
)
GROUPED = "--set norm=group --set fixed=2"
VOLATILE = {
    *("seconds", "images_per_second", "peak_memory_bytes", "finished", "versions", "hardware"),
    *("waited", "waiting", "load", "pictures_per_second", "checksum", "tally"),
}
# Name -> commands, one after another in one folder. `resume` ones follow an interruption.
JOBS: dict[str, list[str]] = {
    "networks": ["networks --json"],
    "descriptions": [
        *("describe resnet50 --json", "describe plain20 --json", "describe vgg16 --json"),
        *("describe googlenet --json", "describe resnet34 --compare torchvision"),
    ],
    "digits": [
        f"train resnet8 {SMALL} --steps 12 --test-curve {EXACT} --json --out run",
        f"train plain8 {SMALL} --steps 3 {EXACT} --json --out plain",
        "evaluate run plain --json --threads 1",
        "report run",
        "responses run --json",
        "export run --out run.onnx --threads 1",
        "export run --format safetensors --out run.safetensors",
        "predict run photos/val/a/0.jpg --json --threads 1",
    ],
    "two processes": [
        f"torchrun train resnet8 {SMALL} --steps 6 {EXACT} --json --out run",
    ],
    "interrupted": [
        f"stop train resnet8 {SMALL} --steps 400 --checkpoint-minutes 0.003 {EXACT} --out run",
        "resume run --json",
    ],
    "average": [
        f"train resnet8 {SMALL} --steps 8 --set average=2,0.5 --set true_statistics=64 {EXACT} "
        "--json --out run",
    ],
    "small pictures": [
        f"train resnet8 --data photos {SMALL} --set split=45k5k --set patience=2 --steps 4 {EXACT} "
        "--json --out run",
        f"train resnet8 {SMALL} --recipe digits --set contrast=whitened --balance weights "
        f"--steps 3 {EXACT} --json --out white",
    ],
    "photographs": [
        f"train resnet18 --recipe imagenet {PHOTOS} --set scales=64,96 --json --out scale",
        f"train resnet18 --recipe imagenet {PHOTOS} --set crop=aspect --set colour=0.1 "
        "--json --out aspect",
        "evaluate scale --protocol 10crop --json --threads 1",
        "evaluate scale aspect --split val --json --threads 1",
        f"train resnet18 --recipe finetune --weights scale {PHOTOS} --json --out tuned",
        f"train resnet50-v1.5 --recipe modern {PHOTOS} --set mixup=0.2 --set repeats=1 "
        "--set test_size=64 "
        "--json --out modern",
        "export scale --out scale.onnx --threads 1",
        "predict scale photos/val/a/0.jpg photos/val/b/1.jpg --json --threads 1",
        "data check photos --json",
    ],
    "vgg": [f"train vgg16 {FEW} --json --out run"],
    "inception": [
        f"train googlenet {FEW} --json --out run",
        f"train bn-inception {FEW} --json --out bn",
    ],
    "prelu-net": [f"train prelu-net-A {FEW} --json --out run"],
    "small baselines": [
        f"train {name} --data photos {SMALL} --steps 2 {EXACT} --json --out {name}"
        for name in ("maxout", "nin", "dsn", "highway19", "fitnet19")
    ],
    "distillation": [
        f"train maxout --data photos {SMALL} --steps 2 {EXACT} --json --out teacher",
        f"train fitnet19 --data photos {SMALL} --recipe fitnet-hint --teacher teacher --steps 2 "
        f"{EXACT} --json --out hint",
        f"train fitnet19 --data photos {SMALL} --recipe fitnet-distilled --teacher teacher "
        f"--weights hint --steps 2 {EXACT} --json --out student",
    ],
    "detection": [
        f"detect train resnet18 --recipe scratch {BOXES} --steps 6 --out scratch",
        "detect evaluate scratch --json --threads 1",
        "detect evaluate scratch --refine --json --threads 1",
        "detect predict scratch boxes/JPEGImages/test000.jpg --json --threads 1",
        "export scratch --out scratch.onnx --threads 1",
        f"detect train resnet18 --recipe voc07 --weights scratch {GROUPED} {BOXES} --steps 4 "
        "--out joint",
        f"detect train resnet18 --recipe voc07-alternating --weights scratch {GROUPED} {BOXES} "
        "--steps 8 --out alternating",
        f"torchrun detect train resnet18 --recipe scratch {BOXES} --set batch=2 --steps 4 "
        "--out both",
    ],
    "interrupted detection": [
        f"stop detect train resnet18 --recipe scratch {BOXES} --steps 200 "
        "--checkpoint-minutes 0.003 --out run",
        "resume run --json",
    ],
}


def draw_photographs(folder: Path) -> None:
    """Two classes of small photographs, the same on each call."""
    for split, n in (("train", 20), ("val", 4)):
        for light, label in enumerate("ab"):
            (folder / split / label).mkdir(parents=True)
            for i in range(n):
                seed = hashlib.sha256(f"{split} {label} {i}".encode()).digest() * 6
                image = Image.frombytes("RGB", (8, 8), seed[:192]).resize((90 + i, 80 + light))
                image.save(folder / split / label / f"{i}.jpg", quality=90)


def lasting(value: Any) -> Any:
    """JSON without what differs from one run to the next."""
    if isinstance(value, dict):
        return {key: lasting(each) for key, each in value.items() if key not in VOLATILE}
    return [lasting(each) for each in value] if isinstance(value, list) else value


def spoken(text: str) -> Any:
    """What a command prints: JSON where it is some, else the words without their numbers."""
    try:
        return lasting(json.loads(text))
    except ValueError:
        return re.sub(r"[\d,.]+(e[-+]\d+)?", "#", text).split()


def content(file: Path) -> Any:
    """A file as it is compared."""
    if file.suffix == ".json":
        return lasting(json.loads(file.read_text()))
    if file.suffix == ".jsonl":
        return [lasting(json.loads(line)) for line in file.read_text().splitlines()]
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors:
            strings = (tensors.metadata() or {}).items()
            header = {k: spoken(v) for k, v in strings if k not in VOLATILE}
            names = sorted(tensors.keys())
            raw = {name: tensors.get_tensor(name).contiguous().numpy() for name in names}
        bits = {name: hashlib.sha256(each.tobytes()).hexdigest() for name, each in raw.items()}
        return {"header": header, "tensors": bits}
    return hashlib.sha256(file.read_bytes()).hexdigest()


def left(folder: Path) -> Iterator[tuple[str, Any]]:
    """Files of runs that a reader relies on. Checkpoints in between go by when they were made."""
    for run in sorted(path.parent for path in folder.rglob("recipe.json")):
        for name in ("recipe.json", "classes.json", "result.json", "log.jsonl", "confusion.json"):
            if (run / name).exists():
                yield f"{run.name}/{name}", content(run / name)
        checkpoints = sorted((run / "checkpoints").glob("*.safetensors"))
        for last in checkpoints[-1:]:
            yield f"{run.name}, last checkpoint", content(last)
    for file in sorted([*folder.glob("*.onnx"), *folder.glob("*.safetensors")]):
        yield file.name, content(file)


def do(checkout: Path, folder: Path, words: str) -> tuple[int, str]:
    """Run a command of a checkout in a folder -> its exit status and what it printed."""
    kind, _, rest = words.partition(" ")
    program = [sys.executable, "-m", "residual"]
    if kind == "torchrun":
        program[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    if kind in ("torchrun", "stop"):
        words = rest
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*program, *shlex.split(words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("a"),
        text=True,
    ) as process:
        if kind == "stop":
            while process.poll() is None and not list((folder / "run/checkpoints").glob("*.saf*")):
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
        printed = process.communicate()[0]
    return process.returncode, "" if kind == "stop" else printed


def outcome(trains: Path, continues: Path, folder: Path, job: str) -> dict[str, Any]:
    """All that a job leaves, where one checkout trains, and one does the rest with the runs."""
    found: dict[str, Any] = {}
    for words in JOBS[job]:
        checkout = trains if "train " in words else continues
        status, printed = do(checkout, folder, words)
        found[words] = {"status": status, "printed": spoken(printed)}
    return found | dict(left(folder))


def compared(old: Path, new: Path, job: str) -> list[str]:
    """What differs between two checkouts in a job, or where the newer goes on with runs of the
    older; and what failed in the older."""
    with tempfile.TemporaryDirectory() as scratch:
        sides = []
        for side, *checkouts in (("old", old, old), ("new", new, new), ("both", old, new)):
            folder = Path(scratch) / side
            draw_photographs(folder / "photos")
            draw_voc(folder / "boxes", n=4)
            sides.append(outcome(*checkouts, folder, job))
        before, *others = sides
        wrong = [
            f"{words}: ended with {each['status']}: {(Path(scratch) / 'old/stderr').read_text()}"
            for words, each in before.items()
            if isinstance(each, dict) and each.get("status") and not words.startswith("stop")
        ]
    for name, after in zip(("new", "old runs"), others, strict=True):
        wrong += [f"{name}, {each}" for each in differences(before, after)]
    return wrong


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two values of JSON differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            yield from differences(one.get(key), other.get(key), f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for n, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}/{n}")
    elif one != other:
        yield f"{where}: {one!r:.200} and {other!r:.200}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    options = parser.parse_args()
    old, new = options.old.resolve(), options.new.resolve()
    differing = 0
    with ThreadPoolExecutor(2) as pool:
        for job, wrong in zip(
            options.jobs, pool.map(lambda job: compared(old, new, job), options.jobs), strict=True
        ):
            print(f"{job}: {'; '.join(wrong) or 'equal'}", flush=True)
            differing += bool(wrong)
    raise SystemExit(differing > 0)


if __name__ == "__main__":
    main()
