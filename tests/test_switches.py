"""Float32 is float32 wherever a network is judged, and torch's switches stay the caller's."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from made_detectors import detector, picture
from torch import nn

import residual
from residual.analysis.responses import measure_responses
from residual.data.sources import digits
from residual.device import ComputeConfig, torch_settings
from residual.tasks.classification.load import load
from residual.tasks.classification.recipe import DIGITS
from residual.tasks.detection.inference import file_detector
from residual.tasks.detection.recipe import Testing as Asking

BF16 = ComputeConfig(threads=1, precision="bf16")
SHORT = replace(DIGITS, network="resnet8", batch=8, norm_group=4, steps=4, drops=())


@pytest.fixture
def passes() -> Iterator[list[tuple[bool, bool, bool]]]:
    """Of each convolution: whether in training, whether TF32 was allowed, whether in bf16."""
    seen: list[tuple[bool, bool, bool]] = []

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(module, nn.Conv2d):
            assert isinstance(output, torch.Tensor)
            tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
            seen.append((module.training, tf32, output.dtype == torch.bfloat16))

    handle = nn.modules.module.register_module_forward_hook(note)
    yield seen
    handle.remove()


@pytest.fixture(autouse=True)
def lax() -> Iterator[None]:
    """A process that allows what torch can be told to allow."""
    before = torch_settings()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(2)
    yield
    before.set()


def test_after_training_in_bf16_the_network_is_judged_in_float32(passes, tmp_path):
    mine = torch_settings()
    recipe = replace(SHORT, split="45k5k", schedule="plateau", patience=1)
    for _ in residual.train(recipe=recipe, out=tmp_path / "run", how=BF16):
        assert torch_settings() == mine
    assert torch_settings() == mine
    kinds = set(passes)
    assert (True, True, True) in kinds  # the steps
    assert kinds - {(True, True, True)} == {(False, False, False)}  # looks, and the headline


def test_a_training_that_is_left_leaves_the_switches_as_they_were(tmp_path):
    mine = torch_settings()
    steps = residual.train(
        recipe=SHORT, out=tmp_path / "run", how=ComputeConfig(deterministic=True)
    )
    next(steps)
    assert torch_settings() == mine
    steps.close()
    assert torch_settings() == mine


def test_the_verbs_compute_in_float32_and_put_the_switches_back(passes, finished, pictures):
    mine = torch_settings()
    residual.evaluate(finished, "digits")
    residual.predict(load(finished), sorted((pictures / "test").rglob("*.png")))
    measure_responses(load(finished), digits(), ComputeConfig(threads=1))
    assert torch_settings() == mine
    assert set(passes) == {(False, False, False)}


def test_responses_are_measured_with_the_setting_that_is_asked_for(passes, finished):
    measure_responses(load(finished), digits(), BF16)
    assert {bf16 for *_, bf16 in passes} == {True}


def test_a_detector_finds_in_float32_and_puts_the_switches_back(passes, tmp_path):
    mine = torch_settings()
    picture((80, 64)).save(tmp_path / "a.png")
    file_detector([detector()], Asking(least=0.0), ComputeConfig(threads=1))(tmp_path / "a.png")
    assert torch_settings() == mine
    assert set(passes) == {(False, False, False)}
