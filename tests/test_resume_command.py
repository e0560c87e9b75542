"""What `residual resume` claims: a run goes on wherever it and its data lie, or says why not."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from conftest import EXACT, draw_pictures

from residual.data.sources import load
from residual.device import ComputeConfig, available_cores
from residual.runs import folder
from residual.tasks.classification.recipe import CIFAR
from residual.tasks.classification.train import advance, begin
from residual.training import checkpoint
from residual.training.events import RunOptions

RECIPE = replace(CIFAR, network="resnet8", batch=8, norm_group=8, steps=6, drops=(4,))


def start(run: Path, pictures: Path, steps: int) -> Path:
    """A run that so many steps were taken of, each with its checkpoint."""
    root = pictures.parent / "root"
    data = load(str(pictures), root)
    where = {"where": str(pictures.resolve()), "root": str(root)}
    begin(run, RECIPE, data, where, ComputeConfig(threads=1))
    for _ in islice(advance(run, data, RunOptions(checkpoint_minutes=0)), steps):
        pass
    return run


@pytest.fixture(scope="module")
def weights(pictures, tmp_path_factory) -> str:
    """Of the whole training, without a stop."""
    run = start(tmp_path_factory.mktemp("whole") / "run", pictures, 99)
    return json.loads((run / "result.json").read_text())["weights_sha256"]


@pytest.fixture
def run(tmp_path, pictures) -> Path:
    return start(tmp_path / "run", pictures, 3)


def test_a_run_that_was_moved_goes_on(command, run, weights, tmp_path):
    moved = run.rename(tmp_path / "moved")
    answer = command("resume", moved, "--json")
    assert answer.status == 0, answer.err
    assert answer.json.keys() == {
        "run", "step", "seen", "wrong_top1", "error_top1", "weights_sha256"
    }  # fmt: skip
    assert answer.json["run"] == str(moved)
    assert answer.json["weights_sha256"] == weights


def test_a_run_goes_on_from_a_copy_and_stays_as_it_is(command, run, weights, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    answer = command("resume", run, "--out", tmp_path / "copy", "--json")
    assert answer.json["weights_sha256"] == weights
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_data_that_is_not_there_any_more_is_asked_for(command, run, tmp_path):
    file = run / "environment.json"
    known = json.loads(file.read_text())
    known["data"]["where"] = str(tmp_path / "gone")
    file.write_text(json.dumps(known))
    out = tmp_path / "out.safetensors"
    for words in (("resume", run), ("evaluate", run), ("statistics", run, "--out", out)):
        answer = command(*words)
        assert answer.status == 1
        last = answer.err.splitlines()[-1]
        assert f"trained on data in {tmp_path / 'gone'}, which is not there any more" in last
        assert last.endswith("say where it lies now with --data")


def test_data_that_moved_is_named_anew_and_remembered(command, run, weights, pictures, tmp_path):
    moved = Path(shutil.copytree(pictures, tmp_path / "elsewhere"))
    answer = command("resume", run, "--data", moved, "--root", tmp_path / "root", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["weights_sha256"] == weights
    known = json.loads((run / "environment.json").read_text())
    assert known["data"]["where"] == str(moved)
    assert command("evaluate", run, *EXACT).status == 0


def test_data_that_is_gone_is_one_sentence_that_names_it(command, run):
    known = json.loads((run / "environment.json").read_text())
    known["data"]["where"] = "/nowhere/pets"
    (run / "environment.json").write_text(json.dumps(known))
    answer = command("resume", run)
    assert answer.status == 1
    assert "/nowhere/pets" in answer.complaint


def test_other_data_is_refused_and_changes_nothing(command, run, weights, tmp_path):
    other = draw_pictures(tmp_path / "other", 6, ("cat", "dog"), seed=1)
    for name in (other, "digits"):
        answer = command("resume", run, "--data", name, "--root", tmp_path / "root")
        assert answer.status == 1
        assert "was trained on pets" in answer.complaint
        assert "other data" in answer.complaint
    again = command("resume", run, "--json")
    assert again.status == 0, again.err
    assert again.json["weights_sha256"] == weights


def test_a_copy_is_not_made_for_other_data(command, run, tmp_path):
    answer = command("resume", run, "--data", "digits", "--out", tmp_path / "copy")
    assert answer.status == 1
    assert not (tmp_path / "copy").exists()


def test_a_finished_run_prints_its_end_again_and_needs_no_data(command, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    known = json.loads((run / "environment.json").read_text())
    known["data"]["where"] = "/nowhere"
    (run / "environment.json").write_text(json.dumps(known))
    shutil.rmtree(run / "checkpoints")
    result = json.loads((finished / "result.json").read_text())
    answer = command("resume", run, "--json")
    assert answer.status == 0
    assert answer.err == f"residual: {run} is finished; no step is left to take\n"
    assert answer.json["weights_sha256"] == result["weights_sha256"]
    assert answer.json["step"] == 60
    assert f"{result['wrong_top1']} of 360 test images wrong" in command("resume", run).out


def test_a_run_without_a_checkpoint_goes_on_from_its_start(command, tmp_path, pictures, weights):
    run = start(tmp_path / "run", pictures, 0)
    assert not folder.checkpoints(run)
    assert command("resume", run, "--json").json["weights_sha256"] == weights


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--threads", 2), "threads was 1 and is 2"),
        (("--precision", "bf16"), "precision was float32 and is bf16"),
    ],
)
def test_what_would_change_a_bit_is_named_and_needs_a_word(command, run, words, sentence):
    answer = command("resume", run, *words)
    assert answer.status == 1
    assert sentence in answer.complaint
    assert "--inexact" in answer.complaint
    assert command("resume", run, *words, "--inexact").status == 0


@pytest.mark.parametrize(
    "words", [("--device", "abacus"), ("--precision", "fp8"), ("--threads", -1)]
)
def test_a_setting_that_there_is_not_is_a_wrong_command_line(command, run, words):
    answer = command("resume", run, *words, "--inexact")
    assert answer.status == 2
    assert "Traceback" not in answer.err
    assert not (run / "result.json").exists()


def test_no_number_of_threads_means_every_core_at_resume_too(command, run):
    answer = command("resume", run, "--threads", 0, "--inexact")
    assert answer.status == 0, answer.err
    hardware = json.loads((run / "result.json").read_text())["hardware"]
    assert hardware.endswith(f", {available_cores()} threads")


def test_a_run_may_go_on_with_any_number_of_workers(command, run, weights):
    assert command("resume", run, "--workers", 3, "--json").json["weights_sha256"] == weights


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(command, run, weights):
    newest = folder.checkpoints(run)[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    answer = command("resume", run, "--json")
    assert answer.status == 0
    assert answer.json["weights_sha256"] == weights
    said = [line for line in answer.err.splitlines() if line.startswith("residual: ")]
    assert len(said) == 1
    assert f"{newest} is damaged" in said[0]
    assert said[0].endswith("the one before it is used")


def test_when_every_checkpoint_is_damaged_it_is_said_in_one_sentence(command, run):
    for path in folder.checkpoints(run):
        path.write_bytes(path.read_bytes()[:100])
    answer = command("resume", run)
    assert answer.status == 1
    assert "no checkpoint is whole" in answer.complaint
    for path in folder.checkpoints(run):
        assert path.name in answer.complaint


def test_a_checkpoint_of_a_newer_version_is_refused_and_not_passed_over(command, run, monkeypatch):
    newest = folder.checkpoints(run)[-1]
    tensors, header = checkpoint.read(newest)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(newest, tensors, header)
    monkeypatch.undo()
    for word in ("resume", "evaluate"):
        answer = command(word, run)
        assert answer.status == 1
        assert f"{newest.name} has format 2" in answer.complaint
        assert answer.complaint.endswith("update it")


@pytest.mark.parametrize("name", ["recipe.json", "environment.json"])
def test_a_run_of_a_newer_version_is_refused(command, run, name):
    (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | {"format": 2}))
    answer = command("resume", run)
    assert answer.status == 1
    assert f"{name} has format 2" in answer.complaint


def test_a_recipe_that_was_damaged_is_named(command, run):
    (run / "recipe.json").write_text('{"network": "resn')
    answer = command("resume", run)
    assert answer.status == 1
    assert "recipe.json is damaged" in answer.complaint


def test_what_is_no_run_is_told_in_a_sentence(command, tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        answer = command("resume", path)
        assert answer.status == 1
        assert str(path) in answer.complaint
