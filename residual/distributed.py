"""Which of how many processes this is, and what they tell one another."""

import os
import pickle
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which of how many processes this is. A sum over all of them is exact for integers."""

    rank: int = 0
    size: int = 1

    def shard(self, n: int) -> range:
        """This process's part of n things. All parts together hold each thing once, none twice."""
        return range(self.rank, n, self.size)

    def all_reduce(self, tensor: Tensor) -> Tensor:
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
            flat = self.all_reduce(torch.cat([tensor.reshape(-1) for tensor in own])) / self.size
            parts = torch.split(flat, [tensor.numel() for tensor in own])
            for tensor, part in zip(own, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.all_reduce(torch.tensor(int(here)))) if self.size > 1 else here

    def on_first(self, act: Callable[[], T]) -> T:
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

    def raise_any(self, error: Exception | None) -> None:
        """Raise, in every process, the error that one of them has met: nobody waits for it."""
        for met in self.all_gather([error]):
            if met is not None:
                raise met

    def all_gather(self, own: Sequence[T]) -> list[T]:
        """Everything that any process has, by their order."""
        if self.size == 1:
            return list(own)
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, list(own))
        return [each for part in parts for each in part]

    def local_batch(self, batch: int, norm_group: int) -> int:
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


SINGLE_PROCESS = World()


def current_world() -> World:
    """The world of this process, once processes have joined; else it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return World()


PATIENCE = timedelta(minutes=10)


# What each launcher calls: (rank, size, rank on this machine, processes on this machine).
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    # Before SLURM, of whose steps mpirun makes use.
    "Open MPI": (
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    # Of the step, which srun starts. A batch script is alone, though SLURM_NTASKS says how many
    # tasks its job may start, and SLURM_PROCID is 0.
    "SLURM": (
        *("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        *("SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ),
    "MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}


def launcher(environment: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """Who started this process among others, and what torch wants to know about it; None where it
    is alone."""
    for name, (rank, size, local, locals_) in LAUNCHERS.items():
        if environment.get(rank) and int(environment.get(size, "1")) > 1:
            known = {
                "RANK": environment[rank],
                "WORLD_SIZE": environment[size],
                "LOCAL_RANK": environment.get(local, "0"),
                "LOCAL_WORLD_SIZE": environment.get(locals_, "1").split("(")[0].split(",")[0],
            }
            return name, known | meeting(name, environment)
    return None


def meeting(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Where the processes meet: as the environment says, or on SLURM's first machine.

    Raises ValueError where nobody says it.
    """
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if not address and name == "SLURM":
        address = first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        # A port of the job's own, so that two jobs on one machine do not meet.
        port = port or str(20_000 + int(environment.get("SLURM_JOB_ID", "0")) % 20_000)
    if not address:
        raise ValueError(
            f"{name} started {environment.get('WORLD_SIZE', 'several')} processes, but MASTER_ADDR "
            "does not say where they meet; export MASTER_ADDR=<the first machine's name>"
        )
    return {"MASTER_ADDR": address, "MASTER_PORT": port or "29500"}


def first_host(nodes: str) -> str:
    """Of SLURM's list: `gpu[03-07,12],login1` begins with gpu03."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    return head + rest.split("]")[0].split(",")[0].split("-")[0]


def join() -> World:
    """Meet the other processes, if there are any. Raises ValueError, naming those that are missing,
    where not all of them come."""
    found = launcher(os.environ)
    if found is None or dist.is_initialized():
        return current_world()
    name, known = found
    os.environ.update(known)
    rank, size = int(known["RANK"]), int(known["WORLD_SIZE"])
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(known["LOCAL_RANK"]) % torch.cuda.device_count())
    store = met(known, rank, size, name)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=store, rank=rank, world_size=size, timeout=PATIENCE,
    )  # fmt: skip
    return current_world()


def met(known: dict[str, str], rank: int, size: int, name: str) -> Any:
    """The store in which each process writes that it is there, once all have."""
    address, port = known["MASTER_ADDR"], int(known["MASTER_PORT"])
    seconds = float(os.environ.get("RESIDUAL_PATIENCE_SECONDS", PATIENCE.total_seconds()))
    # torchrun keeps the store itself, in the agent of the first machine.
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, size, serves, timedelta(seconds=seconds), wait_for_workers=False
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"process {rank} of {size} ({name}, on {socket.gethostname()}) finds nobody at "
            f"{address}:{port}: {str(error).splitlines()[0]}"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"residual/{attempt}", store)  # type: ignore[attr-defined]
    own.set(f"here/{rank}", socket.gethostname())
    try:
        own.wait([f"here/{each}" for each in range(size)], timedelta(seconds=seconds))
    except RuntimeError as error:
        missing = [str(each) for each in range(size) if not own.check([f"here/{each}"])]
        raise ValueError(
            f"{len(missing)} of {size} processes did not come to {address}:{port} within "
            f"{seconds:.0f} s: rank {', '.join(missing)}"
        ) from error
    return own


def leave() -> None:
    """Part from the others."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
