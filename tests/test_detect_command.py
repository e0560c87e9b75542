"""The commands of `residual detect`, as a person types them, on drawn squares and bars."""

import json
import os
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import FORK, call_in_child
from made_boxes import draw_voc
from PIL import Image
from test_processes import side_by_side
from test_run_claims import at_once

from residual.runs.folder import writing
from residual.tasks.detection import load
from residual.tasks.detection import train as running
from residual.training.events import RunOptions

SMALL = (
    *("--recipe", "scratch", "--shorter-side", 64, "--set", "bins=3", "--set", "scales=16,32"),
    *("--set", "smallest=4", "--set", "candidates=300", "--set", "proposals=50"),
    *("--set", "regions=8", "--set", "anchors=16", "--set", "lr=0.005", "--threads", 1),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_voc(tmp_path_factory.mktemp("boxes") / "made", n=4)


def training(folder: Path, out: Path, *more: object, steps: int = 6) -> tuple[object, ...]:
    words = ("detect", "train", "resnet18", "--data", folder, "--out", out, "--steps", steps)
    return (*words, *SMALL, *more)


@pytest.fixture(scope="module")
def run(command, folder, tmp_path_factory):
    """A finished run. No test may change it."""
    place = tmp_path_factory.mktemp("detectors") / "one"
    answer = command(*training(folder, place, "--json"))
    assert answer.status == 0, answer.err
    return place, answer.json


def test_a_training_ends_with_average_precision_on_the_test_split(run, folder):
    place, said = run
    result = json.loads((place / "result.json").read_text())
    assert (said["run"], said["step"], said["seen"]) == (str(place), 6, 4)
    assert said["ap"] == result["ap"] and set(said["ap"]["AP50-area"]["classes"]) == {
        "bar",
        "square",
    }
    assert result["task"] == "detection" and result["protocol"] == "voc"
    assert result["recipe"]["network"] == "resnet18" and result["networks"] == ["resnet18"]
    assert [line["step"] for line in result["curve"]] == [1, 2, 3, 4, 5, 6]
    assert {"objectness_loss", "anchor_loss", "class_loss", "box_loss"} < set(result["curve"][0])
    assert json.loads((place / "classes.json").read_text()) == ["bar", "square"]


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_is_not(run, command, folder, tmp_path):
    _, said = run
    other = tmp_path / "killed"
    words = [str(word) for word in training(folder, other, "--checkpoint-minutes", 0)]
    out, err = tmp_path / "out", tmp_path / "err"
    process = FORK.Process(target=call_in_child, args=(words, str(tmp_path), str(out), str(err)))
    process.start()
    until = time.monotonic() + 60
    log = other / "log.jsonl"
    while time.monotonic() < until and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (other / "result.json").exists()
    answer = command("resume", other, "--json")
    assert answer.status == 0, answer.err
    assert answer.json["weights_sha256"] == said["weights_sha256"]
    assert answer.json["ap"] == said["ap"]
    lines = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6]


def test_a_run_that_a_process_works_on_is_refused_to_another(
    run, process, folder, no_grace, tmp_path
):
    copy = Path(shutil.copytree(run[0], tmp_path / "copy"))
    (copy / "result.json").unlink()
    with writing(copy):
        commands = ("resume", copy), training(folder, copy)
        for answer in at_once(process, *commands, cwd=tmp_path):
            assert answer.status == 1
            assert f"{copy} is in use by process {os.getpid()} on " in answer.complaint
        recipe = load.read_recipe(copy)
        with pytest.raises(ValueError, match=f"{copy} is in use by"):
            next(
                running.advance(
                    copy, running.load_data(recipe, {"where": str(folder)}), RunOptions()
                )
            )


def test_a_finished_run_prints_its_end_again(run, command):
    place, said = run
    answer = command("resume", place, "--json")
    assert answer.status == 0 and answer.json == said


def test_two_processes_train_and_judge_as_one(run, folder, tmp_path):
    place, said = run
    answers = side_by_side(tmp_path / "two", 2, *training(folder, tmp_path / "shared", "--json"))
    assert [answer.status for answer in answers] == [0, 0], answers[0].err + answers[1].err
    assert not answers[1].out
    alone = [json.loads(x) for x in (place / "log.jsonl").read_text().splitlines()]
    shared = [json.loads(x) for x in (tmp_path / "shared/log.jsonl").read_text().splitlines()]
    for one, other in zip(alone, shared, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert answers[0].json["seen"] == said["seen"]


def test_an_evaluation_prints_every_measure_and_equals_that_of_the_training(run, command, folder):
    place, said = run
    answer = command("detect", "evaluate", place, "--json", "--threads", 1)
    assert answer.status == 0, answer.err
    assert answer.json["ap"] == said["ap"] and answer.json["testing"]["proposals"] == 300
    words = command(
        "detect", "evaluate", place, place, "--split", "trainval", "--refine", "--threads", 1
    )
    assert words.status == 0, words.err
    for name in ("resnet18 + resnet18", "AP50-11pt", "AP50-area", "AP[.5:.95]", "bar", "square"):
        assert name in words.out


def test_an_evaluation_on_two_processes_is_that_on_one(run, command, tmp_path):
    place, said = run
    words = ("detect", "evaluate", place, "--json", "--threads", 1, "--multiscale")
    both = side_by_side(tmp_path / "two", 2, *words)
    alone = command(*words)
    assert [each.status for each in both] == [0, 0], both[0].err
    assert both[0].json["ap"] == alone.json["ap"]
    assert both[0].json["seen"] == said["seen"] == 4


def test_a_prediction_prints_boxes_and_draws_them(run, command, folder, tmp_path):
    place, _ = run
    pictures = folder / "JPEGImages"
    words = ("detect", "predict", place, pictures, "--score", 0, "--out", tmp_path, "--threads", 1)
    answer = command(*words, "--json")
    assert answer.status == 0, answer.err
    assert len(answer.json) == 8
    for each in answer.json:
        scores = [found["score"] for found in each["objects"]]
        assert scores == sorted(scores, reverse=True)
        width, height = Image.open(each["image"]).size
        assert Image.open(each["drawing"]).size == (width, height)
        for found in each["objects"]:
            left, top, right, bottom = found["box"]
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert found["label"] in ("bar", "square")
    plain = command(*words[:4], "--score", 0, "--threads", 1)
    assert plain.status == 0 and str(answer.json[0]["image"]) in plain.out


def test_a_damaged_picture_is_reported_and_the_rest_is_answered(run, command, folder, tmp_path):
    place, _ = run
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    whole = sorted((folder / "JPEGImages").iterdir())[0]
    answer = command("detect", "predict", place, broken, whole, tmp_path / "none.jpg", "--json")
    assert answer.status == 1
    assert [("error" in each) for each in answer.json] == [True, False, True]
    assert str(broken) in answer.err and "Traceback" not in answer.err


def test_a_run_of_one_kind_is_refused_by_the_commands_of_the_other(run, command, finished, folder):
    place, _ = run
    assert "is the run of a detector" in command("evaluate", place).complaint
    assert "is the run of a detector" in command("predict", place, "x.jpg").complaint
    refused = command("detect", "evaluate", finished, "--data", folder)
    assert "is the run of a classifier" in refused.complaint and refused.status == 1


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (("resnet18", "--recipe", "voc07"), "--weights", 1),
        (("resnet20",), "no detector is made of resnet20", 1),
        (("resnet18", "--set", "shape=1"), "sets no field", 2),
        (("resnet18", "--set", "test_split=else"), "else", 1),
        (("resnet99",), "no network", 2),
        (("resnet18", "--set", "batch=0"), "batch is at least 1", 2),
    ],
)
def test_what_cannot_be_trained_is_refused(command, folder, tmp_path, words, said, status):
    recipe = () if "--recipe" in words else ("--recipe", "scratch")
    answer = command("detect", "train", *words, *recipe, "--data", folder, "--out", tmp_path / "no")
    assert answer.status == status and said in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "no").exists()


def test_a_class_that_the_checkpoint_does_not_know_is_named(run, command, tmp_path):
    other = draw_voc(tmp_path / "other", n=2)
    for file in (other / "Annotations").iterdir():
        file.write_text(file.read_text().replace("square", "circle"))
    complaint = command("detect", "evaluate", run[0], "--data", other).complaint
    assert "circle" in complaint


def test_a_report_has_the_losses_and_every_class(run, command, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(run[0], place)
    answer = command("report", place)
    assert answer.status == 0, answer.err
    page = (place / "report" / "report.html").read_text()
    words_of_page = ("Faster R-CNN on resnet18", "mean of the classes", "square", "Losses")
    for words in (*words_of_page, "<h2>Result</h2>", "<th>versions torch</th>"):
        assert words in page
    assert Image.open(place / "report" / "losses.png").size[0] > 1000
    (place / "result.json").unlink()
    assert command("report", place).status == 0
    assert "Training has not finished" in (place / "report" / "report.html").read_text()


def test_a_rate_falls_and_the_log_is_in_order(run):
    lines = [json.loads(line) for line in (run[0] / "log.jsonl").read_text().splitlines()]
    assert all(a["step"] < b["step"] for a, b in pairwise(lines))
    assert lines[-1]["lr"] < lines[2]["lr"]


def test_train_names_detectors_for_a_folder_of_boxes(command, folder):
    complaint = command("train", "resnet18", "--data", folder).complaint
    assert "holds boxes around objects: name a detector, such as fasterrcnn-resnet18" in complaint


def test_train_takes_a_detector_by_its_name(command, folder, run, tmp_path):
    words = [*SMALL[:2], "--set", "shorter=64", *SMALL[4:]]  # --shorter-side is `detect train`'s
    begin = ("train", "fasterrcnn-resnet18", "--data", folder, "--steps", 6, *words)
    answer = command(*begin, "--out", tmp_path / "run", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["weights_sha256"] == run[1]["weights_sha256"]
    refused = command(*begin, "--out", tmp_path / "other", "--balance", "sampler")
    assert (
        refused.status == 2 and "--balance is for networks that tell classes apart" in refused.err
    )
