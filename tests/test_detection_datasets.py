"""Folders of VOC and COCO as other programs export them, and the splits chosen in them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_annotations import (
    CAT,
    DOG,
    SIDE,
    add,
    coco_folder,
    coco_split,
    instances,
    split,
    voc_year,
)
from made_annotations import xml as annotation
from made_pets import noise
from test_detect_command import SMALL

from residual.preparation.check_boxes import check as checked
from residual.tasks.detection import datasets, loader
from residual.tasks.detection import train as running
from residual.tasks.detection.recipe import DetectionRecipe

COCO_OF_10 = {
    "images": [
        {"id": i, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE} for i in range(10)
    ],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 20, 20]} for i in range(10)
    ],
    "categories": [{"id": 1, "name": "cat"}],
}  # fmt: skip


def beside(folder: Path, *names: str, annotations: str = "", pictures: str = "") -> None:
    """XML files and pictures, in the same folder or in two."""
    for place in (annotations, pictures):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        noise(i, SIDE).save(folder / pictures / f"{name}.jpg")
        (folder / annotations / f"{name}.xml").write_text(annotation([CAT, DOG]))


def roboflow_coco(folder: Path) -> None:
    said = instances()
    said["categories"] = [{"id": 0, "name": "things", "supercategory": "none"}] + [
        each | {"supercategory": "things"} for each in said["categories"]
    ]
    for place in ("train", "valid", "test"):
        coco_split(folder / place / "_annotations.coco.json", folder / place, said)


def roboflow_voc(folder: Path) -> None:
    for place in ("train", "valid", "test"):
        beside(folder / place, f"{place}1", f"{place}2")


def detr(folder: Path) -> None:
    for name in ("train", "val"):
        coco_split(
            folder / "annotations" / f"custom_{name}.json", folder / f"{name}2017", instances()
        )


def json_beside(folder: Path) -> None:
    for name in ("train", "val"):
        coco_split(folder / f"{name}.json", folder / name, instances())


def cvat_coco(folder: Path) -> None:
    coco_split(
        folder / "annotations" / "instances_default.json",
        folder / "images" / "default",
        COCO_OF_10,
    )


def cvat_sets(folder: Path) -> None:
    for name in ("Train", "Validation"):
        coco_split(
            folder / "annotations" / f"instances_{name}.json", folder / "images" / name, instances()
        )


def cvat_voc(folder: Path) -> None:
    for name in map(str, range(10)):
        add(folder, name, CAT)
    split(folder, "default", *map(str, range(10)))


def coco_tested(folder: Path) -> None:
    for name in ("train", "val", "test"):
        coco_split(folder / "annotations" / f"{name}.json", folder / name, instances())


def same_sets(folder: Path) -> None:
    for name in ("train", "val"):
        coco_split(folder / f"custom_{name}.json", folder / "images" / f"{name}2017", instances())


def fiftyone(folder: Path) -> None:
    beside(folder, *map(str, range(10)), annotations="labels", pictures="data")


def one_year(folder: Path) -> None:
    voc_year(folder / "VOC2007")


def labelimg(folder: Path) -> None:
    beside(folder, *map(str, range(10)))
    (folder / "classes.txt").write_text("cat\ndog\n")


def annots(folder: Path) -> None:
    beside(folder, *map(str, range(10)), annotations="annots", pictures="images")


def nested(folder: Path) -> None:
    for name in ("train", "val"):
        beside(folder, "1", "2", annotations=f"annotations/{name}", pictures=f"images/{name}")


def without_lists(folder: Path) -> None:
    for name in map(str, range(10)):
        add(folder, name, CAT)
    shutil.rmtree(folder / "ImageSets")


def train_and_val(folder: Path) -> None:
    for name in ("1", "2", "3"):
        add(folder, name, CAT, DOG)
    split(folder, "train", "1", "2")
    split(folder, "val", "3")


Made = Callable[[Path], None]
EXPORTS: dict[Made, tuple[str, str, str, int]] = {
    roboflow_coco: ("coco", "train", "test", 3),
    roboflow_voc: ("voc", "train", "test", 2),
    detr: ("coco", "custom_train", "custom_val", 3),
    json_beside: ("coco", "train", "val", 3),
    coco_tested: ("coco", "train", "test", 3),
    same_sets: ("coco", "custom_train", "custom_val", 3),
    cvat_coco: ("coco", "default:train", "default:test", 8),
    cvat_sets: ("coco", "Train", "Validation", 3),
    cvat_voc: ("voc", "default:train", "default:test", 8),
    one_year: ("voc", "trainval", "test", 2),
    fiftyone: ("voc", "all:train", "all:test", 8),
    labelimg: ("voc", "all:train", "all:test", 8),
    annots: ("voc", "all:train", "all:test", 8),
    nested: ("voc", "train", "val", 2),
    without_lists: ("voc", "all:train", "all:test", 8),
    train_and_val: ("voc", "train", "val", 2),
}


@pytest.mark.parametrize("made", EXPORTS, ids=lambda made: made.__name__)
def test_the_usual_exports_are_read_with_the_splits_that_they_have(made, tmp_path):
    made(tmp_path)
    form, train, test, pictures = EXPORTS[made]
    assert datasets.annotation_format(tmp_path) == form
    assert datasets.choose_splits(tmp_path, *datasets.DEFAULT_SPLITS[form]) == (train, test)
    learned = datasets.load(tmp_path, train)
    tested = datasets.load(tmp_path, test, learned.classes)
    assert len(learned.examples) == pictures and len(tested.examples) >= 1
    assert sum(len(each.boxes) for each in learned.examples) >= 2
    assert not {each.path for each in learned.examples} & {each.path for each in tested.examples}
    report = checked(tmp_path)
    assert (report.bad, report.refusals) == (0, [])


@pytest.mark.parametrize("made", [roboflow_coco, cvat_coco, labelimg])
def test_an_export_is_trained_on_by_the_command_of_the_readme(made, command, tmp_path):
    made(tmp_path / "data")
    run = tmp_path / "run"
    words = ("--out", run, "--steps", 1, *SMALL)
    answer = command("detect", "train", "resnet18", "--data", tmp_path / "data", *words)
    assert answer.status == 0, answer.err
    recipe = json.loads((run / "recipe.json").read_text())
    _, train, test, pictures = EXPORTS[made]
    assert (recipe["train_split"], recipe["test_split"]) == (train, test)
    assert f"{train} ({pictures} pictures) is learned from, and {test} (" in answer.err
    assert (run / "split.json").exists() == (":" in train)
    again = command("detect", "evaluate", run, "--json", "--threads", 1)
    assert again.json["ap"] == json.loads((run / "result.json").read_text())["ap"]


def test_a_split_that_was_divided_for_a_run_is_not_divided_otherwise_afterwards(command, tmp_path):
    labelimg(tmp_path / "data")
    words = ("--out", tmp_path / "run", "--steps", 1, *SMALL)
    assert not command("detect", "train", "resnet18", "--data", tmp_path / "data", *words).status
    divided = json.loads((tmp_path / "run" / "split.json").read_text())
    assert sorted(divided["all:train"] + divided["all:test"]) == [str(i) for i in range(10)]
    beside(tmp_path / "data", "more", "and more", "and even more")
    refused = command("detect", "evaluate", tmp_path / "run").complaint
    assert "some of all:test may have been learned from" in refused


def test_a_division_depends_on_nothing_but_the_pictures(tmp_path):
    for place in ("a", "b"):
        labelimg(tmp_path / place)
    names = [
        [each.name for each in datasets.load(tmp_path / place, part).examples]
        for place in ("a", "b")
        for part in ("all:train", "all:test")
    ]
    assert names[:2] == names[2:] and (len(names[0]), len(names[1])) == (8, 2)
    with pytest.raises(ValueError, match="divided into train and test, not 'val'"):
        datasets.load(tmp_path / "a", "all:val")


def only(*names: str) -> Made:
    def made(folder: Path) -> None:
        for name in names:
            coco_split(folder / "annotations" / f"{name}.json", folder / name, instances())

    return made


REFUSED: list[tuple[Made, str]] = [
    (only("train"), r"--set train_split=train:train --set test_split=train:test, which holds out"),
    (only("val", "test"), r"has no split to learn from; it has test, val: say --set train_split="),
    (only("a", "b"), r"has the splits a, b, and none is called train; say --set train_split="),
    (
        only("train2014", "train2017", "val2017"),
        r"has train2014, train2017, and it cannot be told which is meant; say --set train_split=tr",
    ),
]


@pytest.mark.parametrize(("made", "why"), REFUSED)
def test_where_it_cannot_be_told_which_split_is_which_the_option_is_named(
    made, why, command, tmp_path
):
    made(tmp_path / "data")
    words = ("--recipe", "scratch", "--out", tmp_path / "run")
    answer = command("detect", "train", "resnet18", "--data", tmp_path / "data", *words)
    assert answer.status == 1 and not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=why) as refused:
        datasets.choose_splits(tmp_path / "data", "train", "val")
    assert answer.complaint.endswith(str(refused.value))
    check = command("data", "check", tmp_path / "data")
    assert check.status == 1 and str(refused.value) in check.out


def test_trainval_is_never_learned_from_where_val_is_tested_on(tmp_path):
    year = voc_year(tmp_path)
    (year / "ImageSets/Main/test.txt").unlink()
    assert datasets.choose_splits(year, "trainval", "test") == ("train", "val")
    (year / "ImageSets/Main/train.txt").unlink()
    with pytest.raises(ValueError, match="has trainval to learn from and nothing to be tested on"):
        datasets.choose_splits(year, "trainval", "test")


def test_splits_that_a_user_names_are_taken_as_they_are(command, tmp_path):
    roboflow_coco(tmp_path / "data")
    words = ("--data", tmp_path / "data", "--out", tmp_path / "run", "--set", "test_split=val")
    answer = command("detect", "train", "resnet18", "--recipe", "scratch", *words)
    assert "has no split 'val'; it has test, train, valid" in answer.complaint


# ---- lists --------------------------------------------------------------------------------------

LINES = {
    "flagged": "1  1\n2 1\n",
    "a byte order mark and CRLF": "\ufeff1\r\n2\r\n",
    "suffixes": "1.jpg\n2.xml\n",
    "folders": "./JPEGImages/1.jpg\ndata\\obj\\2.jpg\n",
    "absolute": "/home/me/JPEGImages/1.jpg\nC:\\me\\JPEGImages\\2.jpg 1\n",
}


@pytest.mark.parametrize("text", LINES.values(), ids=LINES)
def test_a_list_may_be_written_by_any_program(text, tmp_path):
    for name in ("1", "2"):
        add(tmp_path, name, CAT)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(text.encode())
    assert [each.name for each in datasets.load(tmp_path, "train").examples] == ["1", "2"]


def test_a_list_that_names_a_picture_in_two_ways_names_it_twice(tmp_path):
    add(tmp_path, "1", CAT)
    split(tmp_path, "train", "1", "1.jpg")
    with pytest.raises(ValueError, match="has the picture 1 more than once"):
        datasets.load(tmp_path, "train")


@pytest.mark.parametrize("line", ["/home/me/7.jpg", "../7", "C:\\me\\7.xml 1", "/"])
def test_a_line_that_names_no_picture_is_refused_with_the_folder_that_lacks_it(line, tmp_path):
    add(tmp_path, "1", CAT)
    split(tmp_path, "train", "1", line)
    name = "" if line == "/" else "7"
    with pytest.raises(FileNotFoundError, match=f"no annotation {tmp_path}/Annotations/{name}.xml"):
        datasets.load(tmp_path, "train")


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".bmp"])
def test_the_same_files_are_pictures_in_both_forms(ending, tmp_path):
    add(tmp_path / "voc", "1", CAT, ending=ending)
    add(tmp_path / "voc", "2", CAT)
    (tmp_path / "voc/JPEGImages/._2.jpg").write_bytes(b"\0")
    split(tmp_path / "voc", "train", "1", "2")
    split(tmp_path / "voc", "test", "2")
    assert len(datasets.load(tmp_path / "voc", "train").examples) == 2
    assert not checked(tmp_path / "voc").bare
    folder = coco_folder(tmp_path / "coco")
    noise(1).save(folder / "train2017" / f"more{ending}")
    (folder / "train2017" / "._more.jpg").write_bytes(b"\0")
    assert checked(folder).bare == [f"train2017/more{ending}"]


# ---- nothing to learn from, or to be tested on --------------------------------------------------


def emptied(folder: Path, split: str, crowds: bool) -> Path:
    """COCO whose split has no objects, or only crowds."""
    file = coco_folder(folder) / "annotations" / f"instances_{split}.json"
    said = json.loads(file.read_text())
    said["annotations"] = [one | {"iscrowd": 1} for one in said["annotations"] if crowds]
    file.write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("crowds", [False, True])
def test_pictures_without_objects_to_learn_from_are_refused(crowds, command, tmp_path):
    folder = emptied(tmp_path / "data", "train2017", crowds)
    [refusal] = checked(folder).refusals
    assert refusal.startswith("train holds no objects")
    words = ("--data", folder, "--out", tmp_path / "run", "--steps", 1, *SMALL)
    assert "data train holds no objects" in command("detect", "train", "resnet18", *words).complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("crowds", [False, True])
def test_a_test_set_without_objects_is_named_before_the_training(crowds, tmp_path):
    folder = emptied(tmp_path, "val2017", crowds)
    recipe, usual = running.choose_recipe("resnet18", str(folder), "scratch", 6, {})
    data = running.load_data(recipe, {"where": str(folder)})
    assert any("val holds no objects" in line for line in running.notices(recipe, usual, data))


def test_objects_are_measured_on_the_pictures_that_have_some(monkeypatch, tmp_path):
    data = datasets.load(voc_year(tmp_path), "trainval")
    backwards = replace(data, examples=data.examples[::-1])  # the first has no objects
    monkeypatch.setattr(loader, "MEASURED", 1)
    assert loader.median_side(backwards, DetectionRecipe()) == loader.median_side(
        data, DetectionRecipe()
    )
