"""Claims of processes that join one another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EXACT, Answer, call_in_child
from test_processes import TRAIN, place_of, side_by_side, started

from residual.distributed import first_host, launch_variables

# torchrun itself


def torchrun(*words: object) -> list[str]:
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
        *TRAIN, "--steps", 20, "--out", run, "--root", tmp_path, "--checkpoint-minutes", 0
    )  # fmt: skip
    launch = ("--standalone", "--nproc-per-node", 2, "--max-restarts", 1, "-m", "residual", *words)
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen(torchrun(*launch), stdout=log, stderr=log, cwd=tmp_path)
    try:
        until(lambda: len(list((run / "checkpoints").glob("*.safetensors"))) >= 3)
        workers = {environment_of(c).get("RANK"): c for c in children(agent.pid)}
        os.kill(workers["1"], signal.SIGKILL)
        status = agent.wait(90)
    finally:
        agent.kill()
    said = (tmp_path / "log").read_text()
    assert status == 0, said[-3000:]
    assert "failed (exitcode" in said  # and so torchrun started both again
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 21))
    found = json.loads((run / "result.json").read_text())
    whole = side_by_side(
        tmp_path / "whole", 2, *TRAIN, "--steps", 20, "--out", tmp_path / "w", "--root", tmp_path
    )
    assert whole[0].status == 0, whole[0].err
    assert found["weights_sha256"] == whole[0].json["weights_sha256"]


def test_what_torchrun_starts_again_goes_on_with_its_own_run(command, monkeypatch, tmp_path):
    words = ("train", "resnet8", "--seed", "1", *EXACT, "--root", str(tmp_path), "--json")
    first = command(*words, "--steps", 3, cwd=tmp_path)
    assert first.status == 0, first.err
    other = command(*words, "--steps", 2, cwd=tmp_path)
    assert (first.json["run"], other.json["run"]) == ("runs/resnet8-1", "runs/resnet8-2")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert command(*words, "--steps", 3, cwd=tmp_path).json == first.json
    assert len(list((tmp_path / "runs").iterdir())) == 2


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


def test_two_hosts_train_together(hosts, tmp_path):
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
    words = (*TRAIN, "--steps", 4, "--out", tmp_path / "other", "--root", tmp_path)
    assert found == side_by_side(tmp_path / "one", 2, *words)[0].json["weights_sha256"]


# Who started us


def test_a_process_on_its_own_joins_nobody():
    assert launch_variables({}) == {}
    assert launch_variables({"RANK": "0", "WORLD_SIZE": "1"}) == {}
    assert launch_variables({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}) == {}


def test_torchrun_is_recognised_also_inside_slurm():
    place = place_of(3, 4, 1234)
    assert launch_variables(place) == place
    assert launch_variables(place | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}) == place


def test_tasks_of_srun_meet_on_the_first_host():
    environment = {
        "SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
        "SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_JOB_ID": "123456",
    }  # fmt: skip
    expected = {
        "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu03", "MASTER_PORT": str(20_000 + 123456 % 20_000),
    }  # fmt: skip
    assert launch_variables(environment) == expected
    master = {"MASTER_ADDR": "login", "MASTER_PORT": "5"}
    assert launch_variables(environment | master) == expected | master


BATCH = {
    "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu03", "SLURM_TASKS_PER_NODE": "4",
}  # fmt: skip


def test_a_batch_script_of_slurms_is_on_its_own_however_many_tasks_its_job_may_start():
    assert launch_variables(BATCH) == {}
    shell = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "gpu03"}
    assert launch_variables(BATCH | shell) == {}  # of srun --ntasks=1 --pty bash
    step = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}
    found = launch_variables(BATCH | shell | step)
    assert [found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")] == ["2", "3", "2"]


def test_a_missing_meeting_place_is_one_sentence(tmp_path):
    files = [str(tmp_path / "out")], [str(tmp_path / "err")]
    variables = {"RANK": "0", "WORLD_SIZE": "2"}
    codes = started(call_in_child, [variables], [["train", "resnet8"]], [str(tmp_path)], *files)
    said = Answer(codes[0], "", (tmp_path / "err").read_text()).complaint
    assert codes == [1] and "MASTER_ADDR" in said


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
    assert first_host(nodes) == first
