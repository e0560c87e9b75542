"""Writes docs/ and the README's table: `make results`, or `python -m docs.build`."""

from pathlib import Path

from docs.build.pages import documents
from residual.reproduction.results import RESULTS
from residual.storage import write_atomic

if __name__ == "__main__":
    for file, content in documents(Path.cwd(), RESULTS / "figures").items():
        write_atomic(file, content.encode())
