"""A number that is NaN or infinite is found, named and refused, wherever it comes from."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from made_detectors import detector, picture, run_of
from test_processes import free_port, place_of, started
from test_runs import ALWAYS, SHORT, begun, names
from torch import nn

import residual
from residual.data.sources import digits
from residual.device import ComputeConfig, NonFiniteValues, check_finite, is_finite
from residual.distributed import join, leave
from residual.runs import folder
from residual.storage import json_text
from residual.tasks.classification.evaluate import evaluate_ensemble as judged
from residual.tasks.classification.inference import InferenceOptions as Answering
from residual.tasks.classification.load import load
from residual.tasks.classification.protocols import PROTOCOLS
from residual.tasks.classification.train import advance
from residual.tasks.detection.datasets import DetectionDataset, Example
from residual.tasks.detection.evaluate import EvalOptions, evaluate
from residual.tasks.detection.inference import file_detector
from residual.tasks.detection.recipe import Testing as Asking
from residual.training import checkpoint
from residual.training.meter import Diverged

NAN = math.nan
WORDS = r"numbers that are not finite \(NaN or infinite\)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [[], [NAN], [math.inf], [-math.inf], [NAN, math.inf]])
def test_one_number_among_many_is_enough(dtype, bad):
    for place in (0, 5, 11):
        values = torch.arange(12.0).to(dtype)
        values[1] = torch.finfo(dtype).max  # a sum would be infinite
        values[2] = torch.finfo(dtype).max
        for i, number in enumerate(bad):
            values[(place + i) % 12] = number
        slow = all(math.isfinite(float(each)) for each in values)
        assert is_finite(values.view(3, 4)) == slow == (not bad)


def test_whole_numbers_and_nothing_are_finite():
    assert is_finite(torch.zeros(0)) and is_finite(torch.tensor([2**62])) and is_finite(
        torch.ones(3, dtype=torch.bool)
    )  # fmt: skip


def test_the_first_bad_tensor_is_named():
    tensors = {"net.a": torch.ones(2), "net.b": torch.tensor([1.0, NAN]), "c": torch.tensor(NAN)}
    with pytest.raises(NonFiniteValues, match=f"file: b holds {WORDS}"):
        check_finite(tensors, "file")


# ---- classification -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(finished, tmp_path_factory) -> Path:
    """A file of weights as older versions wrote it, one of them NaN."""
    tensors, header, _ = folder.newest(finished)
    layer = next(n for n in sorted(tensors) if n.startswith("net.conv3_x") and tensors[n].ndim == 4)
    tensors[layer].view(-1)[0] = NAN
    path = tmp_path_factory.mktemp("broken") / "broken.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "check_finite", lambda *_: None)
        checkpoint.save(path, tensors, header)
    return path


def test_a_network_that_answers_nan_is_named_with_the_layer_and_has_no_error(command, broken):
    for words in (("evaluate", broken, "--json"), ("responses", broken)):
        answer = command(*words, "--data", "digits", "--threads", 1)
        assert answer.status == 1 and not answer.out
        assert "resnet8 " in answer.complaint and "not finite" in answer.complaint
    with pytest.raises(
        NonFiniteValues, match=f"^resnet8 answers with {WORDS}, first after the layer conv3_x"
    ):
        residual.evaluate(broken, "digits")


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_no_probability_is_printed_that_is_none(command, broken, pictures, engine):
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime")
    image = next((pictures / "test").rglob("*.png"))
    words = ("predict", broken, image, "--json", "--threads", 1, "--engine", engine)
    answer = command(*words)
    assert answer.status == 1 and not answer.out
    assert "resnet8 answers with numbers that are not finite" in answer.complaint
    if engine == "torch":
        assert "first after the layer conv3_x" in answer.complaint


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
def test_weights_that_are_none_are_not_exported(command, broken, tmp_path, form):
    out = tmp_path / ("net.onnx" if form == "onnx" else "net.safetensors")
    answer = command("export", broken, "--format", form, "--out", out)
    assert answer.status == 1 and "conv3_x" in answer.complaint
    assert not out.exists()


def test_no_training_begins_with_them(command, broken, tmp_path):
    out = tmp_path / "run"
    words = ("train", "resnet8", "--steps", 2, "--weights", broken, "--out", out, "--threads", 1)
    answer = command(*words)
    assert answer.status == 1 and "conv3_x" in answer.complaint
    assert not out.exists()


def test_foreign_weights_with_nan_are_not_converted(command, tmp_path):
    state = torchvision.models.resnet18().state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = math.inf
    torch.save(state, tmp_path / "theirs.pth")
    out = tmp_path / "ours.safetensors"
    answer = command("convert", tmp_path / "theirs.pth", "--network", "resnet18", "--out", out)
    assert answer.status == 1 and "conv3_x" in answer.err.splitlines()[-1]
    assert "not finite" in answer.err and not out.exists()


def test_activations_that_overflow_are_named_by_the_layer_they_come_from(finished):
    trained = load(finished)
    with torch.no_grad():
        for module in trained.net.conv2_x.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1e38)
    check_finite(trained.net.state_dict(), "all weights")
    inputs = torch.randn(2, 3, 8, 8)
    assert not is_finite(trained.net(inputs))
    with pytest.raises(
        NonFiniteValues, match="resnet8 answers with .* first after the layer conv2_x"
    ):
        judged([trained], digits(), None, PROTOCOLS["1crop"], Answering(ComputeConfig()))


def one_of_two(run: str, out: str) -> None:
    """In a process of its own: the first one's network alone answers NaN."""
    world, trained = join(), load(run)
    if world.rank == 0:
        nn.init.constant_(trained.net.fc.weight, NAN)
    try:
        judged(
            [trained], digits(), None, PROTOCOLS["1crop"], Answering(ComputeConfig(), world=world)
        )
    except NonFiniteValues as error:
        Path(out).write_text(str(error))
    leave()


def test_what_one_process_meets_ends_all_of_them(finished, tmp_path):
    port, outs = free_port(), [str(tmp_path / "0"), str(tmp_path / "1")]
    places = [place_of(rank, 2, port) for rank in range(2)]
    assert started(one_of_two, places, [str(finished)] * 2, outs) == [0, 0]
    assert {Path(out).read_text().rpartition(", ")[2] for out in outs} == {
        "first after the layer fc"
    }


# ---- training -----------------------------------------------------------------------------------


def test_weights_that_the_last_step_ruins_are_not_saved(tmp_path):
    """Its loss, of the weights before the step, is a number."""
    run = tmp_path / "run"
    recipe = replace(SHORT, steps=3, drops=(2,), lr=1e-13, weight_decay=1e10, factor=1e43)
    data = begun(run, recipe)
    with pytest.raises(Diverged, match="after step 3: .* holds numbers .* of the images [0-9]+, "):
        list(advance(run, data, ALWAYS))
    assert names(run / "checkpoints") == ["step-00000001.safetensors", "step-00000002.safetensors"]
    assert not (run / "result.json").exists()
    assert load(run).step == 2
    assert all(map(is_finite, load(run).net.state_dict().values()))


def test_a_checkpoint_that_is_refused_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"net.a": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(NonFiniteValues, match=f"a.safetensors is not written: a holds {WORDS}"):
        checkpoint.save(path, {"net.a": torch.tensor([1.0, NAN])}, {})
    assert path.read_bytes() == before and names(tmp_path) == ["a.safetensors"]


# ---- JSON ---------------------------------------------------------------------------------------


def test_json_is_strict_and_names_the_place_of_a_number_that_is_none():
    value = {"a": [1, 2.5, {"b": None}], "c": "NaN"}
    assert json_text(value) == json.dumps(value)
    value["a"][2]["b"] = NAN
    with pytest.raises(ValueError, match="a.2.b is nan, which is no JSON"):
        json_text(value)
    with pytest.raises(ValueError, match="a number is inf, which is no JSON"):
        json_text(math.inf)


def test_a_log_of_an_older_version_that_holds_nan_is_still_read_and_gone_on_with(tmp_path):
    path, text = tmp_path / "log.jsonl", '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 1.0}\n'
    path.write_text(text + '{"step": 3}\n{"st')
    assert math.isnan(folder.read_log(path)[0]["loss"])
    folder.rewind_log(tmp_path, 2)
    assert path.read_text() == text
    with pytest.raises(ValueError, match="loss is nan, which is no JSON"):
        folder.append_log(tmp_path, {"step": 3, "loss": NAN})
    assert path.read_text() == text


# ---- detection ----------------------------------------------------------------------------------


def ruined(layer: str, number: float):
    own = detector()
    with torch.no_grad():
        own.net.get_parameter(f"{layer}.weight").view(-1)[0] = number
    return own


@pytest.mark.parametrize("number", [NAN, math.inf])
@pytest.mark.parametrize("layer", ["proposing.score", "proposing.shift", "score", "shift"])
def test_a_detector_whose_numbers_are_none_is_named_with_the_layer(tmp_path, layer, number):
    picture((80, 64)).save(tmp_path / "a.png")
    find = file_detector([ruined(layer, number)], Asking(), ComputeConfig(threads=1))
    with pytest.raises(
        NonFiniteValues, match=f"^resnet18 answers with {WORDS}, first after the layer {layer}"
    ):
        find(tmp_path / "a.png")


def test_it_has_no_average_precision(tmp_path):
    picture((80, 64)).save(tmp_path / "a.png")
    box, label, hard = torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([0]), torch.tensor([False])
    examples = (Example(tmp_path / "a.png", "a", box, label, hard),)
    own = ruined("score", NAN)
    split = DetectionDataset("made", own.classes, examples, "f" * 64, format="voc")
    with pytest.raises(NonFiniteValues, match="first after the layer score"):
        evaluate([own], split, Asking(), EvalOptions(ComputeConfig(threads=1)))
    assert (
        evaluate([detector()], split, Asking(), EvalOptions(ComputeConfig(threads=1)))["seen"] == 1
    )


def test_a_detector_of_such_weights_is_neither_kept_nor_exported(command, tmp_path):
    with pytest.raises(NonFiniteValues, match=f"is not written: score.weight holds {WORDS}"):
        run_of(ruined("score", NAN), tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "check_finite", lambda *_: None)
        run_of(ruined("score", NAN), tmp_path / "old")
    answer = command("export", tmp_path / "old", "--out", tmp_path / "net.onnx")
    assert answer.status == 1 and "score.weight holds numbers that are not finite" in answer.err
    assert not (tmp_path / "net.onnx").exists()
    picture((80, 64)).save(tmp_path / "a.png")
    answer = command("detect", "predict", tmp_path / "old", tmp_path / "a.png", "--json")
    assert answer.status == 1 and not answer.out
    assert "first after the layer score" in answer.err
