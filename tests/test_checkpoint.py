"""What checkpoint.py claims: one file, whole or refused, without pickle, and exact."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from residual.models.registry import build
from residual.tasks.classification.loop import ClassifierLearner, start, train
from residual.tasks.classification.recipe import CIFAR
from residual.training import checkpoint
from residual.training.checkpoint import read, save, weights_sha256

FIVE = replace(CIFAR, network="resnet8", batch=4, norm_group=2, steps=5)
TENSORS = {
    "net.a": torch.arange(6.0).view(2, 3),
    "net.b": torch.tensor(3),  # no dimension
    "net.c": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    ),
    "net.d": torch.ones(3, dtype=torch.bfloat16),
    "net.e": torch.tensor([True, False]),
    "net.f": torch.empty(0),
    "net.g": torch.tensor([3.4e38, 1e-45, -0.0]),
}
HEADER = {"network": "resnet8", "classes": ["Käfer", "b"], "size": [8, 8], "step": 3, "none": None}


@pytest.fixture
def path(tmp_path) -> Path:
    save(tmp_path / "step.safetensors", TENSORS, HEADER)
    return tmp_path / "step.safetensors"


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_checkpoint_comes_back_bit_by_bit(path):
    tensors, header = read(path)
    assert header == HEADER | {"format": 1}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert bits(tensors[name]) == bits(tensor)


def test_a_checkpoint_holds_no_pickle(path):
    raw = path.read_bytes()
    assert not zipfile.is_zipfile(path)
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header.keys() == TENSORS.keys() | {"__metadata__"}
    assert json.loads(header["__metadata__"]["classes"]) == ["Käfer", "b"]


def test_a_flipped_bit_anywhere_is_found_and_the_file_is_named(path):
    raw = path.read_bytes()
    head = 8 + int.from_bytes(raw[:8], "little")
    places = [*range(0, head, 3), *range(head, len(raw), 7)]
    for n, place in enumerate(places):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << n % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="step.safetensors"):
            read(path)


@pytest.mark.parametrize("kept", [0, 1, 8, 100, -1])
def test_a_file_that_was_cut_off_is_named(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        read(path)


def test_a_newer_format_is_refused_in_a_sentence(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save(path, TENSORS, HEADER)
    with pytest.raises(ValueError, match=f"{path} has format 2; .* reads up to 1: update it"):
        read(path)


def test_weights_of_another_program_are_sent_to_convert(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="foreign.safetensors was not .* `residual convert`"):
        read(tmp_path / "foreign.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="foreign.pt is damaged or is no .* `residual convert`"):
        read(tmp_path / "foreign.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path}/none"):
        read(tmp_path / "none")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_leaves_the_checkpoint_before_whole(path):
    path.with_name(path.name + ".partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"cannot write {path}: No space left"):
        save(path, {"net.a": torch.zeros(1_000)}, HEADER)
    assert read(path)[0].keys() == TENSORS.keys()
    assert list(path.parent.iterdir()) == [path]


def test_the_sha256_of_weights_depends_on_each_name_shape_type_and_byte():
    state = {"a": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int64)}
    others = [
        {"a": state["a"]},
        {"A": state["a"], "b": state["b"]},
        {"b": state["a"], "a": state["b"]},
        state | {"c": torch.empty(0)},
        state | {"a": state["a"].view(2, 3)},
        state | {"a": state["a"].view(3, 2)},
        state | {"a": state["a"].view(torch.int32)},
        state | {"b": state["b"].view(torch.float64)},
        state | {"b": torch.tensor([0, 1 << 56])},
        state | {"a": torch.cat([state["a"][:5], torch.tensor([5.0000005])])},
        state | {"a": torch.cat([torch.tensor([-0.0]), state["a"][1:]])},
    ]
    assert len({weights_sha256(each) for each in [state, *others]}) == 1 + len(others)


def test_the_sha256_of_weights_depends_on_nothing_else():
    state = {"a": torch.randn(2, 3, 4, 4), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": state["a"].to(memory_format=torch.channels_last)}
    assert weights_sha256(same) == weights_sha256(state)
    assert len(weights_sha256(state)) == 64


def learner(seed: int) -> ClassifierLearner:
    torch.manual_seed(seed)
    return start(build("resnet8").to(memory_format=torch.channels_last), FIVE)


def batches(step: int = 0):
    while True:
        draw = torch.Generator().manual_seed(step)
        yield torch.randn(4, 3, 8, 8, generator=draw), torch.arange(4)
        step += 1


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_a_run_goes_on_from_a_checkpoint_bit_by_bit(tmp_path, at):
    whole, first, second = learner(0), learner(0), learner(1)
    list(train(whole, batches(), FIVE))
    list(train(first, batches(), replace(FIVE, steps=at))) if at else None
    save(tmp_path / "step", checkpoint.training_state(first), {"step": at})
    tensors, header = read(tmp_path / "step")
    checkpoint.restore(second, tensors, header["step"])
    assert weights_sha256(second.net.state_dict()) == weights_sha256(first.net.state_dict())
    list(train(second, batches(at), FIVE))
    ours, expected = checkpoint.training_state(second), checkpoint.training_state(whole)
    assert any(name.startswith("optimizer.") for name in expected)
    assert weights_sha256(ours) == weights_sha256(expected)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the weights do not fit the network"):
        checkpoint.load_weights(
            build("resnet8"), checkpoint.training_state(start(build("plain14"), FIVE))
        )
