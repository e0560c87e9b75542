"""What launch.py and world.py claim: processes find one another, and train as one would."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import EXACT, FORK, Answer, spoken
from torch import Tensor, nn

from residual.data.batches import Drawing, per_pixel_mean, training_batches
from residual.data.digits import digits
from residual.launch import first_machine, launcher
from residual.nets.networks import build
from residual.runs.loading import load
from residual.training.loop import Pass, start, train
from residual.training.recipe import CIFAR
from residual.world import World

RECIPE = replace(
    CIFAR, network="resnet8", batch=16, norm_group=4, steps=5, drops=(3,), padding=1, smoothing=0.1
)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def place_of(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def among(target: Callable[..., None], environment: dict[str, str], *args: object) -> None:
    """In a process of its own."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*args)


def started(target: Callable[..., None], environments: list[dict[str, str]], *args: list) -> list:
    """Processes, each with its environment and its arguments; the exit status of each."""
    processes = [
        FORK.Process(target=among, args=(target, environment, *own))
        for environment, *own in zip(environments, *args, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def side_by_side(place: Path, size: int, *words: object) -> list[Answer]:
    """A command in so many processes, as torchrun would start it."""
    place.mkdir(exist_ok=True)
    outs = [str(place / f"out{rank}") for rank in range(size)]
    errs = [str(place / f"err{rank}") for rank in range(size)]
    port = free_port()
    codes = started(
        spoken,
        [place_of(rank, size, port) for rank in range(size)],
        *([list(map(str, words))] * size, [str(place)] * size, outs, errs),
    )
    return [
        Answer(code, Path(out).read_text(), Path(err).read_text())
        for code, out, err in zip(codes, outs, errs, strict=True)
    ]


def trained(world: World) -> tuple[nn.Module, list[float]]:
    """Five steps in float64 on this process's part of the batches, and their losses."""
    torch.manual_seed(0)
    run = start(build("resnet8").double(), RECIPE)
    images, how = digits().train, Drawing(batch=16, seed=0, norm_group=4, padding=1)
    batches = (
        (x.double(), y)
        for x, y in training_batches(images, per_pixel_mean(images), how, world=world)
    )
    steps = list(train(run, batches, RECIPE, Pass(world=world)))
    return run.net, [float(step.loss) for step in steps] + [float(step.wrong) for step in steps]


def part(place: str) -> None:
    """In a process of its own, among others."""
    from residual.launch import join, leave

    world = join()
    net, found = trained(world)
    torch.save((net.state_dict(), found), f"{place}/{world.rank}.pt")
    leave()


@pytest.mark.parametrize("size", [2, 4])
def test_five_steps_on_many_processes_equal_those_on_one_to_1e_9(tmp_path, size):
    port = free_port()
    places = [place_of(rank, size, port) for rank in range(size)]
    assert started(part, places, [str(tmp_path)] * size) == [0] * size
    alone, found = trained(World())
    for rank in range(size):
        state, told = torch.load(tmp_path / f"{rank}.pt")
        assert told == pytest.approx(found, abs=1e-9)
        for name, tensor in alone.state_dict().items():
            assert (state[name] - tensor).abs().max() < 1e-9, name


TRAIN = ("train", "resnet8", "--set", "norm_group=64", "--json", *EXACT)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[Answer]]:
    """A run of four steps on two processes, and what they said."""
    place = tmp_path_factory.mktemp("two")
    run = place / "run"
    answers = side_by_side(place, 2, *TRAIN, "--steps", 4, "--out", run, "--root", place)
    assert [answer.status for answer in answers] == [0, 0], answers
    return run, answers


def test_the_command_trains_on_two_processes_as_on_one(command, two, tmp_path):
    run, (first, second) = two
    alone = command(*TRAIN, "--steps", 4, "--out", tmp_path / "run", "--root", tmp_path)
    assert alone.status == 0, alone.err
    assert first.json["seen"] == alone.json["seen"]
    assert not second.out  # the first alone speaks
    state, other = (load(each).net.state_dict() for each in (tmp_path / "run", run))
    for name, tensor in state.items():
        assert torch.allclose(other[name].double(), tensor.double(), atol=1e-6), name
    assert json.loads((run / "environment.json").read_text())["setting"]["processes"] == 2


def test_evaluate_counts_the_same_on_two_processes(command, two, tmp_path):
    run, _ = two
    words = ("evaluate", run, "--data", "digits", "--json", *EXACT[:2])
    alone = command(*words)
    first, second = side_by_side(tmp_path / "two", 2, *words)
    assert (first.status, second.status, second.out) == (0, 0, "")
    for key in ("seen", "wrong_top1", "wrong_top5"):
        assert first.json[key] == alone.json[key]


def test_groups_that_cannot_be_shared_are_one_sentence(tmp_path):
    words = (*TRAIN, "--steps", 4, "--out", tmp_path / "run", "--root", tmp_path)
    answers = side_by_side(tmp_path / "three", 3, *words)
    sentence = "3 processes cannot share 2 norm groups of 64 images equally; start 2 instead"
    for answer in answers:
        assert answer.status == 1
        assert answer.complaint == f"residual: {sentence}"


def test_an_error_of_the_first_process_ends_all_of_them(two, tmp_path):
    run, _ = two
    answers = side_by_side(tmp_path / "again", 2, *TRAIN, "--steps", 4, "--out", run)
    assert [answer.status for answer in answers] == [1, 1]
    assert all("holds a run already" in answer.complaint for answer in answers)


def test_a_rank_that_does_not_come_is_named(tmp_path):
    port = free_port()
    environment = place_of(0, 3, port) | {"RESIDUAL_PATIENCE_SECONDS": "2"}
    out, err = tmp_path / "out", tmp_path / "err"
    words = ["train", "resnet8", "--steps", "4", "--out", str(tmp_path / "run")]
    begun = time.monotonic()
    others = environment | {"RANK": "2", "LOCAL_RANK": "2"}
    codes = started(
        spoken,
        [environment, others],
        *([words] * 2, [str(tmp_path)] * 2, [str(out), f"{out}2"], [str(err), f"{err}2"]),
    )
    assert codes == [1, 1]
    assert time.monotonic() - begun < 30
    said = Answer(codes[0], out.read_text(), err.read_text()).complaint
    assert said.startswith("residual: 1 of 3 processes did not come to 127.0.0.1:")
    assert said.endswith("within 2 s: rank 1")


def test_a_first_process_that_is_not_there_is_named(tmp_path):
    environment = place_of(1, 2, free_port()) | {"RESIDUAL_PATIENCE_SECONDS": "2"}
    files = [str(tmp_path / "out")], [str(tmp_path / "err")]
    codes = started(spoken, [environment], [["train", "resnet8"]], [str(tmp_path)], *files)
    assert codes == [1]
    said = Answer(1, "", (tmp_path / "err").read_text()).complaint
    assert said.startswith("residual: process 1 of 2 (torchrun, on ")
    assert "finds nobody at 127.0.0.1:" in said


# torchrun itself


def torchrun(*words: object, environment: dict[str, str] | None = None) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *map(str, words)]


def children(parent: int) -> Iterator[int]:
    """The processes that another one started."""
    for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
        yield from map(int, tasks.read_text().split())


def environment_of(process: int) -> dict[str, str]:
    pairs = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def until(ready: Callable[[], bool], seconds: float = 40) -> None:
    last = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < last, "it did not come"
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@needs_proc
def test_a_training_goes_on_after_a_worker_was_killed(tmp_path):
    run = tmp_path / "run"
    words = (
        *TRAIN, "--steps", 40, "--out", run, "--root", tmp_path, "--checkpoint-minutes", 0
    )  # fmt: skip
    started = ("--standalone", "--nproc-per-node", 2, "--max-restarts", 1, "-m", "residual", *words)
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen(torchrun(*started), stdout=log, stderr=log, cwd=tmp_path)
    try:
        until(lambda: len(list((run / "checkpoints").glob("*.safetensors"))) >= 3)
        workers = {environment_of(c).get("RANK"): c for c in children(agent.pid)}
        os.kill(workers["1"], signal.SIGKILL)
        status = agent.wait(90)
    finally:
        agent.kill()
    said = (tmp_path / "log").read_text()
    assert status == 0, said[-3000:]
    assert "SIGKILL" in said or "exitcode: -9" in said
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
    found = json.loads((run / "result.json").read_text())
    whole = side_by_side(
        tmp_path / "whole", 2, *TRAIN, "--steps", 40, "--out", tmp_path / "w", "--root", tmp_path
    )
    assert whole[0].status == 0, whole[0].err
    assert found["weights_sha256"] == whole[0].json["weights_sha256"]


def run_ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces that a cable joins: 10.77.0.1 and 10.77.0.2."""
    if shutil.which("ip") is None:
        pytest.skip("needs ip, of iproute2")
    names = [f"residual-{os.getpid()}-{i}" for i in (1, 2)]
    ends = [f"rs{os.getpid() % 100_000}a{i}" for i in (1, 2)]
    try:
        made = run_ip("netns", "add", names[0]) and run_ip("netns", "add", names[1])
        if not made or not run_ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1]):
            pytest.skip("needs the right to make network namespaces")
        for i, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            assert run_ip("link", "set", end, "netns", name)
            assert run_ip("-n", name, "addr", "add", f"10.77.0.{i}/24", "dev", end)
            assert run_ip("-n", name, "link", "set", end, "up")
            assert run_ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            run_ip("netns", "delete", name)


def test_two_hosts_train_together(hosts, two, tmp_path):
    run = tmp_path / "run"  # a disk that both hosts see
    words = (*TRAIN, "--steps", 4, "--out", run, "--root", tmp_path)
    agents = []
    for i, host in enumerate(hosts):
        end = subprocess.run(
            ["ip", "-n", host, "-o", "link"], capture_output=True, text=True, check=True
        ).stdout
        (card,) = [w.split("@")[0] for w in end.replace(":", " ").split() if w.startswith("rs")]
        command = torchrun(
            *("--nnodes", 2, "--node-rank", i, "--nproc-per-node", 1),
            *("--master-addr", "10.77.0.1", "--master-port", 29_511, "-m", "residual", *words),
        )
        log = (tmp_path / f"log{i}").open("w")
        agents.append(
            subprocess.Popen(
                ["ip", "netns", "exec", host, *command],
                stdout=log,
                stderr=log,
                cwd=tmp_path,
                env=os.environ | {"GLOO_SOCKET_IFNAME": card},
            )
        )
    try:
        codes = [agent.wait(60) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert codes == [0, 0], [(tmp_path / f"log{i}").read_text()[-2000:] for i in (0, 1)]
    found = json.loads((run / "result.json").read_text())["weights_sha256"]
    assert found == two[1][0].json["weights_sha256"]


# Who started us


def test_a_process_alone_is_alone():
    assert launcher({}) is None
    assert launcher({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert launcher({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}) is None


def test_torchrun_is_recognised():
    assert launcher(place_of(3, 4, 1234)) == ("torchrun", place_of(3, 4, 1234))


def test_slurm_is_recognised_and_meets_on_its_first_machine():
    environment = {
        "SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1",
        "SLURM_NTASKS_PER_NODE": "8", "SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_JOB_ID": "123456",
    }  # fmt: skip
    assert launcher(environment) == (
        "SLURM",
        {
            "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8",
            "MASTER_ADDR": "gpu03", "MASTER_PORT": str(20_000 + 123456 % 20_000),
        },
    )  # fmt: skip
    other = launcher(environment | {"MASTER_ADDR": "login", "MASTER_PORT": "5"})
    assert other and (other[1]["MASTER_ADDR"], other[1]["MASTER_PORT"]) == ("login", "5")


def test_torchrun_inside_slurm_is_torchrun():
    inside = place_of(1, 2, 9) | {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    found = launcher(inside)
    assert found and (found[0], found[1]["WORLD_SIZE"]) == ("torchrun", "2")


def test_open_mpi_and_mpi_are_recognised():
    where = {"MASTER_ADDR": "one"}
    rank = "OMPI_COMM_WORLD_"
    found = launcher(
        {f"{rank}RANK": "1", f"{rank}SIZE": "2", f"{rank}LOCAL_RANK": "0"}
        | {f"{rank}LOCAL_SIZE": "1"} | where
    )  # fmt: skip
    assert found == (
        "Open MPI",
        {
            "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "one", "MASTER_PORT": "29500",
        },
    )  # fmt: skip
    other = launcher({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"} | where)
    assert other and (other[0], other[1]["LOCAL_RANK"]) == ("MPI", "1")


def test_a_meeting_place_that_nobody_says_is_asked_for():
    with pytest.raises(ValueError, match="MASTER_ADDR"):
        launcher({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-07,12],login1", "gpu03"),
        ("gpu7", "gpu7"),
        ("a,b[1-2]", "a"),
        ("gpu[5,9]", "gpu5"),
        ("rack2-gpu[001-016]", "rack2-gpu001"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_first_machine_of_slurms_list(nodes, first):
    assert first_machine(nodes) == first


# Shares


def test_each_thing_is_in_one_share():
    for size in (1, 2, 3, 7):
        parts = [i for rank in range(size) for i in World(rank, size).share(20)]
        assert sorted(parts) == list(range(20))


def test_groups_are_shared_equally_or_not_at_all():
    assert World(0, 4).share_of(128, 32) == 32
    with pytest.raises(ValueError, match="5 processes cannot share 4 norm groups of 32.*start 4"):
        World(0, 5).share_of(128, 32)
    with pytest.raises(ValueError, match="start 2 instead"):
        World(0, 3).share_of(64, 32)


def test_batches_of_two_processes_are_the_whole_batch():
    images, how = digits().train, Drawing(batch=16, seed=0, padding=1)
    mean = per_pixel_mean(images)

    def taken(world: World) -> list[Tensor]:
        return [x for x, _ in islice(training_batches(images, mean, how, world=world), 3)]

    parts = zip(taken(World(0, 2)), taken(World(1, 2)), strict=True)
    assert all(
        torch.equal(torch.cat(each), whole)
        for each, whole in zip(parts, taken(World()), strict=True)
    )
