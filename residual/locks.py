"""A lock file: what it protects, one process at a time writes, on whatever machine it runs."""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 5.0  # between two touches of a lock by its holder
SILENCE_SECONDS = 20.0  # without a touch, after which a holder that only a heartbeat shows is dead
OLD_SECONDS = 3_600.0  # a lock that was touched so long ago needs no such wait
GRACE_SECONDS = 3.0  # for the end of a process that was killed a moment ago

_descriptors: set[int] = set()  # of the locks that this process holds


def _forget() -> None:
    """A forked child, such as a worker of a loader, keeps no lock alive that is its parent's."""
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class LockHeld(ValueError):
    """Another process holds the lock."""


@contextmanager
def hold_lock(file: Path, what: str, patience: float = GRACE_SECONDS) -> Iterator[None]:
    """Hold a lock file while the block runs; it is removed afterwards.

    The kernel frees the lock of a process that ends in any way. Where a file system keeps no locks,
    or each machine its own, a holder is alive while it touches the file. Raises Held, saying that
    `what` is in use and by whom, where the lock is not free within `patience` seconds; and OSError.
    """
    last = time.monotonic() + patience
    while (descriptor := _acquire(file)) is None:
        if time.monotonic() >= last:
            raise LockHeld(f"{what} is in use by {_holder(file)}")
        time.sleep(0.1)
    _descriptors.add(descriptor)
    owner, over = os.getpid(), threading.Event()
    threading.Thread(target=_beat, args=(file, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        if os.getpid() == owner:  # and not a child that was forked in the block
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)
            _descriptors.discard(descriptor)


def kernel_lock(descriptor: int, wait: bool = False) -> bool | None:
    """Whether the kernel locks an open file for us; None where it keeps no locks here."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        return None
    return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name, and was not removed or replaced meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError as error:  # NFS calls a file stale that another machine has removed
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise


def _acquire(file: Path) -> int | None:
    """The descriptor of the lock file, once it is ours alone."""
    try:
        try:
            descriptor, new = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            descriptor, new = os.open(file, os.O_RDWR), False
    except FileNotFoundError:
        if file.parent.is_dir():  # removed since, by the one who held it
            return None
        raise
    except OSError as error:
        raise type(error)(f"cannot write {file}: {error.strerror}") from error
    kernel = kernel_lock(descriptor)
    local = kernel and _said(file).get("machine") == _machine()
    free = kernel is not False and (new or local or not _is_touched(file))
    if not free or not is_same_file(descriptor, file):
        os.close(descriptor)
        return None
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    except OSError as error:
        with suppress(OSError):
            file.unlink()  # an empty lock would be taken for that of another machine
        os.close(descriptor)
        raise OSError(f"cannot write {file}: {error.strerror}") from error
    return descriptor


def _said(file: Path) -> dict[str, Any]:
    """What a lock file says of its holder; nothing where it is being written or removed."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _holder(file: Path) -> str:
    """The holder of a lock in words, and what to do about it."""
    said = _said(file)
    if not said:
        return f"another process; try again when {file} is gone"
    process = f"process {said.get('pid')} on {said.get('host')}"
    if said.get("machine") == _machine():
        return f"{process}; wait for its end, or stop it"
    return f"{process}; wait for its end, or stop it; if that machine is lost, remove {file}"


def _is_touched(file: Path) -> bool:
    """Whether a living process touches a lock file. Clocks of two machines may differ: it is
    watched for a while."""
    first = _touched(file)
    if abs(time.time() - first) > OLD_SECONDS:
        return False
    last = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < last:
        time.sleep(HEARTBEAT_SECONDS / 5)
        if _touched(file) != first:
            return True
    return False


def _touched(file: Path) -> float:
    try:
        with file.open("rb") as opened:  # a network file system asks its server at each opening
            return os.fstat(opened.fileno()).st_mtime
    except OSError:
        return 0.0


def _beat(file: Path, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(file)


def _machine() -> str:
    """Another one after a restart, and the same in all containers of a machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
