"""What `residual evaluate` claims on photographs: every protocol, ensembles, damaged pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import residual
from residual.models.registry import build
from residual.training import checkpoint

CLASSES = ("cat", "dog", "eel", "fox", "gnu", "hen", "ibis")
WORDS = ("--threads", 1, "--workers", 0, "--json")


def weights(path: Path, seed: int, classes: tuple[str, ...], size: int = 32) -> Path:
    """A file of weights for crops of photographs whose shorter side is 40."""
    torch.manual_seed(seed)
    net = build("resnet18", len(classes))
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    tensors |= {"preprocessing.mean": torch.rand(3, 1, 1), "preprocessing.std": torch.ones(3, 1, 1)}
    header = {"network": "resnet18", "classes": classes, "size": [size, size], "shorter": 40}
    checkpoint.save(path, tensors, header)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Photographs of six of the seven classes, one of them damaged, and three files of weights."""
    root = tmp_path_factory.mktemp("evaluate")
    draw = np.random.default_rng(0)
    for split, n in (("train", 1), ("val", 2)):
        for name in CLASSES[:6]:
            (root / "data" / split / name).mkdir(parents=True)
            for i in range(n):
                height, width = draw.integers(36, 70, 2)
                pixels = draw.integers(0, 256, (height, width, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / "data" / split / name / f"{i}.jpg")
    (root / "data" / "val" / "dog" / "1.jpg").write_bytes(b"no picture")
    weights(root / "one.safetensors", 0, CLASSES)
    weights(root / "turned.safetensors", 1, CLASSES[::-1])
    weights(root / "larger.safetensors", 2, CLASSES, 36)
    return root


def test_each_protocol_says_what_it_did(command, place):
    file, data = place / "one.safetensors", place / "data"
    expected = {
        (): ("1crop", [40], [32, 32], False, 1, "probabilities"),
        ("--protocol", "10crop", "--sides", 36): (
            *("10crop", [36], [32, 32], True, 10, "probabilities"),
        ),
        ("--protocol", "multiscale", "--sides", "32,48", "--no-mirror", "--average", "scores"): (
            *("multiscale", [32, 48], None, False, 2, "scores"),
        ),
    }
    keys = ("protocol", "resize", "crop", "mirror", "views", "averaged")
    for words, record in expected.items():
        answer = command("evaluate", file, "--data", data, *words, *WORDS, "--micro-batch", 2)
        assert answer.status == 0, answer.err
        assert tuple(answer.json[key] for key in keys) == record
        assert answer.json["interpolation"] == "bilinear, antialiased"
        assert (answer.json["seen"], answer.json["damaged"]) == (12, 1)
        assert answer.json["data"]["split"] == "val"
        assert answer.json["wrong_top5"] >= 1
        assert "residual: val/dog/1.jpg is damaged and counts as wrong" in answer.err


def test_an_evaluation_is_told_in_words(command, place):
    words = ("--protocol", "multiscale", "--sides", "32,48", "--threads", 1, "--workers", 0)
    answer = command(
        *("evaluate", place / "one.safetensors", place / "turned.safetensors"),
        *("--data", place / "data", *words),
    )
    assert answer.status == 0, answer.err
    assert (
        "resnet18 + resnet18 on data (val), multiscale (whole pictures at shorter side 32, 48, "
        "with their mirrors, probabilities averaged): " in answer.out
    )
    assert "of 12 images wrong; top-5 error" in answer.out
    assert "1 damaged pictures count as wrong" in answer.out


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("--protocol", "5crop"), 2, "no protocol '5crop'"),
        (("--average", "logits"), 2, "'logits' cannot be averaged"),
        (("--sides", "224;256"), 2, "is no list of shorter sides"),
        (("--sides", "16"), 1, "a crop of 32x32 is not in a picture whose shorter side is 16"),
    ],
)
def test_what_makes_no_sense_is_refused(command, place, words, status, why):
    answer = command(
        "evaluate", place / "one.safetensors", "--data", place / "data", *words, *WORDS
    )
    assert answer.status == status
    assert why in " ".join(answer.err.replace("│", " ").split())


def test_a_test_set_that_a_run_may_have_learned_from_is_refused(command, tmp_path):
    draw, data, run = np.random.default_rng(0), tmp_path / "pets", tmp_path / "run"
    names = [f"{label}/{i:02d}.png" for label in ("cat", "dog") for i in range(12)]
    for i, name in enumerate(names):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        if i != 11:
            Image.fromarray(pixels).save(data / name)
    command("train", "resnet8", "--data", data, "--steps", 1, "--out", run)
    before = residual.evaluate(run)
    copied = shutil.copytree(data, tmp_path / "copy")
    (data / names[11]).write_bytes((data / names[0]).read_bytes())
    for words in ((run,), (run, run, "--data", data)):
        refused = command("evaluate", *words, *WORDS).complaint
        assert f"the pictures of test are not those of {run}/split.json" in refused
    with pytest.raises(ValueError, match="some of test may have been learned from"):
        residual.evaluate(run)
    out = ("--format", "onnx", "--out", tmp_path / "a.onnx", "--int8")
    assert "may have been learned from" in command("export", run, *out).complaint
    assert residual.evaluate(run, copied).wrong_top1 == before.wrong_top1
    (data / names[11]).unlink()
    assert command("evaluate", run, *WORDS).json["wrong_top1"] == before.wrong_top1


def test_networks_for_other_sizes_make_no_ensemble(command, place):
    answer = command(
        *("evaluate", place / "one.safetensors", place / "larger.safetensors"),
        *("--data", place / "data", *WORDS),
    )
    assert answer.status == 1
    assert "they take pictures of 36x36 and 32x32 pixels" in answer.complaint


def test_small_pictures_are_nothing_for_a_network_that_takes_photographs(command, place):
    answer = command("evaluate", place / "one.safetensors", "--data", "digits", *WORDS)
    assert answer.status == 1
    assert "digits has small pictures" in answer.complaint
