"""Where the arithmetic is done, and how: device, threads, precision, determinism."""

import os
import platform
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from residual.distributed import current_world

T = TypeVar("T")


# What may compute float32 with fewer bits, each by itself (torch 2.9 and later).
INEXACT = ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.rnn", "mkldnn.matmul")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def _inexact() -> list[Any]:
    return [attrgetter(name)(torch.backends) for name in INEXACT]


@dataclass(frozen=True)
class TorchSettings:
    """What torch keeps for the whole process, and what a number may depend on."""

    threads: int
    deterministic: bool
    warn_only: bool  # where deterministic
    benchmark: bool  # cuDNN tries its algorithms and takes the fastest
    workspace: str | None  # of cuBLAS, in the environment
    tf32: bool  # in convolutions, as torch's older switch has it
    products: str  # of matrices, likewise: highest, high or medium
    bits: tuple[str, ...]  # of INEXACT: none, ieee, tf32 or bf16

    def set(self) -> None:
        """Make the process's switches these."""
        torch.set_num_threads(self.threads)
        if self.workspace is None:
            os.environ.pop(WORKSPACE, None)
        else:
            os.environ[WORKSPACE] = self.workspace
        now = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if now != (self.deterministic, self.warn_only):  # slow to import
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.benchmark = self.benchmark
        # The older switches first, for they set some of the newer ones.
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.set_float32_matmul_precision(self.products)
        for part, bits in zip(_inexact(), self.bits, strict=True):
            part.fp32_precision = bits


def torch_settings() -> TorchSettings:
    """The process's switches as they are."""
    try:
        tf32, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not tell where only the newer switches were used
        tf32, products = True, "highest"
    return TorchSettings(
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        os.environ.get(WORKSPACE),
        tf32,
        products,
        tuple(part.fp32_precision for part in _inexact()),
    )


@dataclass(frozen=True)
class ComputeConfig:
    """How the arithmetic is done here. Equal settings on equal machines give equal bits."""

    device: str = "cpu"
    threads: int = 1  # 0 before a trial
    precision: str = "float32"  # or "bf16", by automatic mixed precision; "auto" before a trial
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    at_once: int = 0  # images that pass at once in training; 0: one norm group
    processes: int = 1

    def apply(self) -> None:
        """Set torch's switches for good, in a process that does nothing else; or see `activate`."""
        workspace = os.environ.get(WORKSPACE) or (":4096:8" if self.deterministic else None)
        tf32 = self.precision == "bf16"  # convolutions outside of autocast; float32 is float32
        convolutions = ("tf32", "tf32") if tf32 else ("ieee", "ieee")
        bits = (*convolutions, *("ieee" for _ in INEXACT[2:]))
        only = self.deterministic, False, not self.deterministic
        TorchSettings(self.threads, *only, workspace, tf32, "highest", bits).set()

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Torch's switches are the setting's inside, and afterwards what they were before."""
        before = torch_settings()
        try:
            self.apply()
            yield
        finally:
            before.set()

    def iterate(self, items: Generator[T]) -> Iterator[T]:
        """The items, each made with the setting applied; whoever takes them has switches of their
        own, which are untouched between two items and at the end."""
        with closing(items):
            while True:
                with self.activate():
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item

    def in_float32(self) -> "ComputeConfig":
        """The same in float32: how a network is evaluated, however it was trained."""
        return replace(self, precision="float32")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def prepare(self, net: torch.nn.Module) -> torch.nn.Module:
        """The network on its device, in its memory format, compiled where that is chosen."""
        net = net.to(torch.device(self.device)).to(memory_format=self.memory_format)
        if self.compile:
            net.compile()
        return net

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of a forward pass."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


def compute_config(
    device: str = "auto",
    threads: int = 0,
    precision: str = "auto",
    deterministic: bool = False,
) -> ComputeConfig:
    """How to compute here. Zero threads: all cores. Precision `auto` leaves it to a trial.

    Raises ValueError for a device that is not here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check(device)
    if precision not in ("auto", "float32", "bf16"):
        raise ValueError(f"no precision {precision!r}; there are auto, float32 and bf16")
    size = current_world().size
    return ComputeConfig(
        device, threads or available_cores(), precision, deterministic=deterministic, processes=size
    )


def training_config(
    device: str = "auto", threads: int = 0, precision: str = "auto", deterministic: bool = False
) -> ComputeConfig:
    """The same for a training, where a trial that chooses the precision chooses threads, too."""
    how = compute_config(device, threads, precision, deterministic)
    return replace(how, threads=threads) if precision == "auto" else how


def available_cores() -> int:
    """Processor cores for this process; processes on one machine share them equally."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (there or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _check(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ValueError(f"no device {device!r} here; there are {', '.join(there)}") from error


def hardware_name(how: ComputeConfig) -> str:
    """The machine in words, as a result names it."""
    if torch.device(how.device).type == "cuda":
        return torch.cuda.get_device_name(how.device)
    return f"{_processor()}, {how.threads} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


NON_FINITE = "numbers that are not finite (NaN or infinite)"


class NonFiniteValues(ValueError):
    """A number is NaN or infinite where none may be."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite; whole numbers are."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())  # it passes NaN on


def check_finite(tensors: Mapping[str, Tensor], whose: str) -> None:
    """Raises NotFinite, naming the first tensor that holds a number that is not finite."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise NonFiniteValues(f"{whose}: {name.removeprefix('net.')} holds {NON_FINITE}")


def raise_non_finite(network: str, net: nn.Module, look: Callable[[], object]) -> None:
    """Raises NotFinite for a network that has answered with such numbers: with the name of the
    first layer whose output is not finite when the network looks once more."""
    first: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            if not first and not all(is_finite(x) for x in outputs if isinstance(x, Tensor)):
                first.append(name)

        return note

    handles = [m.register_forward_hook(hook(name)) for name, m in net.named_modules() if name]
    try:
        look()
    finally:
        for handle in handles:
            handle.remove()
    where = f", first after the layer {first[0]}" if first else ""
    raise NonFiniteValues(f"{network} answers with {NON_FINITE}{where}")
