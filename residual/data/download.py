"""A file fetched whole, from wherever it can be had, or not at all."""

import math
import os
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from residual.data.datasets import Progress, no_progress
from residual.locks import hold_lock
from residual.storage import file_digest

BLOCK = 1 << 18
TIMEOUT_SECONDS = 60.0


def fetch(
    mirrors: Sequence[str],
    target: Path,
    checksum: str,
    progress: Progress = no_progress,
    algorithm: str = "md5",
) -> None:
    """Fetch the file whose checksum begins so from the first mirror that gives it.

    What has come stays in `<target>.partial`, and the next attempt goes on from there. Of several
    processes one fetches, and the others wait for it. Raises OSError, saying why each mirror failed
    and where to put the file by hand.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(target.with_name(f"{target.name}.lock"), str(target), math.inf):
        if not (target.exists() and file_digest(target, algorithm).startswith(checksum)):
            _fetch_locked(mirrors, target, checksum, progress, algorithm)


def _fetch_locked(
    mirrors: Sequence[str],
    target: Path,
    checksum: str,
    progress: Progress,
    algorithm: str,
) -> None:
    """The same, where no other process does."""
    partial = target.with_name(f"{target.name}.partial")

    def right() -> bool:
        return file_digest(partial, algorithm).startswith(checksum)

    reasons = []
    for url in mirrors:
        try:
            resumed = _receive(url, partial, progress)
            if resumed and not right():  # perhaps what lay there was of another file
                partial.unlink()
                _receive(url, partial, progress)
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            reasons.append(f"{urlsplit(url).netloc}: {reason or type(error).__name__}")
            continue
        if right():
            partial.replace(target)
            return
        partial.unlink()
        reasons.append(f"{urlsplit(url).netloc}: what came has the wrong checksum")
    raise OSError(
        f"{target.name} could not be fetched ({'; '.join(reasons)}); "
        f"try again later, or get it in another way and put it at {target}"
    )


def _receive(url: str, partial: Path, progress: Progress) -> bool:
    """Append what is missing to a partial file; whether anything lay there and was kept."""
    start = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urlopen(request, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == 416 and start:  # nothing lies beyond: the checksum tells if it is all
            return True
        raise
    with answer:
        resumed = start > 0 and answer.status == 206  # or everything comes, whatever was asked for
        begins = answer.headers.get("Content-Range", "").removeprefix("bytes").partition("-")[0]
        if resumed and begins.strip() != str(start):  # other bytes than those that are missing
            partial.unlink()
            return _receive(url, partial, progress)
        done = start if resumed else 0
        total = done + int(answer.headers.get("Content-Length", 0))
        with partial.open("ab" if resumed else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                done += len(block)
                progress(done, max(done, total))
            file.flush()
            os.fsync(file.fileno())
    if done < total:
        raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")
    return resumed
