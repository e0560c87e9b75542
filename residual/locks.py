"""Lock files: one process at a time writes what a lock protects, on whatever machine it runs."""

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
SILENCE_SECONDS = 20.0  # without a touch, after which the holder is taken for dead
OLD_SECONDS = 3_600.0  # since the last touch, after which no wait is needed
GRACE_SECONDS = 3.0  # for the end of a process that was just killed

_descriptors: set[int] = set()  # of the locks that this process holds


def _close_inherited() -> None:
    """Close the parent's locks in a forked child, which would otherwise keep them held."""
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


class LockHeld(ValueError):
    """Another process holds the lock."""


@contextmanager
def hold_lock(file: Path, name: str, timeout: float | None = None) -> Iterator[None]:
    """Hold a lock file during the block and remove it afterwards.

    The kernel frees the lock of a process that ends in any way. On a file system without locks, or
    with separate locks on each machine, a holder is alive as long as it touches the file. Raises
    LockHeld, with `name` and the holder, if the lock is not free within `timeout` seconds, by
    default GRACE_SECONDS; and OSError.
    """
    deadline = time.monotonic() + (GRACE_SECONDS if timeout is None else timeout)
    while (descriptor := _acquire(file)) is None:
        if time.monotonic() >= deadline:
            raise LockHeld(f"{name} is in use by {_describe_holder(file)}")
        time.sleep(0.1)
    _descriptors.add(descriptor)
    owner, released = os.getpid(), threading.Event()
    threading.Thread(target=_beat, args=(file, released), daemon=True).start()
    try:
        yield
    finally:
        released.set()
        if os.getpid() == owner:  # not in a child that was forked inside the block
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)
            _descriptors.discard(descriptor)


def kernel_lock(descriptor: int, wait: bool = False) -> bool | None:
    """Lock an open file -> whether that succeeded; None if the system has no such locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        return None
    return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether a path still names an open file, which was neither removed nor replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError as error:  # NFS calls a file stale that another machine has removed
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise


def _acquire(file: Path) -> int | None:
    """The descriptor of the lock file; None if another process holds the lock."""
    try:
        try:
            descriptor, is_new = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            descriptor, is_new = os.open(file, os.O_RDWR), False
    except FileNotFoundError:
        if file.parent.is_dir():  # its holder has just removed it
            return None
        raise
    except OSError as error:
        raise type(error)(f"cannot write {file}: {error.strerror}") from error
    locked = kernel_lock(descriptor)
    is_local = locked and _read_holder(file).get("machine") == _machine()
    is_free = locked is not False and (is_new or is_local or not _is_touched(file))
    if not is_free or not is_same_file(descriptor, file):
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


def _read_holder(file: Path) -> dict[str, Any]:
    """The holder in a lock file; empty while the file is being written or removed."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _describe_holder(file: Path) -> str:
    """The holder of a lock in words, and what to do about it."""
    holder = _read_holder(file)
    if not holder:
        return f"another process; try again when {file} is gone"
    process = f"process {holder.get('pid')} on {holder.get('host')}; wait for its end, or stop it"
    is_local = holder.get("machine") == _machine()
    return process if is_local else f"{process}; if that machine is lost, remove {file}"


def _is_touched(file: Path) -> bool:
    """Whether a living process touches a lock file. The file is watched, since the clocks of two
    machines may differ."""
    first = _touch_time(file)
    if abs(time.time() - first) > OLD_SECONDS:
        return False
    deadline = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(HEARTBEAT_SECONDS / 5)
        if _touch_time(file) != first:
            return True
    return False


def _touch_time(file: Path) -> float:
    try:
        with file.open("rb") as opened:  # a network file system asks its server at each opening
            return os.fstat(opened.fileno()).st_mtime
    except OSError:
        return 0.0


def _beat(file: Path, released: threading.Event) -> None:
    while not released.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(file)


def _machine() -> str:
    """The machine's identifier: equal in all its containers, and new after a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
