"""Real processes that start quickly, and what is made once for many tests."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import residual  # noqa: F401 - before torch, as in a user's process

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core for each test, and for what it starts

# A forked server imports what is slow to import, once; each child is a process of its own, with
# its own exit status and signals. The commands themselves are imported in the child.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        "pytest", "torch._dynamo", "typer", "rich.live", "residual.export.predict",
        "residual.tasks.classification.train", "residual.data.folder", "residual.data.sources",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int  # negative: the signal that killed it
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Of the last line."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def complaint(self) -> str:
        """The one sentence on stderr, besides progress, of a command that could not be done."""
        said = [line for line in self.err.splitlines() if line.startswith("residual: ")]
        assert len(said) == 1, self.err
        assert "Traceback" not in self.err
        assert not self.out
        return said[0]


def spoken(words: list[str], where: str, out: str, err: str) -> None:
    """In a process of its own: the command, with its output in two files."""
    os.chdir(where)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["residual", *words]
    from residual.cli.app import main

    main()


Command = Callable[..., Answer]


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Command:
    """Runs `residual WORDS...` as a process, in an empty folder or in `cwd`."""

    def run(*words: object, cwd: Path | None = None) -> Answer:
        place = tmp_path_factory.mktemp("process")
        out, err = place / "out", place / "err"
        where = cwd or tmp_path_factory.mktemp("empty")
        process = FORK.Process(
            target=spoken, args=([str(word) for word in words], str(where), str(out), str(err))
        )
        process.start()
        process.join(120)
        assert process.exitcode is not None, "the command did not end"
        return Answer(process.exitcode, out.read_text(), err.read_text())

    return run


EXACT = ("--threads", "1", "--precision", "float32")


@pytest.fixture(scope="session")
def finished(command, tmp_path_factory) -> Path:
    """A finished run of resnet8 on digits. No test may change it."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    answer = command("train", "resnet8", "--steps", 60, "--json", "--out", run, *EXACT)
    assert answer.status == 0, answer.err
    return run


def draw_pictures(folder: Path, n: int, classes: tuple[str, ...], seed: int = 0) -> Path:
    """A folder of tiny pictures: n of each class in train/ and in test/."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    for place in ("train", "test"):
        for light, name in enumerate(classes):
            (folder / place / name).mkdir(parents=True)
            for i in range(n):
                noise = draw.integers(0, 100, (32, 32, 3)) + 120 * (light % 2)
                Image.fromarray(noise.astype(np.uint8)).save(folder / place / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """24 pictures of two classes. No test may change them."""
    return draw_pictures(tmp_path_factory.mktemp("data") / "pets", 6, ("cat", "dog"))
