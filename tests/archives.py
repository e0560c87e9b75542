"""Archives unpacked for tests, on every Python (`extractall(filter=)` came with 3.11.4)."""

import tarfile
from collections.abc import Callable
from pathlib import Path


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool] = bool) -> None:
    """Write the files of a tar archive, of which `wanted` may choose by name, into a folder."""
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and wanted(member.name):
                file = folder / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(opened.extractfile(member).read())
