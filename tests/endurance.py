"""A campaign of interruptions: a job that is interrupted ends as one that is not.

    python -m tests.endurance

Jobs (training and detection on one process and on two, packing, reports) run as commands. Each is
killed by SIGKILL, with all its processes, at a moment drawn from its whole duration, then the same
work is continued to its end, and the files that it leaves must be those of a job that nobody
interrupted. One that has ended before its moment is begun anew with another. Besides, some meet a
full disk, and some a clock that has been set back. The result is kept as a file.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn

import psutil

sys.path.append(str(Path(__file__).parent))

from made_boxes import draw_voc
from made_photographs import photographed
from test_detect_command import SMALL

from benchmarks.sides import record
from residual.storage import read_json, write_json

EXACT = ("--threads", 1, "--precision", "float32", "--checkpoint-minutes", 0.003)
DISK = 1 << 30  # bytes of the disk that is filled; three checkpoints of a detector take 400 MB
DAY = 86_400  # seconds by which the clock is set back
LONGEST = 300  # seconds after which a job hangs
Words = tuple[object, ...]


def weights_of(place: Path) -> str:
    """The end of a training: its weights and what was counted."""
    result = read_json(place / "run" / "result.json")
    judged = {key: result.get(key) for key in ("seen", "wrong_top1", "ap")}
    steps = [line["step"] for line in result["curve"]]
    return json.dumps([result["weights_sha256"], judged, steps], sort_keys=True)


def files_of(folder: str) -> Callable[[Path], str]:
    """All files of a folder: their names and bytes."""

    def digest(place: Path) -> str:
        files = sorted(file for file in (place / folder).rglob("*") if file.is_file())
        names = [file.relative_to(place).as_posix() for file in files]
        hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return json.dumps(dict(zip(names, hashes, strict=True)))

    return digest


@dataclass(frozen=True)
class Job:
    """Work that is interrupted. `{}` in its words is the folder that it works in."""

    words: Words
    end: Callable[[Path], str]
    resumes: bool = True  # by `residual resume`; else the same command goes on
    processes: int = 1

    def command(self, place: Path) -> list[str]:
        """The command that begins or continues the work."""
        begun = self.resumes and (place / "run" / "recipe.json").exists()
        words = ("resume", "{}/run", *EXACT[-2:]) if begun else self.words
        launch = [sys.executable, "-m", "residual"]
        if self.processes > 1:
            several = ["--nproc-per-node", str(self.processes), "--master-port", free_port()]
            launch = [sys.executable, "-m", "torch.distributed.run", *several, "-m", "residual"]
        return [*launch, *(str(word).replace("{}", str(place)) for word in words)]


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


class Failed(Exception):
    """A job that ended otherwise than it must."""


class Work:
    """A job at work in a folder, in processes of its own."""

    def __init__(self, job: Job, place: Path) -> None:
        self.begun = time.monotonic()
        self.log = place.with_suffix(".log").open("a+")
        self.process = subprocess.Popen(
            job.command(place), stdout=self.log, stderr=self.log, start_new_session=True, cwd=place
        )

    def wait(self, seconds: float) -> int | None:
        """The exit status; None where it goes on after so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL to all its processes: those that torchrun starts have sessions of their own."""
        tree = [psutil.Process(self.process.pid)]
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.suspend()  # before its children are listed: it starts no more
                tree += each.children()
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()

    def end(self) -> float:
        """The seconds of a job that must succeed."""
        if (status := self.wait(LONGEST)) is None:
            self.kill()
        if status != 0:
            self.fail(status)
        return time.monotonic() - self.begun

    def fail(self, status: int | None) -> NoReturn:
        """Raises Failed, with what the job has printed."""
        self.log.seek(0)
        raise Failed(f"{self.process.args} ended with {status}:\n{self.log.read()[-3000:]}")


@dataclass(frozen=True)
class Campaign:
    """All jobs, with how they end when nobody interrupts them, and how long they take."""

    folder: Path
    jobs: dict[str, Job]
    ends: dict[str, str]
    seconds: dict[str, float]

    def place(self, name: str, n: int) -> Path:
        place = self.folder / f"{name.replace(' ', '-')}-{n}"
        place.mkdir()
        if name == "report":
            shutil.copytree(self.folder / "finished", place / "run")
        return place

    def trial(self, name: str, kind: str, n: int) -> bool:
        """Whether a job that is interrupted once ends as one that is not."""
        draw = random.Random(f"{name} {kind} {n}")
        equal: bool | None = None
        while equal is None:
            moment = draw.uniform(0, self.seconds[name])
            try:
                equal = self.interrupted(name, kind, n, moment)
            except Failed as error:
                print(error, flush=True)
                equal = False
        print(f"{name}, {kind} at {moment:.2f} s: {'equal' if equal else 'NOT EQUAL'}", flush=True)
        return equal

    def interrupted(self, name: str, kind: str, n: int, moment: float) -> bool | None:
        """The same for one moment; None where the job has ended before."""
        job, place = self.jobs[name], self.place(name, n)
        equal = None
        with disk(place) if kind == "full disk" else here(place):
            work = Work(job, place)
            if (status := work.wait(moment)) is None:
                done = kind == "full disk" and refused(work, place)
                if kind != "full disk":
                    work.kill()
                if kind == "clock set back":
                    for file in [*place.rglob("*"), place]:
                        os.utime(file, (time.time() + DAY, time.time() + DAY))
                # Killed after its last file, a command that begins anew refuses what is there.
                done = done or (not job.resumes and job.end(place) == self.ends[name])
                if not done:
                    Work(job, place).end()
                equal = job.end(place) == self.ends[name]
            elif status:
                work.fail(status)
        shutil.rmtree(place)
        return equal


@contextmanager
def here(place: Path) -> Iterator[None]:
    yield


@contextmanager
def disk(place: Path) -> Iterator[None]:
    """A small disk at a place. Needs the right to mount one."""
    kept = list(place.iterdir())
    aside = place.with_suffix(".aside")
    shutil.copytree(place, aside, dirs_exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "disk", place], check=True)
    if kept:
        shutil.copytree(aside, place, dirs_exist_ok=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def refused(work: Work, place: Path) -> bool:
    """Fill the disk, on which the work must end by itself, with one sentence -> whether it is done
    all the same."""
    full = place / "filler"
    with full.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
    status = work.wait(LONGEST)
    full.unlink()
    work.log.seek(0)
    if status not in (0, 1) or "Traceback" in work.log.read():
        work.fail(status)
    return status == 0


# ---- which jobs, and how often ------------------------------------------------------------------


def jobs(folder: Path) -> dict[str, Job]:
    boxes, photographs = draw_voc(folder / "boxes", n=4), photographed(folder)
    small = ("--set", "batch=64", "--set", "norm_group=32", "--steps", 60)
    training = Job(("train", "resnet8", *small, "--out", "{}/run", *EXACT), weights_of)
    words = ("detect", "train", "resnet18", "--data", boxes, *SMALL[:-2], "--steps", 12)
    detection = Job((*words, "--set", "batch=2", "--out", "{}/run", *EXACT), weights_of)
    packing = ("data", "pack", photographs, "{}/packed", "--shorter-side", 60, "--workers", 1)
    return {
        "training": training,
        "training on two processes": Job(training.words, training.end, processes=2),
        "detection": detection,
        "detection on two processes": Job(detection.words, detection.end, processes=2),
        "packing": Job(packing, files_of("packed"), resumes=False),
        "report": Job(("report", "{}/run"), files_of("run/report"), resumes=False),
    }


TRIALS = {  # of each job so many interruptions of each kind
    ("training", "kill -9"): 36,
    ("training", "clock set back"): 4,
    ("training", "full disk"): 4,
    ("training on two processes", "kill -9"): 12,
    ("detection", "kill -9"): 16,
    ("detection", "clock set back"): 4,
    ("detection", "full disk"): 3,
    ("detection on two processes", "kill -9"): 6,
    ("packing", "kill -9"): 12,
    ("packing", "full disk"): 3,
    ("report", "kill -9"): 10,
    ("report", "full disk"): 2,
}


def prepared(folder: Path) -> Campaign:
    """Each job once to its end, without an interruption."""
    campaign = Campaign(folder, jobs(folder), {}, {})
    for name, job in campaign.jobs.items():
        place = campaign.place(name, 0)
        campaign.seconds[name] = Work(job, place).end()
        campaign.ends[name] = job.end(place)
        if name == "training":
            shutil.copytree(place / "run", folder / "finished")
        print(f"{name}: {campaign.seconds[name]:.1f} s without an interruption", flush=True)
    return campaign


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", type=int, default=1, help="only every so many-th interruption")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    options = parser.parse_args()
    trials, numbers = {key: -(-n // options.part) for key, n in TRIALS.items()}, count(1)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        campaign = prepared(Path(scratch))
        waiting = {
            key: [pool.submit(campaign.trial, *key, next(numbers)) for _ in range(n)]
            for key, n in trials.items()
        }
        equal = {key: sum(each.result() for each in some) for key, some in waiting.items()}
    rows = [
        {"job": job, "interruption": kind, "made": trials[job, kind], "equal": equal[job, kind]}
        for job, kind in TRIALS
    ]
    if options.keep:
        write_json(options.keep, record("endurance", "cpu", interruptions=rows))
    total = f"{sum(equal.values())} of {sum(trials.values())}"
    print(f"{total} interrupted jobs ended as those that were not")
    raise SystemExit(equal != trials)


if __name__ == "__main__":
    main()
