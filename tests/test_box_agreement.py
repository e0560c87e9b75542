"""`data check` and training agree on which boxes are bad."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_annotations import CAT, add, coco_folder, split, voc_year
from made_pets import pets
from test_detection_datasets import roboflow_coco, train_and_val

from residual.preparation.check_boxes import check as checked
from residual.tasks.detection import datasets

# ---- file names, ids and categories -------------------------------------------------------------


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """COCO whose train2017 is changed."""
    coco_folder(folder)
    file = folder / "annotations" / "instances_train2017.json"
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    "name", ["train2017\\{}", "C:\\data\\{}", "/somebody/else/{}", "../train2017/{}", "./{}"]
)
def test_a_file_name_may_have_folders_of_another_machine(name, tmp_path):
    def change(said: dict[str, Any]) -> None:
        for each in said["images"]:
            each["file_name"] = name.format(each["file_name"])

    found = datasets.load(changed(tmp_path, change), "train2017").examples
    assert [each.path.name for each in found] == ["0001.jpg", "0002.jpg", "0003.jpg"]


def test_ids_are_the_same_as_numbers_and_as_texts(tmp_path):
    def change(said: dict[str, Any]) -> None:
        for each in said["images"]:
            each["id"] = str(each["id"])
        for each in said["annotations"]:
            each["category_id"] = float(each["category_id"])
        said["categories"][0]["id"] = "90"

    plain = datasets.load(coco_folder(tmp_path / "plain"), "train2017")
    other = datasets.load(changed(tmp_path / "other", change), "train2017")
    assert plain.classes == other.classes
    for one, two in zip(plain.examples, other.examples, strict=True):
        assert one.boxes.tolist() == two.boxes.tolist()
        assert one.labels.tolist() == two.labels.tolist()


def same_id(said: dict[str, Any]) -> None:
    said["images"][2]["id"] = "1"


def same_file(said: dict[str, Any]) -> None:
    said["images"][2]["file_name"] = "0001.jpg"


def same_category(said: dict[str, Any]) -> None:
    said["categories"].append({"id": "3", "name": "bus"})


def a_list(said: dict[str, Any]) -> None:
    said["images"][2]["id"] = [1]


TWICE = {
    same_id: "has the picture 1 more than once",
    same_file: "0001.jpg as two pictures, 1 and 3: objects of one would be background in the other",
    same_category: "the categories 'car' and 'bus' both have the id 3",
    a_list: r"an id is a whole number or a text, not \[1\]",
}


@pytest.mark.parametrize("change", TWICE, ids=lambda change: change.__name__)
def test_the_check_and_the_loader_refuse_the_same_twins(change, tmp_path):
    folder = changed(tmp_path, change)
    with pytest.raises(ValueError, match=TWICE[change]) as refused:
        datasets.load(folder, "train2017")
    [told] = checked(folder).annotations
    assert str(refused.value).endswith(told)


def test_a_category_that_only_stands_above_others_is_no_class_and_is_named(tmp_path):
    roboflow_coco(tmp_path)
    found = datasets.load(tmp_path, "train")
    assert found.classes == ("person", "car", "toothbrush")
    assert found.notices == (
        "train/_annotations.coco.json: the category things has no box and only stands above "
        "others: no class",
    )
    assert found.notices[0] in checked(tmp_path).warnings

    def annotated(said: dict[str, Any]) -> None:
        for each in said["categories"]:
            each["supercategory"] = "person"

    assert "person" in datasets.load(changed(tmp_path / "x", annotated), "train2017").classes


# ---- what the check says ------------------------------------------------------------------------


def test_equal_pictures_under_two_names_are_warned_of(tmp_path):
    year = voc_year(tmp_path)
    shutil.copy(year / "JPEGImages/000001.jpg", year / "JPEGImages/000003.jpg")
    assert (
        "equal pictures in more than one split, so that test images are trained on (1): "
        "JPEGImages/000003.jpg = JPEGImages/000001.jpg"
    ) in checked(year).warnings
    shutil.copy(year / "JPEGImages/000001.jpg", year / "JPEGImages/000002.jpg")
    assert any(
        "in more than one split, so that test images are trained on (1): "
        "JPEGImages/000003.jpg = JPEGImages/000001.jpg" in warning
        for warning in checked(year).warnings
    )
    add(year, "000003", CAT)
    split(year, "own", "000001", "000002", "000003")
    for name in ("train", "trainval", "val", "test"):
        (year / "ImageSets/Main" / f"{name}.txt").unlink()
    assert checked(year).warnings == [
        "equal pictures more than once in a split (1): JPEGImages/000001.jpg = "
        "JPEGImages/000002.jpg"
    ]


def unlisted(folder: Path) -> None:
    for place in ("Annotations", "JPEGImages"):
        (folder / place).mkdir(parents=True)


def another_class(folder: Path) -> None:
    train_and_val(folder)
    add(folder, "3", ("bird", 1, 1, 9, 9))


def nothing(folder: Path) -> None:
    voc_year(folder)
    for name in ("000001", "000002"):
        add(folder, name)


def no_pictures(folder: Path) -> None:
    voc_year(folder)
    split(folder, "test")


@pytest.mark.parametrize("made", [unlisted, another_class, nothing, no_pictures])
def test_the_check_ends_with_1_where_training_would_refuse(made, command, tmp_path):
    made(tmp_path / "data")
    words = ("--recipe", "scratch", "--out", tmp_path / "run", "--data", tmp_path / "data")
    assert command("detect", "train", "resnet18", *words).status == 1
    answer = command("data", "check", tmp_path / "data")
    assert answer.status == 1 and "Training refuses this folder:" in answer.out
    assert "refusals of training (1)" in answer.err and "remove" not in answer.out


def test_folders_of_classes_are_not_taken_for_boxes(tmp_path):
    folder = pets(tmp_path, "train", "val")
    (folder / "about.xml").write_text("<about/>")
    (folder / "train.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert not datasets.detect_format(folder)


def test_a_folder_around_the_data_is_told_of(tmp_path):
    voc_year(tmp_path / "cells")
    with pytest.raises(ValueError, match="/cells has, so name that"):
        datasets.annotation_format(tmp_path)
