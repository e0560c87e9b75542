"""What export/detector_check.py claims: an exported detector finds what the detector finds."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from residual.device import ComputeConfig
from residual.export import classifier as export
from residual.export import detector as building
from residual.export import detector_check as exporting
from residual.export.graph import FLOAT, Graph, Value, open_session
from residual.export.onnx_file import open_file
from residual.tasks.detection.inference import file_detector
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.recipe import Testing as Asking
from residual.training.checkpoint import weights_sha256
from residual.training.recipe import to_json
from tests.made_detectors import CLASSES, detector, picture, run_of
from tests.test_engine import trained as classifier

pytest.importorskip("onnxruntime", reason="needs the extra deploy")

QUICK = Asking(candidates=300, proposals=40)
KINDS = {
    "pool": {},
    "align": {"pooling": "align"},
    "batch norm": {"norm": "frozen"},
    "context": {"context": True, "pooling": "align"},
    "bottlenecks": {"network": "resnet50", "norm": "frozen", "bins": 3},
    "VGG-16": {"network": "vgg16", "norm": "frozen", "bins": 1},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_exported_detector_finds_the_same_on_pictures_of_every_size(kind, tmp_path):
    found = exporting.write_onnx(detector(**kind), tmp_path / "net.onnx", QUICK)
    assert [row["height"] < row["width"] for row in found] == [True, False, True, True, False]
    assert all(row["apart"] < 1e-4 and row["pixels"] < 0.01 for row in found)
    assert all(row["regions"] for row in found) and all(row["found"] for row in found)
    # One decision of a hundred may hang on a last bit.
    assert sum(row["same"] for row in found) >= 0.97 * sum(row["found"] for row in found)


def test_the_model_says_what_its_user_must_know(tmp_path):
    own = detector()
    exporting.write_onnx(own, tmp_path / "net.onnx", QUICK)
    session = open_session((tmp_path / "net.onnx").read_bytes(), {}, 1)
    known = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert known["task"] == "detection" and known["network"] == "resnet18"
    assert known["labels"] == list(CLASSES) and known["source"] == "trained by residual, 7 steps"
    assert known["weights_sha256"] == weights_sha256(own.net.state_dict())
    assert known["testing"] == to_json(QUICK)
    view = known["preprocessing"]
    assert (view["shorter"], view["longest"], view["inside"]) == (64, 110, True)
    assert np.float32(view["std"]).tolist() == own.preprocessing.std.flatten().tolist()
    assert [each.name for each in session.get_inputs()] == ["image"]
    assert [each.name for each in session.get_outputs()] == ["boxes", "scores", "labels"]


def test_an_exported_detector_leaves_out_what_is_small_in_the_picture_before_it_is_resized(
    tmp_path,
):
    every = exporting.write_onnx(detector(smallest=0), tmp_path / "every.onnx", QUICK)
    large = exporting.write_onnx(detector(smallest=20), tmp_path / "large.onnx", QUICK)
    fewer = [one["regions"] < other["regions"] for one, other in zip(large, every, strict=True)]
    assert fewer[0] and large[0]["regions"]  # 64x48 pixels, enlarged by 4/3
    assert fewer[3] and not large[3]["regions"]  # 9x7 pixels, of which no box has 20


@pytest.mark.parametrize("kind", [{}, {"context": True}, {"pooling": "align"}], ids=str)
def test_a_picture_on_which_no_proposal_remains_is_answered_with_nothing(kind, tmp_path):
    found = exporting.write_onnx(detector(**kind, smallest=1000), tmp_path / "net.onnx")
    assert {(row["regions"], row["found"], row["same"]) for row in found} == {(0, 0, 0)}
    session = open_session((tmp_path / "net.onnx").read_bytes(), {}, 1)
    boxes, scores, labels = session.run(None, {"image": np.zeros((1, 5, 8, 3), np.uint8)})
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int64)


def test_a_detector_that_has_not_learned_is_compared_before_its_scores_are_looked_at(tmp_path):
    own = detector()
    for layer in (own.net.score, own.net.shift):
        nn.init.normal_(layer.weight, std=1e-3)
    testing = replace(QUICK, least=0.9)
    found = exporting.write_onnx(own, tmp_path / "net.onnx", testing)
    assert not any(row["found"] for row in found) and all(row["regions"] for row in found)


WRONG = {
    "deviations": ("BOX_STD", (0.1, 0.1, 0.2, 0.25), "boxes of regions differ by"),
    "suppression": ("PROPOSAL_NMS", 0.6, "regions differ"),
    "widest": ("MAX_LOG_SCALE", 0.01, "candidates differ by"),
    "stride": ("STRIDE", 15, "candidates differ by"),
    "fitted": ("fit", lambda graph, *_: [graph.value([48])] * 2, "objectness differ in number"),
}


@pytest.mark.parametrize(("name", "value", "says"), WRONG.values(), ids=WRONG)
def test_a_graph_that_computes_anything_else_is_refused(name, value, says, tmp_path, monkeypatch):
    own = detector()
    monkeypatch.setattr(building, name, value)
    with pytest.raises(ValueError, match=f"nothing is written: .* resnet18 differs: {says}"):
        exporting.write_onnx(own, tmp_path / "net.onnx", QUICK)
    assert not list(tmp_path.iterdir())


ALTERED = {"overlap": 0.5, "least": 0.6, "most": 1}


@pytest.mark.parametrize("field", ALTERED)
def test_a_model_that_is_asked_otherwise_than_the_one_checked_is_refused(
    field, tmp_path, monkeypatch
):
    own, build = detector(), exporting.detector_graph
    other = replace(QUICK, **{field: ALTERED[field]})
    monkeypatch.setattr(
        exporting,
        "detector_graph",
        lambda *given: build(own, other if given[1] == QUICK else given[1]),
    )
    with pytest.raises(ValueError, match="the best (boxes|scores) differ"):
        exporting.write_onnx(own, tmp_path / "net.onnx", QUICK)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_detector_are_refused(tmp_path, monkeypatch):
    own, other, build = detector(), detector(), exporting.detector_graph
    nn.init.normal_(other.net.score.weight)
    monkeypatch.setattr(exporting, "detector_graph", lambda _, testing: build(other, testing))
    with pytest.raises(ValueError, match="differs: probabilities differ by"):
        exporting.write_onnx(own, tmp_path / "net.onnx", QUICK)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["score", "shift", "proposing.shift"])
def test_a_detector_whose_weights_are_no_numbers_is_refused(part, tmp_path):
    own = detector()
    nn.init.constant_(own.net.get_submodule(part).weight, float("nan"))
    with pytest.raises(ValueError, match=f"{part}.weight holds numbers that are not finite"):
        exporting.write_onnx(own, tmp_path / "net.onnx", QUICK)
    assert not list(tmp_path.iterdir())


def test_looking_twice_is_not_exported(tmp_path):
    for testing in (Asking(refinement=True), Asking(scales=(32, 64))):
        with pytest.raises(ValueError, match="detects at one scale"):
            exporting.write_onnx(detector(), tmp_path / "net.onnx", testing)


def test_without_the_extra_one_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"ONNX is not installed; pip install .*\[deploy\]"):
        exporting.write_onnx(detector(), tmp_path / "net.onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[TrainedDetector, Path]:
    """A detector, and its model. No test may change them."""
    out = tmp_path_factory.mktemp("exported") / "net.onnx"
    exporting.write_onnx(detector(), out, Asking())
    return detector(), out


def test_a_model_that_is_read_again_finds_what_the_detector_finds(exported, tmp_path):
    own, out = exported
    again, classes, testing = exporting.exported_detector(open_file(out, 1))
    assert classes == CLASSES and testing == Asking()
    asked = file_detector([own], Asking(), ComputeConfig())
    for i, size in enumerate([(90, 60), (50, 200), (64, 64), (4, 3)]):
        file = tmp_path / f"{i}.png"
        turned = Image.Exif()
        turned[0x0112] = 6  # a quarter turn: what is seen is as high as the file is wide
        picture(size, i).save(file, exif=turned)
        expected, found = asked(file), again(file)
        assert len(expected.scores)
        assert exporting.count_matches(expected, found) == len(expected.scores) == len(found.scores)


def test_only_the_metadata_that_a_detector_needs_is_read(exported, tmp_path):
    import onnx

    model = onnx.load(exported[1])
    path = tmp_path / "net.onnx"
    model.metadata_props.add(key="author", value="not JSON")
    onnx.save(model, path)
    assert exporting.exported_detector(open_file(path, 1))[1:] == (CLASSES, Asking())
    next(entry for entry in model.metadata_props if entry.key == "testing").value = "{"
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"net\.onnx is damaged"):
        exporting.exported_detector(open_file(path, 1))


def test_what_is_no_exported_detector_is_refused_in_a_sentence(exported, tmp_path):
    export.write_onnx(classifier("resnet8"), tmp_path / "net.onnx", True)
    with pytest.raises(ValueError, match="is the model of a classifier, resnet8"):
        exporting.exported_detector(open_file(tmp_path / "net.onnx", 1))
    (tmp_path / "cut.onnx").write_bytes(exported[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut.onnx is damaged or is no ONNX model"):
        exporting.exported_detector(open_file(tmp_path / "cut.onnx", 1))
    with pytest.raises(FileNotFoundError, match=r"no file .*none.onnx"):
        exporting.exported_detector(open_file(tmp_path / "none.onnx", 1))
    graph = Graph()
    graph("Identity", Value(graph, "x"))
    other = graph.serialize({"x": (FLOAT, [1])}, {graph.nodes[-1].output[0]: (FLOAT, [1])})
    (tmp_path / "other.onnx").write_bytes(other)
    with pytest.raises(ValueError, match="was not written by residual export"):
        exporting.exported_detector(open_file(tmp_path / "other.onnx", 1))


def test_the_file_that_the_command_writes_is_asked_as_the_run_is(command, tmp_path):
    run, out = run_of(detector(), tmp_path / "run"), tmp_path / "net.onnx"
    answer = command("export", run, "--out", out, "--threads", 1)
    assert answer.status == 0, answer.err
    assert "a detector on resnet18 as onnx" in answer.out and "48x64" in answer.out
    picture((90, 70)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    words = tmp_path / "a.png", tmp_path / "b.png", "--json", "--threads", 1
    ours, theirs = (command("detect", "predict", each, *words) for each in (run, out))
    assert ours.status == theirs.status == 1 and "b.png is no picture" in theirs.err
    assert ours.err == theirs.err
    (objects, broken), (expected, _) = theirs.json, ours.json
    assert "b.png is no picture" in broken["error"] and objects["objects"]
    for one, other in zip(objects["objects"], expected["objects"], strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=2e-4)
        assert one["box"] == pytest.approx(other["box"], abs=0.05)
    drawn = command("detect", "predict", out, tmp_path / "a.png", "--out", tmp_path / "drawn")
    assert drawn.status == 0 and (tmp_path / "drawn" / "a-boxes.png").exists()
    checkpoint = next((run / "checkpoints").iterdir())
    again = command("export", checkpoint, "--out", tmp_path / "2.onnx", "--json", "--threads", 1)
    assert again.json["network"] == "resnet18" and len(again.json["parity"]) == 5


def test_what_an_exported_detector_cannot_do_is_a_wrong_command_line(command, exported, tmp_path):
    file = tmp_path / "a.png"
    picture((20, 20)).save(file)
    for words in (["--refine"], ["--multiscale"], ["--precision", "bf16"]):
        answer = command("detect", "predict", exported[1], file, *words)
        assert answer.status == 2 and "detects at one scale" in answer.err
    answer = command("detect", "predict", exported[1], file, "--score", 0.01)
    assert answer.status == 2 and "scores above 0.05" in answer.err


def test_a_detector_is_exported_as_onnx_with_its_preprocessing_alone(command, tmp_path):
    run = run_of(detector(), tmp_path / "run")
    for form in ("safetensors", "torchvision"):
        answer = command("export", run, "--format", form, "--out", tmp_path / "net.safetensors")
        assert answer.status == 2 and f"as onnx, not as {form}" in answer.err
    words = "--preprocessing", "outside", "--out", tmp_path / "net.onnx"
    answer = command("export", run, *words)
    assert answer.status == 2 and "preprocessing is inside" in answer.err
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
