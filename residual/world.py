"""Which of how many processes this is, where the arithmetic is done, and how."""

import os
import pickle
import platform
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which of how many processes this is. A sum over all of them is exact for integers."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> range:
        """This process's part of n things. All parts together hold each thing once, none twice."""
        return range(self.rank, n, self.size)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place, on every one of them."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor its mean over all processes; those of one type travel together."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = self.summed(torch.cat([tensor.reshape(-1) for tensor in own])) / self.size
            parts = torch.split(flat, [tensor.numel() for tensor in own])
            for tensor, part in zip(own, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.summed(torch.tensor(int(here)))) if self.size > 1 else here

    def first(self, act: Callable[[], T]) -> T:
        """What comes of an act that the first process alone does: told to all, and so is an error
        of whatever kind, which is then raised in all of them."""
        if self.size == 1:
            return act()
        if self.rank:
            told: list[Any] = [None]
            torch.distributed.broadcast_object_list(told)
            found, error = pickle.loads(told[0])
            if error is not None:
                raise error
            return found  # type: ignore[no-any-return]
        try:
            own = act()
            content = pickle.dumps((own, None))
        except BaseException as error:  # else the others would wait in vain
            torch.distributed.broadcast_object_list([_error_as_bytes(error)])
            raise
        torch.distributed.broadcast_object_list([content])
        return own

    def raise_together(self, error: Exception | None) -> None:
        """Raise, in every process, the error that one of them has met: nobody waits for it."""
        for met in self.gathered([error]):
            if met is not None:
                raise met

    def gathered(self, own: Sequence[T]) -> list[T]:
        """Everything that any process has, by their order."""
        if self.size == 1:
            return list(own)
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, list(own))
        return [each for part in parts for each in part]

    def share_of(self, batch: int, norm_group: int) -> int:
        """Images of each step that are this process's. Raises ValueError where they cannot be
        shared equally in whole norm groups."""
        groups = batch // norm_group
        if groups % self.size:
            fits = [n for n in range(1, self.size) if groups % n == 0]
            raise ValueError(
                f"{self.size} processes cannot share {groups} norm groups of {norm_group} images "
                f"equally; start {fits[-1]} instead"
            )
        return batch // self.size


def _error_as_bytes(error: BaseException) -> bytes:
    """No result and an error, pickled; the text of one that does not survive that."""
    try:
        content = pickle.dumps((None, error))
        pickle.loads(content)
    except Exception:
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
    return content


def here() -> World:
    """The world of this process, once processes have joined (see launch.py); else it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return World()


# What may compute float32 with fewer bits, each by itself (torch 2.9 and later).
INEXACT = ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.rnn", "mkldnn.matmul")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def _inexact() -> list[Any]:
    return [attrgetter(name)(torch.backends) for name in INEXACT]


@dataclass(frozen=True)
class Switches:
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


def switches() -> Switches:
    """The process's switches as they are."""
    try:
        tf32, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not tell where only the newer switches were used
        tf32, products = True, "highest"
    return Switches(
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
class Setting:
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
        """Set torch's switches for good, in a process that does nothing else; or see `applied`."""
        workspace = os.environ.get(WORKSPACE) or (":4096:8" if self.deterministic else None)
        tf32 = self.precision == "bf16"  # convolutions outside of autocast; float32 is float32
        convolutions = ("tf32", "tf32") if tf32 else ("ieee", "ieee")
        bits = (*convolutions, *("ieee" for _ in INEXACT[2:]))
        only = self.deterministic, False, not self.deterministic
        Switches(self.threads, *only, workspace, tf32, "highest", bits).set()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Torch's switches are the setting's inside, and afterwards what they were before."""
        before = switches()
        try:
            self.apply()
            yield
        finally:
            before.set()

    def within(self, items: Generator[T]) -> Iterator[T]:
        """The items, each made with the setting applied; whoever takes them has switches of their
        own, which are untouched between two items and at the end."""
        with closing(items):
            while True:
                with self.applied():
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item

    def exact(self) -> "Setting":
        """The same in float32: how a network is evaluated, however it was trained."""
        return replace(self, precision="float32")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, net: torch.nn.Module) -> torch.nn.Module:
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


def setting(
    device: str = "auto",
    threads: int = 0,
    precision: str = "auto",
    deterministic: bool = False,
) -> Setting:
    """How to compute here. Zero threads: all cores. Precision `auto` leaves it to a trial.

    Raises ValueError for a device that is not here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check(device)
    if precision not in ("auto", "float32", "bf16"):
        raise ValueError(f"no precision {precision!r}; there are auto, float32 and bf16")
    size = here().size
    return Setting(
        device, threads or cores(), precision, deterministic=deterministic, processes=size
    )


def setting_before_trial(
    device: str = "auto", threads: int = 0, precision: str = "auto", deterministic: bool = False
) -> Setting:
    """The same for a training, where a trial that chooses the precision chooses threads, too."""
    how = setting(device, threads, precision, deterministic)
    return replace(how, threads=threads) if precision == "auto" else how


def cores() -> int:
    """Processor cores for this process; processes on one machine share them equally."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (there or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _check(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ValueError(f"no device {device!r} here; there are {', '.join(there)}") from error


def hardware(how: Setting) -> str:
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
