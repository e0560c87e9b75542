"""What must hold on real photographs, a folder and packed; see CONTRIBUTING.md."""

import os
import tarfile
from collections import Counter
from pathlib import Path, PurePath

import pytest
from test_processes import side_by_side

from residual.tasks.classification.protocols import PROTOCOLS

SHARED = os.environ.get("RESIDUAL_SHARED", "")
PER_CLASS = {"train": 8, "val": 2}  # photographs of each class that are read
CLASSES = 10
RECIPE = [
    *("--steps", 4, "--precision", "float32", "--threads", 1, "--workers", 1),
    *(word for pair in ("size=64", "shorter=73", "scales=73,137") for word in ("--set", pair)),
    *(word for pair in ("batch=32", "norm_group=16") for word in ("--set", pair)),
]

pytestmark = pytest.mark.skipif(not SHARED, reason="needs RESIDUAL_SHARED: Imagenette")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """The first photographs of each class."""
    root = tmp_path_factory.mktemp("photographs")
    counts: Counter[PurePath] = Counter()
    with tarfile.open(Path(SHARED) / "imagenette-128.tar.xz") as archive:
        for member in archive:
            path = PurePath(member.name)
            if member.isfile() and counts[path.parent] < PER_CLASS[path.parts[1]]:
                counts[path.parent] += 1
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(archive.extractfile(member).read())
    assert len(counts) == len(PER_CLASS) * CLASSES
    return root / path.parts[0]


def test_a_folder_and_its_packed_copy_are_trained_and_judged_alike(command, photographs, tmp_path):
    checked = command("data", "check", photographs, "--json")
    assert checked.status == 0, checked.err
    pytest.importorskip("streaming", reason="needs residual-learning[cloud]")
    packed = command("data", "pack", photographs, tmp_path / "packed", "--workers", 1)
    assert packed.status == 0, packed.err
    trained = []
    for data in (photographs, tmp_path / "packed"):
        run = tmp_path / f"run{len(trained)}"
        answer = command("train", "resnet18-A", "--data", data, *RECIPE, "--out", run, "--json")
        assert answer.status == 0, answer.err
        trained.append(answer.json)
    words = ("train", "resnet18-A", "--data", photographs, *RECIPE, "--json")
    two = side_by_side(tmp_path / "two", 2, *words, "--out", tmp_path / "of-two")
    assert [answer.status for answer in two] == [0, 0], two[0].err
    trained.append(two[0].json)
    for other in trained[1:]:
        assert other["weights_sha256"] == trained[0]["weights_sha256"]
        assert other["wrong_top1"] == trained[0]["wrong_top1"]
    for name in PROTOCOLS:
        words = ("evaluate", tmp_path / "of-two", "--protocol", name, "--threads", 1, "--json")
        judged = [command(*words, "--data", data) for data in (photographs, tmp_path / "packed")]
        assert [answer.status for answer in judged] == [0, 0], judged[0].err
        folder, shards = (answer.json for answer in judged)
        assert folder["seen"] == PER_CLASS["val"] * CLASSES
        for key in ("wrong_top1", "wrong_top5", "data"):
            assert shards[key] == folder[key], key
