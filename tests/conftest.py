"""Runs commands, in this process or in one that starts quickly, and keeps what many tests use."""

import gc
import json
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
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
        "residual.tasks.detection.train", "residual.preparation.imagenet",
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
        lines = [line for line in self.err.splitlines() if line.startswith("residual: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert not self.out
        return lines[0]


Command = Callable[..., Answer]


def call(words: list[str]) -> int:
    """Run `residual WORDS...` in this process -> its exit status."""
    arguments, sys.argv = sys.argv, ["residual", *words]
    from residual.cli.app import main  # reads sys.argv

    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv = arguments
    return 0


@contextmanager
def restored() -> Iterator[None]:
    """Warnings as a user has them; torch's settings and the environment are put back."""
    from residual.device import torch_settings

    environment, settings = dict(os.environ), torch_settings()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        try:
            yield
        finally:
            settings.set()
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Command:
    """Runs `residual WORDS...` in this process, in an empty folder or in `cwd`.

    What needs a process of its own takes `process`.
    """

    def run(*words: object, cwd: Path | None = None, stdin: bytes = b"") -> Answer:
        place = tmp_path_factory.mktemp("output")
        with (
            (place / "out").open("w") as out,
            (place / "err").open("w", errors="backslashreplace") as err,
            pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err),
            restored(), chdir(cwd or tmp_path_factory.mktemp("empty")),
        ):  # fmt: skip
            patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
            status = call([str(word) for word in words])
        return Answer(status, (place / "out").read_text(), (place / "err").read_text())

    return run


def call_in_child(words: list[str], where: str, out: str, err: str) -> None:
    """Run the command in a child process, with its output in two files."""
    os.chdir(where)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.exit(call(words))


@pytest.fixture(scope="session")
def process(tmp_path_factory) -> Command:
    """Runs `residual WORDS...` as a process, in an empty folder or in `cwd`."""

    def run(*words: object, cwd: Path | None = None) -> Answer:
        place = tmp_path_factory.mktemp("process")
        out, err = place / "out", place / "err"
        where = cwd or tmp_path_factory.mktemp("empty")
        arguments = [str(word) for word in words], str(where), str(out), str(err)
        child = FORK.Process(target=call_in_child, args=arguments)
        child.start()
        child.join(120)
        assert child.exitcode is not None, "the command did not end"
        return Answer(child.exitcode, out.read_text(), err.read_text())

    return run


@pytest.fixture
def quick_reader(monkeypatch) -> None:
    """Lets ImageNet's devkit be read in a process that is forked and not spawned."""
    monkeypatch.setattr("residual.preparation.imagenet.get_context", lambda _: FORK)


@pytest.fixture
def no_grace(monkeypatch) -> None:
    """A lock that is held is refused at once in this process: no holder was just killed."""
    monkeypatch.setattr("residual.locks.GRACE_SECONDS", 0.0)


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


def pytest_collection_finish() -> None:
    """What the imported modules hold is there to the end: no collection need look at it."""
    gc.collect()
    gc.freeze()
