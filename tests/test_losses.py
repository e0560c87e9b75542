"""What must not be lost or hidden when a person or a pipe goes away, or a picture is damaged."""

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

from conftest import EXACT, draw_pictures

from residual.data.datasets import apply_split
from residual.data.sources import digits
from residual.runs import folder

SLOW = ("resnet8", "--steps", "100000", *EXACT)


def started(run, **pipes) -> subprocess.Popen:
    """A training in a process of its own that has written some lines of its log."""
    command = [sys.executable, "-m", "residual", "train", *SLOW, "--out", str(run)]
    process = subprocess.Popen(command, text=True, **pipes)
    for _ in range(600):
        if len(folder.read_log(run / "log.jsonl")) > 1:
            return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError("the training did not begin")


def test_two_quick_signals_save_the_run(tmp_path):
    process = started(tmp_path / "run", stderr=subprocess.PIPE)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert "go on with: residual resume" in process.stderr.read()
    assert len(folder.checkpoints(tmp_path / "run")) == 1


def test_a_closed_pipe_costs_a_training_nothing(tmp_path):
    process = started(tmp_path / "run", stderr=subprocess.PIPE)
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert len(folder.checkpoints(tmp_path / "run")) == 1


def test_progress_that_nobody_reads_is_no_error(monkeypatch):
    from residual.cli.progress import Display

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    line = {"loss": 1.0, "train_error": 50.0, "lr": 0.1, "waiting": 0.0, "seconds": 1.0}
    with Display() as display:
        display.show_step("resnet8", 2, 2, line | {"images_per_second": 1.0})
        display.notice("stopped")


def test_a_damaged_test_picture_is_named_in_evaluation_and_in_the_result(command, tmp_path):
    data = draw_pictures(tmp_path / "pets", 4, ("cat", "dog"))
    (data / "test" / "dog" / "1.png").write_bytes(b"")
    words = ("--data", data, "--root", tmp_path / "root", "--out", tmp_path / "run", *EXACT)
    assert command("train", "resnet8", "--steps", 3, *words).status == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["damaged"] == ["test/dog/1.png"] and result["seen"] == 8
    answer = command("evaluate", tmp_path / "run", "--json")
    assert "test/dog/1.png is damaged and counts as wrong" in answer.err
    assert (answer.json["seen"], answer.json["damaged"]) == (8, 1)


def test_the_held_out_tenth_of_a_run_is_its_val_set(command, tmp_path):
    run = tmp_path / "run"
    words = ("--set", "split=45k5k", "--steps", 3, "--out", run, *EXACT)
    assert command("train", "resnet8", *words).status == 0
    assert command("evaluate", run, "--split", "val", "--json").json["seen"] == 144
    assert command("evaluate", run, "--split", "train", "--json").json["seen"] == 1_293
    assert command("evaluate", run, "--json").json["seen"] == 360


def test_a_val_set_that_the_headline_is_on_is_never_one_for_choices():
    data = digits()
    judged = replace(data, val=data.test, test=None)
    held = apply_split(judged, "45k5k")
    assert held.headline == "val" and held.val is data.test
    assert len(held.selection_set) + len(held.train) == len(data.train)
    both = replace(data, val=data.test)
    assert apply_split(both, "45k5k") is both and both.selection_set is data.test
    assert judged.selection_set is None


def test_a_signal_reaches_the_trainings_that_go_on_side_by_side(tmp_path):
    words = ("reproduce", "figure6", "--data", "digits", "--depths", "8", "--steps", "100000")
    command = [sys.executable, "-m", "residual", *words, "--side-by-side", "2", "--threads", "2"]
    command += ["--precision", "float32"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    runs: list = []
    for _ in range(600):
        runs = list((tmp_path / "runs" / "reproduce").glob("*/log.jsonl"))
        if len(runs) == 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert len(runs) == 2
    assert all(folder.checkpoints(run.parent) for run in runs)  # saved, and nothing still at work
