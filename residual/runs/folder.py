"""The folder of a run: recipe, log, newest checkpoints, result."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors

from residual.distributed import current_world
from residual.locks import LockHeld, hold_lock
from residual.storage import (
    FORMAT,
    NewerFormat,
    json_text,
    read_json,
    read_json_object,
    write_atomic,
    write_json,
)
from residual.training import checkpoint

MAX_CHECKPOINTS = 3
RUNS = Path("runs")  # default parent of runs
LOCK = "lock"  # exists while processes write to the run


class NoRun(ValueError):
    """A folder without a run."""


def make_numbered(network: str, parent: Path) -> Path:
    """Make the first folder <network>-<n> that does not exist."""
    n = 0
    while True:
        n += 1
        run = parent / f"{network}-{n}"
        with suppress(FileExistsError):  # of several processes one makes it
            run.mkdir(parents=True)
            return run


def latest(recipe: dict[str, Any], parent: Path) -> Path | None:
    """The latest run of a recipe that no process works on; an unfinished one comes first."""
    files = sorted(parent.glob("*/recipe.json"), key=lambda file: file.stat().st_mtime_ns)
    values = json.loads(json.dumps({"format": FORMAT, **recipe}))  # tuples become lists
    runs = [file.parent for file in reversed(files) if read_json(file) == values]
    for run in sorted(runs, key=lambda run: (run / "result.json").exists()):
        with suppress(LockHeld):
            refuse_held(run)
            return run
    return None


def create(
    run: Path | None,
    recipe: dict[str, Any],
    classes: tuple[str, ...],
    environment: dict[str, Any],
    split: Mapping[Any, list[str]],
    fill: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Make the folder of a run, by default runs/<network>-<n>. `fill` writes further files.

    Raises ValueError if the folder holds a run already, OSError if it cannot be made.
    """
    if run is not None:
        refuse_held(run)
        refuse_taken(run)
    try:
        # A class of the user's is named by its path, module:Class.
        run = run or make_numbered(recipe["network"].rpartition(":")[2], RUNS)
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {run or RUNS}: {error.strerror}") from error
    with hold_lock(run / LOCK, str(run)):
        refuse_taken(run)
        if checkpoints(run):
            raise ValueError(f"{run} has checkpoints, and no recipe.json; choose another folder")
        write_json(run / "classes.json", list(classes))
        if split:  # of a plain folder of classes
            write_json(run / "split.json", split)
        write_json(run / "environment.json", {"format": FORMAT, **environment})
        fill(run)
        write_json(run / "recipe.json", {"format": FORMAT, **recipe})  # last: now it is a run
    return run


def check_division(run: Path, split: str, images: list[str]) -> None:
    """Raises ValueError if a split that was divided for a run would be divided differently now."""
    file = run / "split.json"
    divided = read_json(file).get(split) if file.is_file() else None
    if divided is not None and sorted(divided) != sorted(images):
        raise ValueError(
            f"the pictures of {split} are not those of {file}: others lie in the folder now, and "
            f"some of {split} may have been learned from"
        )


def refuse_taken(run: Path) -> None:
    """Raises ValueError if a folder holds a run."""
    if (run / "recipe.json").exists():
        raise ValueError(f"{run} holds a run already; go on with: residual resume {run}")


def refuse_held(run: Path) -> None:
    """Raises LockHeld where a process writes to a run."""
    if (run / LOCK).exists():
        with suppress(OSError), hold_lock(run / LOCK, str(run)):  # a disk to read from is enough
            pass


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Hold the lock of a run for the processes of one job; a finished run needs none.

    Raises NoRun, and LockHeld if processes of another job hold it.
    """
    with ExitStack() as stack:

        def take() -> None:
            check_run(run)
            if not (run / "result.json").exists():
                stack.enter_context(hold_lock(run / LOCK, str(run)))

        current_world().on_first(take)
        yield


def check_run(run: Path) -> None:
    """Raises NoRun for a folder without a run."""
    if not run.is_dir():
        raise NoRun(f"no folder {run}")
    if not (run / "recipe.json").exists():
        raise NoRun(f"{run} holds no run: it has no recipe.json")


def recipe_values(run: Path) -> dict[str, Any]:
    """The fields of a run's recipe, as JSON. Raises NoRun."""
    check_run(run)
    values = read_json_object(run / "recipe.json")
    return {key: value for key, value in values.items() if key != "format"}


def task_of(run: Path) -> str:
    """The task of a run. Raises NoRun."""
    return str(recipe_values(run).get("task", "classification"))


def is_detection(path: Path) -> bool:
    """Whether a folder is the run of a detector, or a file its checkpoint; reads no tensor."""
    recipe: Any = None
    if (path / "recipe.json").is_file():
        recipe = read_json_object(path / "recipe.json")
    elif path.is_file():
        with (
            suppress(safetensors.SafetensorError, OSError, ValueError, RecursionError),
            safetensors.safe_open(path, framework="pt") as opened,
        ):
            recipe = json.loads((opened.metadata() or {}).get("recipe", "null"))
    return isinstance(recipe, dict) and recipe.get("task") == "detection"


def checkpoints(run: Path) -> list[Path]:
    """Checkpoint files, oldest first, without partial ones."""
    return sorted((run / "checkpoints").glob("step-*.safetensors"))


def save(run: Path, tensors: checkpoint.Tensors, header: dict[str, Any]) -> Path:
    """Write a checkpoint. Removes older ones and partial files of dead processes."""
    path = run / "checkpoints" / f"step-{header['step']:08d}.safetensors"
    checkpoint.save(path, tensors, header)
    for old in checkpoints(run)[:-MAX_CHECKPOINTS]:
        old.unlink(missing_ok=True)
    for remnant in (run / "checkpoints").glob("*.partial"):
        remnant.unlink(missing_ok=True)
    return path


def newest(run: Path) -> tuple[checkpoint.Tensors, dict[str, Any], list[str]] | None:
    """The newest whole checkpoint, and a sentence for each newer, damaged one; None if there is no
    checkpoint. Raises ValueError if all are damaged, or for a newer format.
    """
    paths = checkpoints(run)
    damaged: list[str] = []
    for path in reversed(paths):
        try:
            return *checkpoint.read(path), damaged
        except NewerFormat:
            raise
        except ValueError as error:
            damaged.append(str(error))
    if paths:
        raise ValueError("no checkpoint is whole: " + "; ".join(damaged))
    return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; none if there is no file. An incomplete last line is left out.
    Raises ValueError if another line is damaged."""
    texts = path.read_bytes().splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if number < len(texts):
                raise ValueError(f"{path}: line {number} is damaged; it is not JSON") from None
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(f"{path}: line {number} is damaged; it tells no step")
        lines.append(line)
    return lines


def rewind_log(run: Path, step: int) -> None:
    """Remove the lines after a step: these steps will be taken again."""
    path = run / "log.jsonl"
    lines = read_log(path)
    texts = path.read_bytes().splitlines() if lines else []
    # The bytes as they are: an older version may have written NaN.
    kept = [text for text, line in zip(texts, lines, strict=False) if line["step"] <= step]
    write_atomic(path, b"".join(text + b"\n" for text in kept))


def append_log(run: Path, line: dict[str, Any]) -> None:
    """Raises OSError, naming the file, if the disk is full; the line is then incomplete."""
    path = run / "log.jsonl"
    try:
        with path.open("a") as file:
            file.write(json_text(line) + "\n")
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from error
