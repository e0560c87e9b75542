"""What locks.py claims, by real processes: one writes at a time, and the dead hold nothing."""

import errno
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import FORK

from residual import locks
from residual.locks import LockHeld, hold_lock
from residual.storage import read_json, write_json


def until(ready: Callable[[], bool]) -> None:
    last = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < last, "it did not come"
        time.sleep(0.01)


def hold(file: Path, ready: Path, with_child: bool) -> None:
    """In a process of its own: hold a lock for good, perhaps with a forked child that lives on."""
    with hold_lock(file, "it"):
        if with_child and not (child := os.fork()):
            time.sleep(60)
            os._exit(0)
        ready.write_text(str(child if with_child else 0))
        time.sleep(60)


@contextmanager
def holder(place: Path, with_child: bool = False) -> Iterator[tuple[int, int]]:
    """A process that holds `place/lock`, and its child."""
    ready = place / "ready"
    process = FORK.Process(target=hold, args=(place / "lock", ready, with_child))
    process.start()
    until(lambda: ready.exists() and bool(ready.read_text()))
    child = int(ready.read_text())
    try:
        yield process.pid, child
    finally:
        process.kill()
        process.join()
        if child:
            os.kill(child, signal.SIGKILL)


def test_a_lock_that_is_held_is_refused_with_its_holder_and_machine(tmp_path):
    with holder(tmp_path) as (pid, _):
        said = f"runs/a is in use by process {pid} on {socket.gethostname()}; wait for its end"
        with pytest.raises(LockHeld, match=said), hold_lock(tmp_path / "lock", "runs/a", 0):
            pass
        assert (tmp_path / "lock").exists()


@pytest.mark.parametrize("with_child", [False, True])
def test_a_process_that_was_killed_holds_nothing_though_its_child_lives(tmp_path, with_child):
    with holder(tmp_path, with_child) as (pid, child):
        os.kill(pid, signal.SIGKILL)
        with hold_lock(tmp_path / "lock", "it"):
            if with_child:
                os.kill(child, 0)  # it lives
            assert read_json(tmp_path / "lock")["pid"] == os.getpid()
        assert not (tmp_path / "lock").exists()


def test_a_lock_is_held_against_its_own_process_too_and_is_gone_afterwards(tmp_path):
    lock = tmp_path / "lock"
    with (
        hold_lock(lock, "it"),
        pytest.raises(LockHeld, match="it is in use"),
        hold_lock(lock, "it", 0),
    ):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), hold_lock(tmp_path / "lock", "it"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def count(place: Path) -> None:
    for _ in range(50):
        with hold_lock(place / "lock", "it", math.inf):
            number = int((place / "number").read_text())
            (place / "number").write_text(str(number + 1))


def test_many_processes_take_turns(tmp_path):
    (tmp_path / "number").write_text("0")
    processes = [FORK.Process(target=count, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "number").read_text() == "150"
    assert [entry.name for entry in tmp_path.iterdir()] == ["number"]


@pytest.fixture
def soon(monkeypatch):
    """A heart that beats fast."""
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "SILENCE_SECONDS", 1.0)


ELSEWHERE = {"host": "gpu07", "pid": 4711, "machine": "another"}


def test_a_holder_on_another_machine_lives_while_it_touches_the_lock(tmp_path, soon):
    lock, over = tmp_path / "lock", threading.Event()
    lock.write_text(json.dumps(ELSEWHERE))
    threading.Thread(target=locks._beat, args=(lock, over)).start()
    try:
        said = f"process 4711 on gpu07; .* if that machine is lost, remove {lock}"
        with pytest.raises(LockHeld, match=said), hold_lock(lock, "it", 0):
            pass
    finally:
        over.set()
    with hold_lock(lock, "it"):  # it touches the lock no longer
        assert read_json(lock)["pid"] == os.getpid()


def test_an_old_lock_of_another_machine_is_taken_without_a_wait(tmp_path, monkeypatch):
    lock = tmp_path / "lock"
    lock.write_text(json.dumps(ELSEWHERE))
    os.utime(lock, (0, time.time() - 7_200))
    monkeypatch.setattr(locks, "SILENCE_SECONDS", math.inf)
    with hold_lock(lock, "it"):
        assert read_json(lock)["pid"] == os.getpid()


def test_where_the_file_system_keeps_no_locks_the_heartbeat_decides(tmp_path, soon, monkeypatch):
    monkeypatch.setattr(locks, "kernel_lock", lambda *_: None)
    lock = tmp_path / "lock"
    with hold_lock(lock, "it"):
        with pytest.raises(LockHeld), hold_lock(lock, "it", 0):
            pass
        left = lock.read_bytes()
    lock.write_bytes(left)  # as if the holder had been killed
    with hold_lock(lock, "it"):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "lock").mkdir()
    said = f"cannot write {tmp_path}/lock: Is a directory"
    with pytest.raises(OSError, match=said), hold_lock(tmp_path / "lock", "it"):
        pass
    with pytest.raises(FileNotFoundError), hold_lock(tmp_path / "none" / "lock", "it"):
        pass


def test_a_lock_that_a_full_disk_refuses_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lock = tmp_path / "lock"
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        said = f"cannot write {lock}: No space left on device"
        with pytest.raises(OSError, match=said), hold_lock(lock, "it"):
            pass
    assert not lock.exists()
    with hold_lock(lock, "it", 0):
        pass


def test_a_lock_that_another_machine_removed_is_no_longer_the_same_file(tmp_path, monkeypatch):
    def stale(_: int) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    (tmp_path / "lock").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", stale)
        same = locks.is_same_file(0, tmp_path / "lock")
    assert not same


def write(file: Path, number: int) -> None:
    for _ in range(100):
        write_json(file, [number] * 5_000)
        assert len(set(read_json(file))) == 1


def test_a_file_that_two_processes_write_is_always_whole(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, [0])
    processes = [FORK.Process(target=write, args=(file, number)) for number in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(read_json(file)) == 5_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
