"""What a report shows of a run's mistakes: losses, calibration, false positives, several runs."""

import json
import math
import re
import shutil
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from made_boxes import draw_voc
from made_scenes import example, found, random_scenes
from matplotlib.figure import Figure
from test_detect_command import training
from test_report import DATA, RECIPE, RESULT, Page, a_run

from residual.analysis.calibration import calibrate, draw_calibration
from residual.analysis.calibration import expected_calibration_error as error
from residual.analysis.comparison import group_runs
from residual.analysis.confusion import draw_confusion
from residual.analysis.curves import save_figure
from residual.analysis.mistakes import IGNORED, RIGHT, WRONG, classifier_mistakes, judge
from residual.analysis.report import compare
from residual.data.sources import load as load_data
from residual.device import ComputeConfig
from residual.tasks.classification.inference import InferenceOptions
from residual.tasks.classification.load import load
from residual.tasks.detection.metrics import match_detections


def test_the_calibration_error_is_its_definition():
    draw = np.random.default_rng(0)
    confidence = np.concatenate([draw.random(500), [0.2, 0.4, 1.0, 1 / 15]])
    right = draw.random(504) < confidence**2
    result, total = calibrate(confidence, right), 0.0
    for i in range(15):  # bins (i/15, (i+1)/15] of Guo et al. 2017, the first with its lower end
        edges = np.linspace(0, 1, 16)
        inside = (confidence > edges[i]) & (confidence <= edges[i + 1])
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            total += inside.sum() / len(confidence) * gap
    assert error(result) == pytest.approx(total) and error(result) > 0.05
    assert result[0].sum() == 504


def test_right_answers_at_full_confidence_are_calibrated(tmp_path):
    result = calibrate(np.ones(4), np.ones(4, dtype=bool))
    assert error(result) == 0 and result[0].tolist() == [4]
    assert error(calibrate(np.ones(4), np.zeros(4, dtype=bool))) == 1
    save_figure(draw_calibration(result), tmp_path / "figure")


def test_one_scale_of_colours_shows_a_single_error_faintly():
    axes = Figure().subplots()
    draw_confusion(axes, np.array([[99, 1], [0, 100]]), "ab")
    (image,) = axes.images
    right, error, none = (image.cmap(image.norm(x))[:3] for x in (0.99, 0.01, 0.0))
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    assert np.abs(np.subtract(error, none)).max() < 0.03
    assert np.abs(np.subtract(right, none)).max() > 0.8


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def test_the_mistakes_are_the_images_with_the_highest_loss(finished, digits):
    trained = load(finished)
    result = classifier_mistakes(trained, digits, InferenceOptions(ComputeConfig(threads=1)))
    with torch.inference_mode():
        scores = trained.net(trained.preprocessing(digits.test.pixels))
    losses = torch.nn.functional.cross_entropy(scores, digits.test.labels, reduction="none")
    order = losses.argsort(descending=True)[:12].tolist()
    assert [one["name"] for one in result["mistakes"]] == [f"test image {i}" for i in order]
    for one, i in zip(result["mistakes"], order, strict=True):
        shares = scores[i].softmax(0)
        assert one["loss"] == pytest.approx(float(losses[i]), rel=1e-4)
        assert one["answer"] == digits.classes[int(shares.argmax())]
        assert one["label"] == digits.classes[int(digits.test.labels[i])]
        assert one["probability"] == pytest.approx(float(shares.max()), rel=1e-4)
        assert one["label_probability"] == pytest.approx(math.exp(-float(losses[i])), rel=1e-3)
    confidence = scores.softmax(1).max(1).values
    right = scores.argmax(1) == digits.test.labels
    expected = calibrate(confidence.double().numpy(), right.numpy())
    assert error(result["calibration"]) == pytest.approx(error(expected), rel=1e-4)
    stored = json.loads((finished / "result.json").read_text())
    assert len(result["mistakes"]) == 12 and right.sum() == stored["seen"] - stored["wrong_top1"]


def test_the_report_of_a_run_shows_them_on_one_page(command, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    answer = command("report", run, "--threads", 1)
    assert (answer.status, answer.out) == (0, f"{run}/report/report.html\n")
    page = Page(run / "report" / "report.html")
    assert "The 12 test images with the highest loss." in page.text
    assert "The expected calibration error (Guo et al. 2017) is " in page.text
    assert all(link.startswith("data:image/") for link in page.links)
    assert page.tags.count("img") == 2 + 24 + 1 and not page.open
    assert (run / "report" / "report.html").stat().st_size < 3_000_000
    assert (run / "report" / "calibration.png").is_file()


def test_a_run_whose_data_is_gone_has_a_report_without_mistakes(command, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    environment = json.loads((run / "environment.json").read_text())
    environment["data"]["where"] = str(tmp_path / "gone")
    (run / "environment.json").write_text(json.dumps(environment))
    answer = command("report", run)
    assert answer.status == 0 and "highest loss" not in Page(run / "report" / "report.html").text
    assert "say where it lies now with --data; the report is without mistakes" in answer.err
    answer = command("report", run, "--data", "digits", "--threads", 1)
    assert "highest loss" in Page(run / "report" / "report.html").text


# ---- detectors ----------------------------------------------------------------------------------


def test_false_positives_and_misses_of_a_scene_drawn_by_hand():
    scene = example((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10, 1))
    boxes = found(
        (0, 0, 10, 10, 0.9),  # right
        (0, 0, 10, 9, 0.8),  # the same object once more
        (23, 0, 30, 10, 0.7),  # right, at an IoU of 0.7
        (60, 0, 70, 10, 0.6),  # difficult
        (45, 0, 55, 10, 0.55),  # too far from the third
    )
    roles, missed = judge(boxes, scene, 3)
    assert roles.tolist() == [RIGHT, WRONG, RIGHT, IGNORED, WRONG]
    assert missed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("seed", range(5))
def test_they_are_counted_as_average_precision_counts_them(seed):
    """At one operating point, the precision is that of the devkit's curve."""
    detections, scenes = random_scenes(seed)
    judged = [judge(one, x, 3) for one, x in zip(detections, scenes.examples, strict=True)]
    for label, matches in enumerate(match_detections(detections, scenes.examples, 3)):
        right = sum(
            int((roles[one.labels == label] == RIGHT).sum())
            for one, (roles, _) in zip(detections, judged, strict=True)
        )
        missed = sum(
            int(misses[one.labels == label].sum())
            for one, (_, misses) in zip(scenes.examples, judged, strict=True)
        )
        hit = (matches.iou >= 0.5) & ~matches.difficult
        assert right == len(matches.objects[hit].unique())
        assert missed == matches.n_ordinary - right


def test_the_report_of_a_detector_draws_its_false_positives_and_misses(command, tmp_path):
    run, data = tmp_path / "run", draw_voc(tmp_path / "made", n=4)
    assert command(*training(data, run, "--json")).status == 0
    answer = command("report", run, "--threads", 1)
    assert answer.status == 0 and "without mistakes" not in answer.err
    page = Page(run / "report" / "report.html")
    objects = json.loads((run / "result.json").read_text())["ap"]["objects"]
    right, missed = re.search(r"(\d+) are right and \d+ are .*; (\d+) objects", page.text).groups()
    assert int(right) + int(missed) == objects
    assert page.tags.count("img") == 1 + page.text.count(" false positives, ") and not page.open


# ---- several runs -------------------------------------------------------------------------------


def seeds(tmp_path: Path) -> list[Path]:
    """Three seeds of one recipe, and a plain network."""
    runs = []
    for seed, wrong in enumerate((800, 900, 1000)):
        recipe = RECIPE | {"seed": seed}
        result = RESULT | {"recipe": recipe, "wrong_top1": wrong, "error_top1": wrong / 100}
        runs.append(a_run(tmp_path / f"seed{seed}", recipe=recipe, result=result))
        lines = [
            {"step": step, "train_error": 10 / step + seed, "test_error": 5 / step + 2 * seed}
            for step in (1, 2, 3 + seed)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (runs[-1] / "log.jsonl").write_text(text)
    return [*runs, a_run(tmp_path / "plain", recipe=RECIPE | {"network": "plain20"})]


def test_runs_that_differ_in_their_seeds_alone_are_one_curve_with_a_band(tmp_path):
    group, plain = group_runs(seeds(tmp_path))
    assert (group["label"], len(group["runs"]), plain["label"]) == ("resnet20", 3, "plain20")
    assert mean(group["values"]) == pytest.approx(9.0) and group["deviation"] == pytest.approx(1.0)
    assert plain["deviation"] is None and not plain["curve"].bands
    errors = {step: [5 / step + 2 * seed for seed in range(3)] for step in (1, 2)}
    assert list(group["curve"].test) == [(step, mean(e)) for step, e in errors.items()]
    begun = a_run(tmp_path / "begun", recipe=RECIPE | {"seed": 9}, result=None)
    (begun / "log.jsonl").unlink()
    more = group_runs([*(tmp_path / f"seed{seed}" for seed in range(3)), begun])
    assert [one["curve"].bands for one in more if len(one["runs"]) == 4] == [group["curve"].bands]
    for (step, low, high), e in zip(group["curve"].bands, errors.values(), strict=True):
        assert step in errors
        assert (low, high) == pytest.approx((mean(e) - stdev(e), mean(e) + stdev(e)))


def test_runs_of_one_seed_are_no_repetitions(tmp_path):
    first = a_run(tmp_path / "first")
    groups = group_runs([first, a_run(tmp_path / "second"), a_run(tmp_path / "other", result=None,
                         environment={"data": DATA | {"fingerprint": "0"}})])  # fmt: skip
    assert [group["label"] for group in groups] == ["first", "second", "other"]
    assert not groups[2]["values"]


def test_several_runs_are_compared_on_a_page(tmp_path):
    runs = seeds(tmp_path)
    page, png, svg = compare(runs, tmp_path / "together")
    words = Page(page)
    text = " ".join(words.text.split())
    assert "4 runs compared: resnet20, plain20" in text and len(words.links) == 1
    assert " resnet20 cifar10 3 error 9.00 1.00 seed0 (seed 0): 8.00; " in text
    assert " plain20 cifar10 1 error 8.75 – plain (seed 0): 8.75 " in text
    assert "Differences of the recipes field resnet20 plain20 network" in text
    assert "different data" not in text
    assert svg.read_text().count("<!-- resnet20 -->") == 1 and png.is_file()
    other = RESULT | {"data": DATA | {"fingerprint": "0"}}
    page, *_ = compare([runs[0], a_run(tmp_path / "elsewhere", result=other)], tmp_path / "two")
    assert "These runs were tested on different data" in Page(page).text
