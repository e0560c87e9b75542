"""Distributed training: how processes join one another, their ranks, and collectives."""

import os
import pickle
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

TIMEOUT_SECONDS = 600.0  # of a collective, and for all processes to join


@dataclass(frozen=True)
class World:
    """The rank of this process and the number of processes, with the collectives among them."""

    rank: int = 0
    size: int = 1

    def shard(self, n: int) -> range:
        """The indices below n that this process works on. Each index is in one shard."""
        return range(self.rank, n, self.size)

    def local_batch(self, batch: int, norm_group: int) -> int:
        """Images of each step on this process. Raises ValueError if whole norm groups cannot be
        divided equally."""
        groups = batch // norm_group
        if groups % self.size:
            fits = max(n for n in range(1, self.size) if groups % n == 0)
            raise ValueError(
                f"{self.size} processes cannot share {groups} norm groups of {norm_group} images "
                f"equally; start {fits} instead"
            )
        return batch // self.size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in place. It is exact for integers."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Mean over all processes, in place, with one all-reduce for each data type."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = self.all_reduce(torch.cat([tensor.reshape(-1) for tensor in group])) / self.size
            parts = torch.split(flat, [tensor.numel() for tensor in group])
            for tensor, part in zip(group, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def any(self, value: bool) -> bool:
        """Whether the value is true on any process."""
        return bool(self.all_reduce(torch.tensor(int(value)))) if self.size > 1 else value

    def all_gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in the order of their ranks."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def raise_any(self, error: Exception | None) -> None:
        """Raise the first error of any process on all of them, so that none waits for another."""
        for met in self.all_gather([error]):
            if met is not None:
                raise met

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 and return its result, or raise its error, on all ranks."""
        if self.size == 1:
            return function()
        if self.rank:
            received: list[Any] = [None]
            dist.broadcast_object_list(received)
            result, error = pickle.loads(received[0])
            if error is not None:
                raise error
            return result  # type: ignore[no-any-return]
        try:
            result = function()
            content = pickle.dumps((result, None))
        except BaseException as error:  # else the other ranks would wait in vain
            dist.broadcast_object_list([_pickled_error(error)])
            raise
        dist.broadcast_object_list([content])
        return result


SINGLE_PROCESS = World()


def _pickled_error(error: BaseException) -> bytes:
    """No result and an error; an error that cannot be pickled becomes a RuntimeError."""
    try:
        content = pickle.dumps((None, error))
        pickle.loads(content)
    except Exception:
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
    return content


def current_world() -> World:
    """The process group that `join` made; a process on its own is rank 0 of 1."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return SINGLE_PROCESS


def launch_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables, derived from SLURM's under `srun`; empty for a process on its own."""
    defaults = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "29500"}
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", *defaults)
    variables = {name: environment[name] for name in names if environment.get(name)}
    if "RANK" in variables and int(variables.get("WORLD_SIZE", "1")) > 1:
        return defaults | variables
    # Of the step that srun started. A batch script runs alone, although SLURM_NTASKS says how many
    # tasks its job may start and SLURM_PROCID is 0.
    size = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if "SLURM_PROCID" not in environment or int(size) == 1:
        return {}
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": re.split(r"\D", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0],
        "MASTER_ADDR": first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        # Each job has a port, so that two jobs on one machine do not meet.
        "MASTER_PORT": str(20_000 + int(environment.get("SLURM_JOB_ID", "0")) % 20_000),
    } | {name: variables[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in variables}


def first_host(nodes: str) -> str:
    """The first host of SLURM's list: gpu03 of `gpu[03-07,12],login1`."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    return head + re.split(r"[],-]", rest)[0]


def join() -> World:
    """Join the processes that torchrun or srun started. Raises ValueError if one is missing."""
    variables = launch_variables(os.environ)
    if not variables or dist.is_initialized():
        return current_world()
    os.environ.update(variables)
    if cuda := torch.cuda.is_available():
        torch.cuda.set_device(int(variables["LOCAL_RANK"]) % torch.cuda.device_count())
    timeout = timedelta(seconds=float(os.environ.get("RESIDUAL_PATIENCE_SECONDS", TIMEOUT_SECONDS)))
    rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    address, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    # torchrun's agent keeps the store itself, and keeps it when it restarts the processes: each
    # attempt has keys of its own, so that none meets the addresses of dead processes.
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, size, serves, timeout, wait_for_workers=False
        )
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore(f"residual/{attempt}", store),  # type: ignore[attr-defined]
            rank=rank, world_size=size, timeout=timeout,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"process {rank} of {size} on {socket.gethostname()} could not join the others at "
            f"{address}:{port}: {str(error).splitlines()[0]}"
        ) from error
    return current_world()


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
