"""Claims of the compute configuration and torch's settings."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from made_detectors import detector, picture
from torch import nn

import residual
from residual.analysis.responses import measure_responses
from residual.data.sources import digits
from residual.device import ComputeConfig, compute_config, hardware_name, torch_settings
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
    for _ in residual.train(recipe=recipe, out=tmp_path / "run", config=BF16):
        assert torch_settings() == mine
    assert torch_settings() == mine
    kinds = set(passes)
    assert (True, True, True) in kinds  # the steps
    assert kinds - {(True, True, True)} == {(False, False, False)}  # looks, and the headline


def test_a_training_that_is_left_leaves_the_switches_as_they_were(tmp_path):
    mine = torch_settings()
    steps = residual.train(
        recipe=SHORT, out=tmp_path / "run", config=ComputeConfig(deterministic=True)
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


@pytest.fixture(autouse=True)
def restored():
    """Torch's switches as they were before."""
    before = torch_settings()
    yield
    before.set()


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cpu:x", ""])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(device):
    with pytest.raises(ValueError, match=f"no device '{device}' here; there are cpu"):
        compute_config(device)


@pytest.mark.parametrize("precision", ["fp16", "bf32", ""])
def test_a_precision_that_there_is_not_is_refused(precision):
    with pytest.raises(ValueError, match=f"no precision '{precision}'; there are auto, float32"):
        compute_config("cpu", 1, precision)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell")
def test_no_number_of_threads_means_every_core():
    assert compute_config("cpu").threads == len(os.sched_getaffinity(0))
    assert compute_config("cpu", 3).threads == 3


def test_auto_takes_the_gpu_where_there_is_one():
    assert compute_config().device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_equal_settings_are_equal_values():
    assert compute_config("cpu", 1, "bf16", True) == ComputeConfig(
        "cpu", 1, "bf16", deterministic=True
    )


def test_a_setting_sets_the_threads_and_the_determinism_of_torch():
    with ComputeConfig(threads=2, deterministic=True).activate():
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
        with ComputeConfig(threads=1).activate():
            assert torch.get_num_threads() == 1
            assert not torch.are_deterministic_algorithms_enabled()


def old_switches() -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")


def new_switches() -> None:
    """Which torch's older ones cannot read."""
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


def others() -> None:
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True


@pytest.mark.parametrize("before", [old_switches, new_switches, others, lambda: None])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_float32_is_float32_whatever_the_process_allows_and_all_switches_are_put_back(
    before, precision
):
    before()
    as_it_was = torch_settings()
    with pytest.raises(ZeroDivisionError), ComputeConfig(precision=precision, threads=2).activate():
        assert torch.backends.cudnn.allow_tf32 == (precision == "bf16")
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        assert torch.get_num_threads() == 2
        raise ZeroDivisionError
    assert torch_settings() == as_it_was


def counted(n: int) -> Iterator[int]:
    """The threads of the process, at each step and when it is closed."""
    for _ in range(n):
        yield torch.get_num_threads()


def test_between_two_steps_the_switches_are_those_of_whoever_takes_them():
    torch.set_num_threads(1)
    one, other = (ComputeConfig(threads=n).iterate(counted(3)) for n in (2, 3))
    for found in zip(one, other, strict=True):
        assert found == (2, 3) and torch.get_num_threads() == 1
    torch.set_num_threads(4)
    half = ComputeConfig(threads=2).iterate(counted(3))
    assert next(half) == 2
    half.close()
    assert torch.get_num_threads() == 4
    assert next(half, None) is None


@pytest.mark.parametrize("last", [True, False])
def test_a_network_lies_in_memory_as_the_setting_says(last):
    net = ComputeConfig(channels_last=last).prepare(torch.nn.Conv2d(4, 4, 3))
    assert net.weight.is_contiguous(memory_format=torch.channels_last) == last
    assert net.weight.is_contiguous() != last


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_forward_pass_has_the_precision_of_the_setting(precision, dtype):
    net, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with ComputeConfig(precision=precision).autocast():
        assert net(x).dtype == dtype


def test_the_hardware_is_named_with_its_threads():
    assert hardware_name(ComputeConfig(threads=1)).endswith(", 1 threads")
    assert len(hardware_name(ComputeConfig(threads=1))) > len(", 1 threads")


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU OpenMP on Linux alone")
@pytest.mark.parametrize(
    ("own", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),  # what the user has set stays
        ({"OMP_WAIT_POLICY": "passive"}, "0"),
    ],
)
def test_waiting_threads_of_torch_leave_the_processor_to_others(own, spins):
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    loaded = subprocess.run(
        [sys.executable, "-c", "import residual, torch"],
        env=clean | own | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{spins}'" in loaded.stderr
