"""What must hold on Imagenette: a folder of real photographs; see CONTRIBUTING.md."""

import os
from collections import Counter
from pathlib import Path, PurePath

import pytest
from archives import unpack
from conftest import EXACT, Answer
from test_processes import side_by_side

from residual.tasks.classification.protocols import PROTOCOLS

SHARED = os.environ.get("RESIDUAL_SHARED", "")
PER_CLASS = {"train": 8, "val": 1}  # photographs of each of the ten classes
FIELDS = ("size=64", "shorter=73", "scales=73,137", "batch=32", "norm_group=16")
TRAIN = ("train", "resnet18-A", "--steps", 4, "--workers", 1, "--json", *EXACT)
TRAIN += tuple(word for field in FIELDS for word in ("--set", field))

pytestmark = pytest.mark.skipif(not SHARED, reason="needs RESIDUAL_SHARED: Imagenette")


def judging(protocol: str) -> tuple[str, ...]:
    return ("--protocol", protocol, "--json", *EXACT)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """The first photographs of each class."""
    root = tmp_path_factory.mktemp("photographs")
    counts: Counter[PurePath] = Counter()

    def wanted(name: str) -> bool:
        folder = PurePath(name).parent
        counts[folder] += 1
        return counts[folder] <= PER_CLASS[folder.parent.name]

    unpack(Path(SHARED) / "imagenette-128.tar.xz", root, wanted)
    return root / "imagenette-128"


@pytest.fixture(scope="module")
def trained(command, photographs, tmp_path_factory) -> tuple[Path, Answer]:
    """A run in one process, and what the command printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    answer = command(*TRAIN, "--data", photographs, "--out", run)
    assert answer.status == 0, answer.err
    return run, answer


def test_photographs_are_checked_and_trained_on_two_processes_as_on_one(
    command, photographs, trained, tmp_path
):
    assert command("data", "check", photographs).status == 0
    words = (*TRAIN, "--data", photographs, "--out", tmp_path / "run")
    both = side_by_side(tmp_path / "two", 2, *words)
    assert [answer.status for answer in both] == [0, 0], both[0].err
    for key in ("weights_sha256", "wrong_top1"):
        assert both[0].json[key] == trained[1].json[key]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_judges_every_photograph(command, photographs, trained, protocol):
    judged = command("evaluate", trained[0], "--data", photographs, *judging(protocol))
    assert judged.status == 0, judged.err
    assert judged.json["protocol"] == protocol
    assert judged.json["seen"] == 10 * PER_CLASS["val"]


def test_a_packed_copy_is_trained_on_and_judged_as_its_folder(
    command, photographs, trained, tmp_path
):
    pytest.importorskip("streaming", reason="needs the extra `cloud`")
    packed, run = tmp_path / "packed", tmp_path / "run"
    assert command("data", "pack", photographs, packed, "--workers", 1).status == 0
    answer = command(*TRAIN, "--data", packed, "--out", run)
    assert answer.status == 0, answer.err
    assert answer.json["weights_sha256"] == trained[1].json["weights_sha256"]
    for protocol in ("1crop", "10crop", "multiscale"):
        words = ("evaluate", run, *judging(protocol))
        folder, shards = (command(*words, "--data", data).json for data in (photographs, packed))
        for key in ("wrong_top1", "wrong_top5", "data"):
            assert shards[key] == folder[key], key
