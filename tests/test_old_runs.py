"""Runs and checkpoints that version 0.1.0 wrote (commit 9c8dc24) load, resume, evaluate and report.

The weights of large networks are not stored: their names, shapes and headers are, and the weights
are drawn anew.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from goldens import draw_photographs
from made_boxes import draw_voc

from residual.data.sources import load as load_data
from residual.runs import folder
from residual.tasks.classification.load import load
from residual.tasks.detection import datasets
from residual.tasks.detection import load as detection
from residual.training import checkpoint

OLD = Path(__file__).parent / "old_runs"


def draw(name: str, dtype: str, shape: list[int]) -> torch.Tensor:
    """Small random weights; positive variances; zero for everything that counts."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 50
    if name.endswith(("running_var", "preprocessing.std")):
        values = values.abs() + 0.5
    return values.to(getattr(torch, dtype))


@pytest.fixture
def copy(tmp_path):
    """A function that copies an old run -> the copy, with all its checkpoints."""

    def copy(name: str) -> Path:
        run = tmp_path / name
        shutil.copytree(OLD / name, run)
        (run / "checkpoints").mkdir(exist_ok=True)
        for outline in sorted(run.glob("*.safetensors.json")):
            content = json.loads(outline.read_text())
            outline.unlink()
            tensors = {key: draw(key, *of) for key, of in content["tensors"].items()}
            header = {key: v for key, v in content["header"].items() if key != "format"}
            checkpoint.save(run / content["file"], tensors, header)
        return run

    return copy


def found_at(run: Path, data: Path, fingerprint: str) -> None:
    """Write down where the data of a copied run is on this machine."""
    file = run / "environment.json"
    values = json.loads(file.read_text())
    values["data"] |= {"where": str(data), "fingerprint": fingerprint}
    file.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "photos"
    draw_photographs(path)
    return path


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "boxes"
    draw_voc(path, n=4)
    return path


def test_a_finished_run_has_its_weights_and_is_evaluated_and_reported(command, copy):
    run = copy("finished")
    result = json.loads((run / "result.json").read_text())
    assert checkpoint.weights_sha256(load(run).net.state_dict()) == result["weights_sha256"]
    evaluated = command("evaluate", run, "--json", "--threads", 1)
    assert evaluated.status == 0, evaluated.err
    assert abs(evaluated.json["wrong_top1"] - result["wrong_top1"]) <= 2  # on any processor
    assert command("report", run).status == 0
    again = command("resume", run, "--json")
    assert again.json["weights_sha256"] == result["weights_sha256"]


def test_an_interrupted_run_with_an_average_goes_on(command, copy):
    run = copy("averaged")
    before = [line for line in folder.read_log(run / "log.jsonl") if line["step"] < 60]
    answer = command("resume", run, "--inexact", "--json")
    assert answer.status == 0, answer.err
    log = folder.read_log(run / "log.jsonl")
    assert log[: len(before)] == before and log[-1]["step"] == answer.json["step"] == 60
    assert answer.json["error_top1"] < 40


def test_an_interrupted_finetuning_goes_on(command, copy, photographs, tmp_path):
    run = copy("finetuned")
    data = load_data(str(photographs), tmp_path / "cache", as_files=True)
    found_at(run, photographs, data.fingerprint)
    answer = command("resume", run, "--inexact", "--json", "--root", tmp_path / "cache")
    assert answer.status == 0, answer.err
    assert answer.json["seen"] == 8 and command("report", run).status == 0


@pytest.mark.parametrize("name", ["joint", "alternating"])
def test_an_interrupted_detector_goes_on(command, copy, boxes, name):
    run = copy(name)
    assert detection.load(run).classes == tuple(json.loads((run / "classes.json").read_text()))
    found_at(run, boxes, datasets.load(boxes, "trainval").fingerprint)
    answer = command("resume", run, "--inexact", "--json")
    assert answer.status == 0, answer.err
    assert (
        answer.json["step"] == {"joint": 4, "alternating": 8}[name]
        and answer.json["ap"]["pictures"] == 4
    )
    assert command("report", run).status == 0
