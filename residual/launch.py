"""Processes that train together find one another: by torchrun, SLURM or MPI, or there is one."""

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from residual.distributed import World, here

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
        address = first_machine(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        # A port of the job's own, so that two jobs on one machine do not meet.
        port = port or str(20_000 + int(environment.get("SLURM_JOB_ID", "0")) % 20_000)
    if not address:
        raise ValueError(
            f"{name} started {environment.get('WORLD_SIZE', 'several')} processes, but MASTER_ADDR "
            "does not say where they meet; export MASTER_ADDR=<the first machine's name>"
        )
    return {"MASTER_ADDR": address, "MASTER_PORT": port or "29500"}


def first_machine(nodes: str) -> str:
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
        return here()
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
    return here()


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
