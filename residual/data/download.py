"""Downloads from mirrors, resumed after an interruption and verified by checksum."""

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
    """Download the file whose checksum begins with `checksum` from the first mirror that has it.

    The next attempt continues `<target>.partial`. One process downloads, and others wait for it.
    Raises OSError with the reason of each mirror and the place to put the file by hand.
    """
    target.parent.mkdir(parents=True, exist_ok=True)

    def is_right(file: Path) -> bool:
        return file.exists() and file_digest(file, algorithm).startswith(checksum)

    with hold_lock(target.with_name(f"{target.name}.lock"), str(target), math.inf):
        partial = target.with_name(f"{target.name}.partial")
        reasons = []
        if is_right(target):
            return
        for url in mirrors:
            try:
                resumed = _receive(url, partial, progress)
                if resumed and not is_right(partial):  # it may have begun as another file
                    partial.unlink()
                    _receive(url, partial, progress)
            except (OSError, HTTPException) as error:
                reason = error.reason if isinstance(error, URLError) else error
                reasons.append(f"{urlsplit(url).netloc}: {reason or type(error).__name__}")
                continue
            if is_right(partial):
                partial.replace(target)
                return
            partial.unlink()
            reasons.append(f"{urlsplit(url).netloc}: what came has the wrong checksum")
    raise OSError(
        f"{target.name} could not be fetched ({'; '.join(reasons)}); "
        f"try again later, or get it in another way and put it at {target}"
    )


def _receive(url: str, partial: Path, progress: Progress) -> bool:
    """Append what is missing to a partial file -> whether its content was kept."""
    start = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urlopen(request, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == 416 and start:  # nothing is missing, or the checksum will tell
            return True
        raise
    with answer:
        # With another status, the server sends the file from its start.
        resumed = start > 0 and answer.status == 206
        begins = answer.headers.get("Content-Range", "").removeprefix("bytes").partition("-")[0]
        if resumed and begins.strip() != str(start):  # not the bytes that are missing
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
