"""`residual data check` and `residual data prepare` at the command line."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from residual.cli import data as cli
from residual.preparation import imagenet as module


def fill(folder: Path, n: int, light: int = 0) -> None:
    """n small pictures, each of another grey."""
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (8, 8), (light + i,) * 3).save(folder / f"{i}.png")


@pytest.fixture
def photos(tmp_path) -> Path:
    for s, name in enumerate(("train", "val")):
        for c, label in enumerate(("cat", "dog")):
            fill(tmp_path / "photos" / name / label, 4 - 2 * s, 60 * c + 20 * s)
    return tmp_path / "photos"


def test_a_good_folder_is_counted_and_the_status_is_0(command, photos):
    answer = command("data", "check", photos)
    assert (answer.status, answer.err) == (0, "")
    lines = [line.split() for line in answer.out.splitlines()]
    assert answer.out.startswith(f"{photos}: 12 pictures, 0 damaged")
    assert ["train", "val"] in lines and ["cat", "4", "2"] in lines
    assert ["all", "classes", "8", "4"] in lines
    assert "Damaged" not in answer.out and "Warnings" not in answer.out


def test_damaged_pictures_are_listed_and_the_status_is_1(command, photos):
    (photos / "train" / "cat" / "zero.jpg").touch()
    (photos / "val" / "dog" / "page.jpg").write_text("<html>404</html>")
    answer = command("data", "check", photos, "--workers", 1)
    assert answer.status == 1
    assert [line.split(maxsplit=1) for line in answer.out.splitlines()[-2:]] == [
        ["empty", "train/cat/zero.jpg (class cat): it has no bytes"],
        ["mislabelled", "val/dog/page.jpg (class dog): it is a web page (HTML), not a picture"],
    ]
    assert answer.err == f"residual: 2 of 14 pictures in {photos} are damaged\n"


def test_everything_is_in_the_json(command, photos):
    (photos / "train" / "cat" / "zero.jpg").touch()
    (photos / "train" / "cat" / "notes.txt").touch()
    Image.new("CMYK", (8, 8)).save(photos / "train" / "dog" / "ink.jpg")
    shutil.copy(photos / "val" / "dog" / "0.png", photos / "train" / "dog" / "same.jpg")
    answer = command("data", "check", photos, "--json")
    assert answer.status == 1
    found = answer.json
    assert found["seen"] == 15
    assert found["sets"]["train"] == {"cat": 4, "dog": 6}
    assert found["damaged"] == [
        {"path": "train/cat/zero.jpg", "label": "cat", "kind": "empty", "reason": "it has no bytes"}
    ]
    assert found["converted"] == {"CMYK to RGB": 1}
    assert found["misnamed"] == {"train/dog/same.jpg": "PNG"}
    assert found["others"] == ["train/cat/notes.txt"]
    assert found["copies"] == [["train/dog/same.jpg", "val/dog/0.png"]]
    assert len(found["warnings"]) == 1


def test_of_many_classes_the_smallest_and_the_largest_are_shown(command, tmp_path):
    for i in range(25):
        fill(tmp_path / "photos" / f"class{i:02}", 3 + (i == 7) - (i == 9), 5 * i)
    answer = command("data", "check", tmp_path / "photos")
    assert "25 classes, from 2 pictures (class09) to 4 (class07)" in answer.out
    assert len(answer.out.splitlines()) < 10


def test_a_name_that_is_no_text_stops_nothing(command, photos):
    for words in (("data", "check", photos), ("data", "check", photos, "--json")):
        Path(os.fsdecode(os.fsencode(photos / "train" / "cat") + b"/\xff.jpg")).touch()
        answer = command(*words)
        assert answer.status == 1
        assert "\\udcff.jpg" in answer.out


def test_a_wrong_folder_is_one_sentence(command, tmp_path):
    for words in (("check", tmp_path / "no"), ("prepare", "imagenet", tmp_path / "no")):
        answer = command("data", *words)
        assert (answer.status, answer.complaint) == (
            1,
            f"residual: there is no folder {tmp_path / 'no'}",
        )
    assert (
        "looked for ILSVRC2012_img_train"
        in command("data", "prepare", "imagenet", tmp_path).complaint
    )
    assert command("data", "check").status == 2


def sorted_tree(folder: Path) -> Path:
    for name in ("train", "val"):
        for i in (1, 2):
            fill(folder / name / f"n0000000{i}", 3)
    return folder


def test_a_part_of_imagenet_is_told_with_what_it_lacks_and_the_status_is_1(command, tmp_path):
    answer = command("data", "prepare", "imagenet", sorted_tree(tmp_path))
    assert answer.status == 1
    assert answer.out.splitlines()[0] == (
        f"{tmp_path}/train: 6 of 1,281,167 pictures in 2 of 1,000 classes"
    )
    assert "missing: train/: 998 classes" in answer.out
    assert answer.err.splitlines()[-1] == f"residual: {tmp_path} does not hold the whole ImageNet"
    found = command("data", "prepare", "imagenet", tmp_path, "--json").json
    assert (found["complete"], found["pictures"]) == (False, {"train": 6, "val": 6})


def test_a_whole_imagenet_ends_with_status_0(tmp_path, monkeypatch, capsys):
    sorted_tree(tmp_path)
    whole = partial(module.imagenet, expected={"train": 6, "val": 6, "classes": 2})
    monkeypatch.setattr(module, "imagenet", whole)
    cli.imagenet(tmp_path, tmp_path / "target")
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/target/train: 6 of 6 pictures in 2 of 2 classes",
        f"{tmp_path}/target/val: 6 of 6 pictures in 2 of 2 classes",
    ]
    shutil.rmtree(tmp_path / "target" / "val")
    cli.imagenet(tmp_path / "target")
    assert "target/val: not there" in capsys.readouterr().out
