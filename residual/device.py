"""Computation on a device: threads, precision, determinism, and the check for finite values."""

import os
import platform
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from residual.distributed import current_world

T = TypeVar("T")

# Operations that may compute float32 with fewer bits (torch 2.9 and later).
INEXACT = ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.rnn", "mkldnn.matmul")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
NON_FINITE = "numbers that are not finite (NaN or infinite)"


def _backends() -> list[Any]:
    return [attrgetter(name)(torch.backends) for name in INEXACT]


@dataclass(frozen=True)
class TorchSettings:
    """Torch's process-wide settings that a result may depend on."""

    threads: int
    deterministic: bool
    warn_only: bool
    benchmark: bool  # cuDNN tries its algorithms and takes the fastest
    workspace: str | None  # of cuBLAS, an environment variable
    tf32: bool  # torch's older switch for convolutions
    matmul_precision: str  # its older switch for matrix products: highest, high or medium
    fp32_precisions: tuple[str, ...]  # of INEXACT: none, ieee, tf32 or bf16

    def set(self) -> None:
        torch.set_num_threads(self.threads)
        os.environ.pop(WORKSPACE, None)
        if self.workspace is not None:
            os.environ[WORKSPACE] = self.workspace
        deterministic = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if deterministic != (self.deterministic, self.warn_only):  # the setter is slow to import
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.benchmark = self.benchmark
        # The older switches come first, for they set some of the newer ones.
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.set_float32_matmul_precision(self.matmul_precision)
        for backend, precision in zip(_backends(), self.fp32_precisions, strict=True):
            backend.fp32_precision = precision


def torch_settings() -> TorchSettings:
    """The current settings of this process."""
    try:
        tf32, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # raised after only the newer switches were used
        tf32, products = True, "highest"
    return TorchSettings(
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        os.environ.get(WORKSPACE),
        tf32,
        products,
        tuple(backend.fp32_precision for backend in _backends()),
    )


@dataclass(frozen=True)
class ComputeConfig:
    """How a network is computed. Equal configurations on equal machines give equal bits."""

    device: str = "cpu"
    threads: int = 1  # 0: chosen by autotune
    precision: str = "float32"  # or "bf16" (automatic mixed precision); "auto": by autotune
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    at_once: int = 0  # images in one forward pass of a training; 0: one norm group
    processes: int = 1

    def apply(self) -> None:
        """Change torch's settings for good; `activate` restores them."""
        workspace = os.environ.get(WORKSPACE) or (":4096:8" if self.deterministic else None)
        tf32 = self.precision == "bf16"  # for convolutions outside of autocast
        precisions = ("tf32" if tf32 and name.startswith("cudnn") else "ieee" for name in INEXACT)
        TorchSettings(
            self.threads,
            self.deterministic,
            warn_only=False,
            benchmark=not self.deterministic,
            workspace=workspace,
            tf32=tf32,
            matmul_precision="highest",
            fp32_precisions=tuple(precisions),
        ).set()

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Apply the configuration during the block."""
        previous = torch_settings()
        try:
            self.apply()
            yield
        finally:
            previous.set()

    def iterate(self, items: Generator[T]) -> Iterator[T]:
        """The generator's items, each computed with the configuration active. The caller's settings
        are restored before each item is yielded."""
        with closing(items):
            while True:
                with self.activate():
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item

    def in_float32(self) -> "ComputeConfig":
        """The same configuration in float32, for evaluation."""
        return replace(self, precision="float32")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def prepare(self, net: nn.Module) -> nn.Module:
        """Move the network to the device and memory format, and compile it if configured."""
        net = net.to(torch.device(self.device)).to(memory_format=self.memory_format)
        if self.compile:
            net.compile()
        return net

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass in this precision."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


def compute_config(
    device: str = "auto", threads: int = 0, precision: str = "auto", deterministic: bool = False
) -> ComputeConfig:
    """A configuration for this machine; zero threads means all cores.

    Raises ValueError for a device that is not available or an unknown precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        devices = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ValueError(f"no device {device!r} here; there are {', '.join(devices)}") from error
    if precision not in ("auto", "float32", "bf16"):
        raise ValueError(f"no precision {precision!r}; there are auto, float32 and bf16")
    threads = threads or available_cores()
    return ComputeConfig(
        device, threads, precision, deterministic=deterministic, processes=current_world().size
    )


def training_config(
    device: str = "auto", threads: int = 0, precision: str = "auto", deterministic: bool = False
) -> ComputeConfig:
    """A configuration for training. Precision `auto` leaves zero threads to autotune, too."""
    config = compute_config(device, threads, precision, deterministic)
    return replace(config, threads=threads) if precision == "auto" else config


def available_cores() -> int:
    """Processor cores for this process; the processes on one machine share them equally."""
    is_linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count()
    return max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def hardware_name(config: ComputeConfig) -> str:
    """The GPU, or the processor and the number of threads."""
    if torch.device(config.device).type == "cuda":
        return torch.cuda.get_device_name(config.device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else name}, {config.threads} threads"


class NonFiniteValues(ValueError):
    """A number is NaN or infinite where none may be."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())  # passes NaN on


def check_finite(tensors: Mapping[str, Tensor], owner: str) -> None:
    """Raises NonFiniteValues, naming the first tensor with a number that is not finite."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise NonFiniteValues(f"{owner}: {name.removeprefix('net.')} holds {NON_FINITE}")


def raise_non_finite(network: str, net: nn.Module, forward: Callable[[], object]) -> None:
    """Repeat a forward pass whose output was not finite, and raise NonFiniteValues with the name of
    the first layer with such an output."""
    layers: list[str] = []

    def check(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        if not all(is_finite(x) for x in outputs if isinstance(x, Tensor)):
            layers.append(name)

    modules = [(name, module) for name, module in net.named_modules() if name]
    handles = [module.register_forward_hook(partial(check, name)) for name, module in modules]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    place = f", first after the layer {layers[0]}" if layers else ""
    raise NonFiniteValues(f"{network} answers with {NON_FINITE}{place}")
