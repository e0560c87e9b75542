"""A run that is stopped anywhere ends exactly as one that is not: the processes here are real."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EXACT, FORK

from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.runs import folder
from residual.tasks.classification.recipe import DIGITS
from residual.tasks.classification.train import advance, begin
from residual.training import checkpoint
from residual.training.events import RunOptions

STEPS = 12
RECIPE = replace(
    DIGITS, network="resnet8", batch=16, norm_group=8, steps=STEPS, drops=(6, 9), warmup=(3, 0.01)
)
Death = tuple[str, int, float]


def deaths(seed: int) -> list[Death]:
    """How a process dies, at which count, and after how many seconds more."""
    draw = random.Random(seed)
    return [
        ("before it is a run", draw.randint(1, 5), 0),
        ("before the first checkpoint", draw.randint(1, STEPS - 1), 0),
        ("after the end", 0, 0),
        *(("in the middle of a checkpoint", n, 0) for n in draw.sample(range(1, STEPS), 2)),
        *(("at a flush to the disk", n, 0) for n in draw.sample(range(1, 2 * STEPS + 4), 4)),
        *(("at any time", n, draw.random() / 50) for n in draw.sample(range(STEPS), 3)),
    ]


def work(run: Path, how: str = "", count: int = 0) -> None:
    """In a process of its own: take a run to its end, or to its own death."""
    if how == "before it is a run":
        die_at_flush(count)
    if not (run / "recipe.json").exists():
        where = {"where": "digits", "root": "none"}
        begin(run, RECIPE, digits(), where, ComputeConfig(threads=1))
    if how == "at a flush to the disk":
        die_at_flush(count)
    seldom = how == "before the first checkpoint"
    for event in advance(run, digits(), RunOptions(checkpoint_minutes=60 if seldom else 0)):
        if seldom and event.step == count:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "in the middle of a checkpoint" and event.step == count:
            die_at_byte(100_000)
    if how == "after the end":
        os.kill(os.getpid(), signal.SIGKILL)


def die_at_flush(count: int) -> None:
    """Kill this process at its next flush but so many; what it flushes has another name yet."""
    flush, left = os.fsync, iter(range(count - 1))

    def flush_or_die(file: int) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    os.fsync = flush_or_die


def die_at_byte(limit: int) -> None:
    """Let the system kill this process in the middle of a file that is longer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def lines(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for(condition: Any, process: Any = None) -> None:
    """Until it holds, or the process is over."""
    end = time.monotonic() + 60
    while not condition() and (process is None or process.is_alive()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


def lives(run: Path, how: str = "", count: int = 0, delay: float = 0) -> int:
    """The exit status of a process that works on a run, and dies."""
    process = FORK.Process(target=work, args=(run, how, count))
    process.start()
    if how == "at any time":
        wait_for(lambda: lines(run) >= count, process)
        time.sleep(delay)
        process.kill()
    process.join(60)
    return process.exitcode


def ended(run: Path) -> dict[str, Any]:
    """All that a finished run says of itself, but for what the clock tells."""
    result = json.loads((run / "result.json").read_text())
    log = folder.read_log(run / "log.jsonl")
    names = ("step", "loss", "wrong", "seen", "train_error", "lr")
    tensors, _ = checkpoint.read(folder.checkpoints(run)[-1])
    return {
        "log": [{key: line[key] for key in names} for line in log],
        "weights": result["weights_sha256"],
        "checkpoint": checkpoint.weights_sha256(tensors),
        "wrong": result["wrong_top1"],
        "curve": result["curve"],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    work(run)
    assert lines(run) == STEPS
    return ended(run)


DEATHS = deaths(seed=0)


@pytest.mark.parametrize("death", DEATHS, ids=[f"{how}, {count}" for how, count, _ in DEATHS])
def test_a_run_that_is_killed_ends_as_one_that_is_not(tmp_path, whole, death):
    run, (how, *_) = tmp_path / "run", death
    middle = how == "in the middle of a checkpoint"
    assert lives(run, *death) == (-signal.SIGXFSZ if middle else -signal.SIGKILL)
    if middle:
        (torn,) = run.rglob("*.partial")
        assert torn.stat().st_size == 100_000
    if "before" in how:
        assert not folder.checkpoints(run)
    assert (run / "recipe.json").exists() != (how == "before it is a run")
    assert (run / "result.json").exists() or how != "after the end"
    work(run)
    assert ended(run) == whole
    assert not list(run.rglob("*.partial"))


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, whole):
    times = 0
    while lives(tmp_path / "run", "at a flush to the disk", 7) != 0:
        times += 1
    assert times > 3
    assert ended(tmp_path / "run") == whole


def test_a_checkpoint_that_is_cut_off_or_changed_is_passed_over(tmp_path, whole):
    run = tmp_path / "run"
    lives(run, "at a flush to the disk", 17)
    *_, before, newest = folder.checkpoints(run)
    newest.write_bytes(newest.read_bytes()[:-9])
    changed = bytearray(before.read_bytes())
    changed[len(changed) // 2] ^= 1
    before.write_bytes(changed)
    (run / "checkpoints" / "step-00000099.safetensors.partial").write_bytes(bytes(changed[:1000]))
    first = next(advance(run, digits(), RunOptions()))
    assert f"{newest} is damaged" in first.notice
    work(run)
    assert ended(run) == whole


# The command line of the same training, and the real thing: an interpreter of its own.
WORDS = (
    *("resnet8", "--set", "batch=16", "--set", "norm_group=8", "--steps", "50"),
    *("--checkpoint-minutes", "0", *EXACT),
)


@pytest.fixture(scope="module")
def expected(command, tmp_path_factory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert command("train", *WORDS, "--out", run).status == 0
    return ended(run)


def spawned(
    run: Path, at: int, number: signal.Signals, streams: str = ""
) -> subprocess.CompletedProcess:
    """`python -m residual train`, and a signal when so many lines are in the log."""
    words = [sys.executable, "-m", "residual", "train", *WORDS, "--out", str(run)]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: lines(run) >= at or process.poll() is not None)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    with pytest.raises(ProcessLookupError):  # no child is left, either
        os.killpg(process.pid, 0)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_the_command_goes_on_exactly_after_kill_9(tmp_path, expected):
    run = tmp_path / "run"
    assert spawned(run, 10, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not (run / "result.json").exists()
    words = [sys.executable, "-m", "residual", "resume", str(run), "--json"]
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["weights_sha256"] == expected["weights"]
    assert ended(run) == expected


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_run_and_ends_the_command(command, tmp_path, expected, number, status):
    run = tmp_path / "run"
    stopped = spawned(run, 10, number)
    assert stopped.returncode == status, stopped.stderr
    assert not stopped.stdout
    *_, last = stopped.stderr.splitlines()
    step = folder.read_log(run / "log.jsonl")[-1]["step"]
    assert last == f"residual: stopped at step {step}; go on with: residual resume {run}"
    assert 10 <= step < 50
    assert folder.checkpoints(run)[-1].name == f"step-{step:08}.safetensors"
    assert command("resume", run).status == 0
    assert ended(run) == expected


@pytest.mark.parametrize("streams", [">&- 2>&-", "2>/dev/full"])
def test_a_signal_ends_the_command_alike_where_nobody_hears_it(tmp_path, streams):
    run = tmp_path / "run"
    assert spawned(run, 10, signal.SIGTERM, streams).returncode == 143
    assert folder.checkpoints(run)
