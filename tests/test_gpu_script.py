"""The script of the jobs for a GPU, with a Python that only notes its calls."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu" / "run.sh"
PYTHON = """#!/usr/bin/env bash
case "$*" in
-c*) [ ! -e "$NOTES/missing" ] || cat "$NOTES/missing" ;;
*"pip install"*) echo "$*" >> "$NOTES/calls"; rm "$NOTES/missing" ;;
*)
  echo "$*" >> "$NOTES/calls"
  [ -e "$NOTES/slow" ] || exit 0
  trap 'echo saved >> "$NOTES/calls"; exit 143' TERM
  while :; do sleep 0.05; done ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Runs the script -> status, stdout, stderr, and the calls of Python."""
    for name, text in (("python", PYTHON), ("nvidia-smi", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {"PYTHON": str(tmp_path / "python"), "NOTES": str(tmp_path)}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"

    def run(minutes: float, *words: object) -> tuple[int, str, str, list[str]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        options = map(str, (minutes, *words, "--work", tmp_path / "work"))
        ended = subprocess.run(
            [SCRIPT, tmp_path / "out", *options], capture_output=True, text=True, check=False,
            env=os.environ | environment,
        )  # fmt: skip
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return ended.returncode, ended.stdout, ended.stderr, lines

    return run


def test_trainings_are_stopped_at_the_limit_and_the_same_command_goes_on(run, tmp_path):
    words = ("--data", "digits", "--jobs", "trainings", "--trainings", "20:0 56:1")
    (tmp_path / "slow").touch()
    status, out, _, calls = run(0.02, *words)  # one second, for two trainings at once
    assert status == 0 and "ended with status 124" in out
    assert calls.count("saved") == 2 and not list((tmp_path / "out" / "done").iterdir())
    (tmp_path / "slow").unlink()
    _, out, _, calls = run(1, *words, "--at-once", 2)
    assert [line.split("--depths ")[1].split(" --side")[0] for line in calls] == [
        "20 --set seed=0", "56 --set seed=1"
    ]  # fmt: skip
    assert "done: train-20-0 train-56-1" in out
    assert run(1, *words)[3] == []


def test_a_comparison_that_cannot_end_is_not_begun(run):
    _, out, _, calls = run(1, "--jobs", "speed tests")
    assert out.count("not begun") == 6 and calls == []
    _, _, _, calls = run(30, "--jobs", "tests speed")
    assert "-m pytest" in calls[0] and "benchmarks.cifar_training" in calls[1]


def test_missing_packages_are_named_or_installed_from_wheels(run, tmp_path):
    (tmp_path / "missing").write_text("simplejpeg defusedxml")
    status, out, err, calls = run(1, "--jobs", "tests")
    assert (status, out, calls) == (2, "", [])
    assert err == (
        "run.sh: these packages are missing: simplejpeg defusedxml; give --wheels with theirs\n"
    )
    status, _, _, calls = run(2, "--jobs", "tests", "--wheels", tmp_path)
    assert status == 0 and "--no-index" in calls[0] and calls[0].endswith("simplejpeg defusedxml")


def test_an_archive_in_parts_is_unpacked(run, tmp_path):
    parts = parts_of(tmp_path, "cifar-10-batches-py/data_batch_1")
    assert run(1, "--trainings", "", "--jobs", "trainings", "--data", *parts)[0] == 0
    file = tmp_path / "work" / "data" / "cifar-10-batches-py" / "data_batch_1"
    assert file.read_text() == "pixels"


def test_an_archive_of_something_else_is_refused(run, tmp_path):
    words = ("--jobs", "trainings", "--data")
    err = run(1, *words, *parts_of(tmp_path, "other"))[2]
    assert err == ("run.sh: the archive has no cifar-10-batches-py; give unpack_cifar10.py, too\n")
    assert "no CIFAR-10 in " in run(1, *words, tmp_path / "none")[2]


def parts_of(folder: Path, name: str) -> list[Path]:
    """An archive with one file of this name, in two parts."""
    (folder / "file").write_text("pixels")
    with tarfile.open(folder / "whole.tar", "w") as archive:
        archive.add(folder / "file", name)
    content, parts = (folder / "whole.tar").read_bytes(), [folder / "part0", folder / "part1"]
    parts[0].write_bytes(content[:600])
    parts[1].write_bytes(content[600:])
    return parts


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((0,), "the minutes are a positive number, not 0"),
        ((1, "--cores", "3"), "unknown option --cores"),
        ((1, "--jobs", "sleep"), "no job sleep; there are trainings, tests, speed and detection"),
    ],
)
def test_a_wrong_command_line_is_refused(run, words, sentence):
    status, _, err, _ = run(*words)
    assert (status, err) == (2, f"run.sh: {sentence}\n")
