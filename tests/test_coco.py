"""COCO: boxes in our coordinates, categories, splits, and what is refused."""

import json
from pathlib import Path

import pytest
from made_annotations import SKIPPING, coco_folder, coco_split, instances

from residual.tasks.detection.datasets import load


def changed(folder: Path, which: str, /, **values: object) -> Path:
    """COCO whose last annotation, image or category of train2017 is another."""
    coco_folder(folder)
    file = folder / "annotations" / "instances_train2017.json"
    said = json.loads(file.read_text())
    said[which][-1] |= values
    file.write_text(json.dumps(said))
    return folder


def test_boxes_are_corners_and_crowds_are_difficult(tmp_path):
    scenes = load(coco_folder(tmp_path / "small"), "train2017")
    first, second, third = scenes.examples
    assert first.boxes.tolist() == [[0, 0, 10.5, 20], [5, 6, 35, 36]]
    assert first.difficult.tolist() == [False, True]
    assert (len(second.boxes), third.boxes.shape) == (1, (0, 4))
    assert [each.name for each in scenes.examples] == ["1", "2", "3"]
    assert first.path == tmp_path / "small" / "train2017" / "0001.jpg"
    assert (scenes.name, scenes.format) == ("small train2017", "coco")


@pytest.mark.parametrize("no", [0, "0", 0.0, False, "false", None])
def test_a_crowd_is_one_however_the_flag_is_written(tmp_path, no):
    folder = changed(tmp_path, "annotations", iscrowd=no)
    assert load(folder, "train2017").examples[1].difficult.tolist() == [False]
    for yes in (1, "1", True, "true"):
        changed(folder, "annotations", iscrowd=yes)
        assert load(folder, "train2017").examples[1].difficult.tolist() == [True]


def test_classes_are_the_categories_by_their_ids_which_have_gaps(tmp_path):
    scenes = load(coco_folder(tmp_path), "train2017")
    assert scenes.classes == ("person", "car", "toothbrush")
    assert [each.labels.tolist() for each in scenes.examples] == [[1, 0], [2], []]
    given = load(tmp_path, "val2017", ("toothbrush", "car", "person"))
    assert [each.labels.tolist() for each in given.examples] == [[1, 2], [0]]
    with pytest.raises(
        ValueError, match="json: annotation 100 is of class 'car', which is none of"
    ):
        load(tmp_path, "val2017", ("person", "toothbrush"))


def test_categories_of_one_name_are_one_class(tmp_path):
    changed(tmp_path, "categories", name="person")
    assert load(tmp_path, "train2017").classes == ("person", "toothbrush")


@pytest.mark.parametrize(
    ("file", "pictures", "split"),
    [
        ("annotations/instances_train.json", "train", "train"),
        ("annotations/instances_train2014.json", "train2014", "train"),
        ("annotations/instances_train.json", "train2017", "train"),
        ("annotations/train.json", "images/train", "train"),
        ("annotations/own.json", "images", "own"),
        ("annotations/own.json", ".", "own"),
        ("valid/_annotations.coco.json", "valid", "valid"),
    ],
)
def test_files_and_pictures_are_found_in_the_layouts_that_are_usual(
    tmp_path, file, pictures, split
):
    coco_split(tmp_path / file, tmp_path / pictures, instances())
    scenes = load(tmp_path, split)
    assert [each.path.parent for each in scenes.examples] == [tmp_path / pictures] * 3


def test_a_split_of_two_years_or_of_none_is_refused_with_those_that_are_there(tmp_path):
    coco_folder(tmp_path)
    coco_split(
        tmp_path / "annotations" / "instances_val2014.json", tmp_path / "val2014", instances()
    )
    (tmp_path / "annotations" / "captions_val2014.json").write_text("{}")
    assert load(tmp_path, "train").name.endswith(" train")
    with pytest.raises(ValueError, match="'val' of more than one year: val2014, val2017"):
        load(tmp_path, "val")
    with pytest.raises(ValueError, match="no split 'test'; it has train2017, val2014, val2017$"):
        load(tmp_path, "test")


BOXES = {
    "is empty": [8, 8, 0, 4],
    "is inverted": [8, 8, 4, -4],
    "is not four finite numbers": [8, 8, float("nan"), 4],
    "is not four finite numbers ": [8, 8, 4],
    "is not four finite numbers  ": None,
    "is not four finite numbers   ": [8, 8, "wide", 10**400],
    "lies outside its picture of 40x40 pixels by 5": [38, 8, 7, 4],
}


@pytest.mark.parametrize("why", BOXES)
def test_a_bad_box_is_an_error_that_names_it_or_is_left_out_and_named(tmp_path, why):
    changed(tmp_path, "annotations", bbox=BOXES[why])
    with pytest.raises(ValueError) as refused:
        load(tmp_path, "train2017")
    scenes = load(tmp_path, "train2017", reading=SKIPPING)
    assert str(refused.value).startswith(f"{scenes.skipped[0]}; it is the only bad box of ")
    start = "annotations/instances_train2017.json: annotation 102 (toothbrush: x "
    assert scenes.skipped[0].startswith(start) and scenes.skipped[0].endswith(why.strip())
    assert [len(each.boxes) for each in scenes.examples] == [2, 0, 0]
    assert scenes.classes == ("person", "car", "toothbrush")


def test_a_box_of_a_category_that_there_is_not_has_no_class(tmp_path):
    changed(tmp_path, "annotations", category_id=4)
    [skipped] = load(tmp_path, "train2017", reading=SKIPPING).skipped
    assert "annotation 102 (without a class: x 8" in skipped and skipped.endswith("has no class")


def test_what_is_worse_than_a_bad_box_is_always_refused(tmp_path):
    for name, values, why in (
        (
            "annotations",
            {"image_id": 9},
            "annotation 102 is of the image 9, which the file does not",
        ),
        ("images", {"id": 1}, "has the picture 1 more than once"),
        ("images", {"file_name": "gone.jpg"}, "no picture gone.jpg of annotations/.*; looked in "),
        (
            "annotations",
            {"image_id": [1]},
            r"instances_train2017\.json: an id is a whole number or a text, not \[1\]",
        ),
        ("categories", {"id": True}, r"\.json: an id is a whole number or a text, not True"),
    ):
        place = tmp_path / f"{name} {next(iter(values))}"
        with pytest.raises((ValueError, FileNotFoundError), match=why):
            load(changed(place, name, **values), "train2017", reading=SKIPPING)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"images": [', "is damaged: Expecting value"),
        ("[" * 200_000, "is damaged: "),
        ("\udcff", "is damaged: "),
        ("[]", "holds no boxes in COCO's form: it has no list of images"),
        ('{"images": [], "annotations": []}', "it has no list of categories"),
        ('{"images": [{}], "annotations": [], "categories": []}', "something in it has no 'id'"),
        ('{"images": [1], "annotations": [], "categories": []}', "is damaged: "),
        ('{"images": [], "annotations": [], "categories": []}', "has no pictures"),
    ],
)
def test_damaged_json_is_refused_in_a_sentence(tmp_path, text, why):
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "train.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=why):
        load(tmp_path, "train", reading=SKIPPING)


def test_the_fingerprint_is_of_what_is_said_of_the_split_and_not_of_how_it_is_written(tmp_path):
    first = load(coco_folder(tmp_path / "a"), "train2017")
    file = tmp_path / "a" / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=4))
    assert load(tmp_path / "a", "train2017").fingerprint == first.fingerprint
    other = load(changed(tmp_path / "b", "annotations", bbox=[8, 8, 4, 5]), "train2017")
    renamed = load(changed(tmp_path / "c", "categories", name="bus"), "train2017")
    crowd = load(changed(tmp_path / "d", "annotations", iscrowd=1), "train2017")
    assert len({each.fingerprint for each in (first, other, renamed, crowd)}) == 4
