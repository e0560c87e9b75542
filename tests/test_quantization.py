"""What `export --int8` claims: a smaller, faster file whose error is nearly that of float32."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from residual.data.sources import load as load_data
from residual.export import calibration, classifier, quantization
from residual.export.graph import open_session
from residual.tasks.classification.load import load
from tests.conftest import draw_pictures
from tests.made_detectors import CLASSES, detector, run_of
from tests.test_engine import trained

onnx = pytest.importorskip("onnx", reason="needs the extra deploy")
pytest.importorskip("onnxruntime", reason="needs the extra deploy")


@pytest.fixture(scope="module")
def quantized(command, finished, tmp_path_factory):
    """A run of digits in eight bits: the file, and what the command printed. No test may change
    it."""
    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    return out, command("export", finished, "--int8", "--out", out, "--threads", 1, "--json")


def metadata(path):
    entries = onnx.load(path).metadata_props
    return {entry.key: json.loads(entry.value) for entry in entries}


def optimized(model: bytes, tmp_path) -> list[str]:
    """The kinds of nodes that ONNX Runtime computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def test_a_run_is_written_in_eight_bits_with_both_errors(quantized, finished, command, tmp_path):
    out, answer = quantized
    assert answer.status == 0, answer.err
    row = answer.json
    assert row["precision"] == "int8" and len(row["parity"]) == 3
    assert row["error_int8"] <= row["error_float32"] + 0.5
    assert row["bytes_int8"] < 0.6 * row["bytes_float32"]
    assert row["images_per_second_int8"] > 0 and row["images_per_second_float32"] > 0
    plain = tmp_path / "plain.onnx"
    assert command("export", finished, "--out", plain).status == 0
    assert plain.stat().st_size == row["bytes_float32"] > out.stat().st_size
    text = command("export", finished, "--int8", "--out", tmp_path / "int8.onnx", "--threads", 1)
    assert f"{row['error_int8']:.2f} %" in text.out and "in eight bits" in text.out
    assert "calibrated on 256 training pictures of digits, compared on 1,181 others" in text.out


def test_the_metadata_says_what_the_file_was_calibrated_and_compared_on(quantized, finished):
    out, answer = quantized
    entries, digits = metadata(out), load_data("digits")
    assert entries["precision"] == "int8"
    expected = {"data": "digits", "fingerprint": digits.fingerprint, "pictures": 256}
    assert entries["calibration"] == expected
    place = {"data": "digits", "split": "train"}
    assert entries["evaluation"] == place | {"pictures": 1181, "measure": "error_top1"}
    result = json.loads((finished / "result.json").read_text())
    assert entries["error"]["error_top1"] == result["error_top1"]  # of float32, on the test set
    for name in ("error_float32", "error_int8"):
        assert entries[name] == answer.json[name]
    assert entries["labels"] == list("0123456789") and entries["preprocessing"]["inside"]
    assert entries["network"] == "resnet8"


def test_the_printed_errors_are_those_of_both_files_on_pictures_outside_of_the_calibration(
    quantized, finished
):
    out, answer = quantized
    own, data = load(finished), load_data("digits")
    pictures = calibration.classifier_pictures(own, data, True)
    seen = {bytes(image) for batch in pictures.calibration() for image in batch}
    others = [
        (image, int(label))
        for x, y in pictures.evaluation()
        for image, label in zip(x, y, strict=True)
    ]
    assert len(others) == 1181 and not seen & {bytes(image) for image, _ in others}
    train = {bytes(image) for image in data.train.pixels.permute(0, 2, 3, 1).numpy()}
    assert seen | {bytes(image) for image, _ in others} <= train
    for name, model in (("int8", out.read_bytes()), ("float32", classifier.onnx_model(own, True))):
        session = open_session(model, {}, 1)
        x = np.stack([image for image, _ in others])
        (answers,) = session.run(None, {"image": x})
        wrong = (answers.argmax(axis=1) != [label for _, label in others]).mean()
        assert 100 * wrong == pytest.approx(answer.json[f"error_{name}"])


def test_the_same_run_and_data_give_the_same_bytes(quantized, finished, command, tmp_path):
    again = tmp_path / "again.onnx"
    assert command("export", finished, "--int8", "--out", again, "--threads", 1).status == 0
    assert again.read_bytes() == quantized[0].read_bytes()


def test_a_file_whose_error_rises_too_much_is_not_written(finished, command, tmp_path, monkeypatch):
    plain = quantization.quantize
    black = [np.zeros((4, 8, 8, 3), np.uint8)]  # every other activation is cut off
    monkeypatch.setattr(quantization, "quantize", lambda model, _: plain(model, black))
    out = tmp_path / "int8.onnx"
    answer = command("export", finished, "--int8", "--out", out)
    assert answer.status == 1 and "nothing is written: in eight bits the error rises" in answer.err
    assert "of digits (train); 0.5 points are allowed" in answer.err
    assert not list(tmp_path.iterdir())
    allowed = command("export", finished, "--int8", "--max-drop", 100, "--out", out)
    assert allowed.status == 0 and out.exists()


@pytest.mark.parametrize("network", ["resnet8", "resnet8-B", "resnet18", "resnet50-v1.5"])
def test_every_residual_block_is_computed_in_eight_bits(network, tmp_path):
    own = trained(network)
    model = classifier.onnx_model(own, False)
    shape = 4, 3, *own.preprocessing.size
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    small = quantization.quantize(model, [noise])
    kinds, layers = optimized(small, tmp_path), onnx.load_from_string(model).graph.node
    assert kinds.count("QLinearConv") == sum(node.op_type == "Conv" for node in layers)
    assert kinds.count("QLinearAdd") == sum(node.op_type == "Add" for node in layers)
    assert not {"Conv", "Add", "Relu", "Gemm"} & set(kinds)


def test_weights_have_seven_bits_so_that_no_processor_overflows(quantized):
    """Two products of 8 and 7 bits fit into the 16 bits in which AVX2 adds them."""
    graph = onnx.load(quantized[0]).graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    weights = [array for array in weights if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) == 8 and all(np.abs(array.astype(int)).max() <= 64 for array in weights)


def test_models_are_compared_on_the_val_set_and_no_test_picture_is_used(command, tmp_path):
    data = draw_pictures(tmp_path / "pets", 6, ("cat", "dog"))
    others = draw_pictures(tmp_path / "others", 6, ("cat", "dog"), seed=1)
    shutil.copytree(others / "test", data / "val")
    run, out = tmp_path / "run", tmp_path / "int8.onnx"
    words = "train", "resnet8", "--data", data, "--root", tmp_path, "--steps", 4, "--threads", 1
    answer = command(*words, "--set", "batch=4", "--set", "norm_group=4", "--out", run)
    assert answer.status == 0, answer.err
    loaded = load_data(str(data), tmp_path)
    pictures = calibration.classifier_pictures(load(run), loaded, True)
    train, val, test = (
        {bytes(image) for image in images.pixels.permute(0, 2, 3, 1).contiguous().numpy()}
        for images in (loaded.train, loaded.val, loaded.test)
    )
    assert {bytes(image) for batch in pictures.calibration() for image in batch} == train
    assert {bytes(image) for batch, _ in pictures.evaluation() for image in batch} == val
    assert len(train) == len(val) == 12 and not test & (train | val)
    answer = command("export", run, "--int8", "--max-drop", 100, "--out", out, "--json")
    expected = {"data": "pets", "split": "val", "pictures": 12, "measure": "error_top1"}
    assert answer.json["evaluation"] == expected, answer.err


def test_photographs_are_read_whole_and_damaged_ones_are_left_out(tmp_path):
    data = draw_pictures(tmp_path / "pets", 7, tuple("abcdefg"))
    own, opened = trained("resnet18", 64, 72), load_data(str(data), tmp_path, as_files=True)
    (data / opened.train.name(47)).write_bytes(b"no picture")
    for inside in (True, False):
        pictures = calibration.classifier_pictures(own, opened, inside)
        (first, *_), pairs = list(pictures.calibration()), list(pictures.evaluation())
        assert (pictures.calibrated, pictures.evaluated, len(pairs)) == (24, 25, 24)
        shape = (1, 32, 32, 3) if inside else (1, 3, 64, 64)
        assert first.shape == shape and all(x.shape == shape for x, _ in pairs)


WRONG = {
    "format": (("--int8", "--format", "safetensors", "--out", "x.safetensors"), "--int8 is for"),
    "drop": (("--int8", "--max-drop", "-1", "--out", "x.onnx"), "max-drop"),
    "calibration": (("--calibration", "digits", "--out", "x.onnx"), "--calibration is for --int8"),
    "no run": (("--int8", "--out", "x.onnx"), "is no run"),
}


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_line_ends_with_status_2(command, words, says):
    answer = command("export", "run.safetensors", *words)
    assert answer.status == 2 and says in answer.err


def test_data_of_other_classes_calibrates_nothing(command, finished, pictures, tmp_path):
    words = "--int8", "--calibration", pictures, "--root", tmp_path, "--out", tmp_path / "x.onnx"
    answer = command("export", finished, *words)
    assert answer.status == 1 and not (tmp_path / "x.onnx").exists()


# ---- detectors ----------------------------------------------------------------------------------


def draw_scenes(folder, n: int):
    """A VOC folder of light squares on dark ground, with trainval and test."""
    draw = np.random.default_rng(0)
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    names = [f"{i:03}" for i in range(n)]
    for name in names:
        pixels = draw.integers(0, 80, (48, 64, 3)).astype(np.uint8)
        left, top = (int(corner) for corner in draw.integers(2, 20, 2))
        pixels[top : top + 24, left : left + 24] += 150
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg")
        box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        box += f"<xmax>{left + 24}</xmax><ymax>{top + 24}</ymax>"
        text = f"<annotation><filename>{name}.jpg</filename><size><width>64</width><height>48"
        text += f"</height><depth>3</depth></size><object><name>{CLASSES[0]}</name><difficult>0"
        text += f"</difficult><bndbox>{box}</bndbox></object></annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    lists = {"trainval": names[:-2], "train": names[:6], "val": names[6:-2], "test": names[-2:]}
    for split, members in lists.items():
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{m}\n" for m in members))
    return folder


@pytest.mark.parametrize("fields", [{"norm": "frozen"}, {}], ids=["batch norm", "group norm"])
def test_a_detector_is_written_in_eight_bits(fields, command, tmp_path):
    scenes = draw_scenes(tmp_path / "scenes", 12)
    for file in scenes.glob("JPEGImages/01[01].jpg"):
        file.unlink()  # those of the test set
    run, out = run_of(detector(**fields), tmp_path / "run"), tmp_path / "int8.onnx"
    words = "export", run, "--int8", "--calibration", scenes, "--threads", 1
    answer = command(*words, "--max-drop", 100, "--out", out, "--json")
    assert answer.status == 0, answer.err
    row = answer.json
    assert row["calibration"]["data"] == "scenes" and row["calibration"]["pictures"] == 6
    expected = {"data": "scenes", "split": "val", "pictures": 4, "measure": "AP50-area"}
    assert row["evaluation"] == expected
    assert row["bytes_int8"] < 0.4 * row["bytes_float32"] and len(row["parity"]) == 5
    entries = metadata(out)
    assert entries["precision"] == "int8" and entries["task"] == "detection"
    assert entries["ap_float32"] == row["ap_float32"] and entries["ap_int8"] == row["ap_int8"]
    kinds = optimized(out.read_bytes(), tmp_path)
    assert kinds.count("QLinearConv") > 15
    assert kinds.count("Conv") <= 2  # the last layers of the RPN
    shown = command("detect", "predict", out, scenes / "JPEGImages/000.jpg", "--json")
    assert shown.status == 0 and shown.json[0]["objects"]


def test_without_a_val_set_a_detector_is_compared_on_other_training_pictures(tmp_path):
    scenes = draw_scenes(tmp_path / "scenes", 12)
    (scenes / "ImageSets/Main/val.txt").unlink()
    pictures = calibration.detector_pictures(detector(), scenes)
    assert (pictures.split, pictures.calibrated, pictures.evaluated) == ("trainval", 5, 5)
    seen = {batch.tobytes() for batch in pictures.calibration()}
    compared = {batch.tobytes() for batch, _ in pictures.evaluation()}
    assert len(seen) == len(compared) == 5 and not seen & compared


def test_a_picture_without_regions_calibrates_a_detector(tmp_path):
    from residual.export.detector_check import checked_model
    from residual.tasks.detection.recipe import Testing as Asking

    model, _ = checked_model(detector(smallest=1000), Asking(candidates=300, proposals=40))
    black = np.zeros((1, 40, 50, 3), np.uint8)
    small = quantization.quantize(model, [black])
    assert len(open_session(small, {}, 1).run(None, {"image": black})) == 3


def test_the_card_of_a_server_has_both_errors_of_the_eight_bit_file(quantized, finished):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from residual.export.onnx_file import open_file
    from residual.server.served_model import exported_card

    out, answer = quantized
    card, result = (
        exported_card(open_file(out, 1)),
        json.loads((finished / "result.json").read_text()),
    )
    assert card["precision"] == "int8" and card["int8"]["split"] == "train"
    for key in ("error_float32", "error_int8"):
        assert card["int8"][key] == answer.json[key]
    assert card["error"]["error_top1"] == result["error_top1"]
    assert (card["error"]["split"], card["error"]["seen"]) == ("test", result["seen"])


def test_the_printed_size_is_that_of_the_file(quantized):
    out, answer = quantized
    assert answer.json["bytes_int8"] == out.stat().st_size


def test_points_and_calibration_are_for_eight_bits_and_named(command, finished, tmp_path):
    out = tmp_path / "x.onnx"
    for words in (("--max-drop", 1), ("--calibration", "digits")):
        answer = command("export", finished, "--out", out, *words)
        assert answer.status == 2 and f"{words[0]} is for --int8" in answer.err
    answer = command("export", "resnet20.cifar10", "--int8", "--out", out)
    assert answer.status == 2 and "with --calibration" in answer.err
