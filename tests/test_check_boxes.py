"""`data check` of folders with boxes: problems, counts, warnings; boxes drawn on images."""

import json
from pathlib import Path

import numpy as np
import torch
from made_annotations import CAT, DOG, SIDE, add, coco_folder, devkit, split, voc_year
from made_pets import noise, pets
from PIL import Image

from residual.preparation.check_boxes import BoxCounts, draw_sheet, read_annotations, sheet_order
from residual.preparation.check_boxes import check as checked
from residual.tasks.detection.visualization import BAD, BAD_COLOR, COLORS, contact_sheet, draw_boxes

EMPTY = ("cat", 7, 7, 7, 7)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def places(image: Image.Image, colour: str) -> list[tuple[int, int]]:
    """Where a picture has a colour, as (x, y)."""
    rows, columns = np.nonzero((np.asarray(image) == rgb(colour)).all(axis=2))
    return list(zip(columns.tolist(), rows.tolist(), strict=True))


# ---- what is found ------------------------------------------------------------------------------


def test_a_good_folder_is_counted_split_by_split(tmp_path):
    year = voc_year(tmp_path)
    add(year, "000001", CAT, (*DOG, 1))
    report = checked(year)
    assert (report.form, report.pictures, report.bad) == ("voc", 3, 0)
    assert report.splits == {
        "test": BoxCounts(1, {"cat": 0, "dog": 1}),
        "train": BoxCounts(1, {"cat": 1, "dog": 1}, difficult=1),
        "trainval": BoxCounts(2, {"cat": 1, "dog": 1}, difficult=1, empty=1),
        "val": BoxCounts(1, {"cat": 0, "dog": 0}, empty=1),
    }
    assert report.warnings == [
        "classes without a box in test (1): cat",
        "classes without a box in val (2): cat, dog",
    ]


def test_every_year_of_a_devkit_and_every_file_of_coco_is_checked(tmp_path):
    report = checked(devkit(tmp_path / "VOCdevkit").parent)
    assert list(report.splits) == [
        "07test", "07train", "07trainval", "07val", "12train", "12trainval", "12val"
    ]  # fmt: skip
    assert (report.pictures, report.bad) == (5, 0)  # one is in no split
    report = checked(coco_folder(tmp_path / "coco"))
    assert (report.form, report.pictures, report.bad) == ("coco", 5, 0)
    assert report.splits["train2017"] == BoxCounts(
        3, {"car": 1, "person": 1, "toothbrush": 1}, difficult=1, empty=1
    )


def test_all_bad_boxes_are_listed_once_and_the_others_are_counted(tmp_path):
    year = voc_year(tmp_path)
    add(year, "000001", CAT, EMPTY, ("dog", 1, 1, 99, 9))
    report = checked(year)
    assert report.boxes == [
        "Annotations/000001.xml: box 2 (cat: xmin 7, ymin 7, xmax 7, ymax 7) is empty",
        "Annotations/000001.xml: box 3 (dog: xmin 1, ymin 1, xmax 99, ymax 9) lies outside its "
        "picture of 40x40 pixels by 59",
    ]
    assert report.splits["trainval"].boxes == {"cat": 1, "dog": 0}


def test_nothing_that_is_missing_or_damaged_stops_the_check(tmp_path):
    year = voc_year(tmp_path)
    for name in ("04", "05", "06", "07"):
        add(year, name, CAT)
    split(year, "own", "04", "05", "06", "07")
    (year / "Annotations" / "04.xml").write_text("<annotation>")
    (year / "Annotations" / "05.xml").unlink()
    (year / "JPEGImages" / "06.jpg").unlink()
    (year / "JPEGImages" / "07.jpg").write_bytes(b"\xff\xd8 cut")
    report = checked(year)
    assert [(each.path, each.kind) for each in report.damaged] == [("JPEGImages/07.jpg", "damaged")]
    damaged, annotation, picture = report.annotations
    assert "04.xml is damaged" in damaged
    assert "there is no annotation" in annotation and "there is no picture" in picture
    assert (report.bare, report.lonely) == (
        ["JPEGImages/05.jpg"],
        ["Annotations/06.xml"],
    )
    assert report.bad == 4
    folder = coco_folder(tmp_path / "coco")
    (folder / "annotations" / "instances_val2017.json").write_text("[")
    noise(1).save(folder / "train2017" / "more.jpg")
    report = checked(folder)
    assert "instances_val2017.json is damaged" in report.annotations[0]
    assert (report.splits["train2017"].pictures, report.bare) == (3, ["train2017/more.jpg"])


def test_a_picture_of_another_size_than_annotated_is_named_and_one_that_exif_turns(tmp_path):
    year = voc_year(tmp_path)
    noise(1, SIDE // 2).save(year / "JPEGImages" / "000001.jpg")
    turned, wide = Image.Exif(), noise(2, SIDE).resize((SIDE, SIDE // 2))
    turned[0x0112] = 6
    wide.save(year / "JPEGImages" / "000003.jpg", exif=turned)
    assert checked(year).sizes == [
        "Annotations/000003.xml: says 40x40 pixels, and 000003.jpg has 20x40, turned upright "
        "(EXIF)",
        "Annotations/000001.xml: says 40x40 pixels, and 000001.jpg has 20x20",
    ]


def test_splits_that_share_pictures_are_warned_of_unless_one_is_part_of_the_other(tmp_path):
    year = voc_year(tmp_path)
    assert not [line for line in checked(year).warnings if "common" in line]
    split(year, "test", "000003", "000002")
    assert [line for line in checked(year).warnings if "common" in line] == [
        "test and trainval have pictures in common (1): 000002",
        "test and val have pictures in common (1): 000002",
    ]


def test_the_number_of_workers_changes_nothing(tmp_path):
    year = voc_year(tmp_path)
    add(year, "000002", EMPTY)
    (year / "JPEGImages" / "000003.jpg").write_bytes(b"")
    assert checked(year, 1) == checked(year, 4)


# ---- what is drawn ------------------------------------------------------------------------------


def test_a_box_is_drawn_on_its_first_and_last_pixels_in_the_colour_of_its_label():
    grey = Image.new("RGB", (300, 200), "grey")
    boxes = torch.tensor([[20.0, 30, 120, 130], [150, 30, 250, 130], [20, 140, 80, 190]])
    image = draw_boxes(grey, boxes, ["", "", ""], [0, 1, 0])
    assert places(grey, COLORS[0]) == [] and image.size == grey.size
    first, second = places(image, COLORS[0]), places(image, COLORS[1])
    assert (20, 30) in first and (119, 129) in first and (20, 140) in first
    assert (min(second), max(second)) == ((150, 30), (249, 129))
    assert (70, 80) not in first


def test_a_caption_stays_inside_the_picture_and_covers_no_other():
    grey = Image.new("RGB", (400, 300), "grey")
    boxes = torch.tensor([[0.0, 0, 60, 40], [380, 280, 400, 300], [380, 285, 400, 300]])
    image = draw_boxes(grey, boxes, ["aeroplane", "bicycle", "boat"], [0, 1, 3])
    for label, letters in ((0, 9), (1, 7), (3, 4)):
        inside = [x for x, _ in places(image, COLORS[label])]
        assert max(inside) - min(inside) > 4 * letters  # all of it is seen
    for x, y in places(image, COLORS[1]):
        assert 0 <= x < 400 and 0 <= y < 300


def test_a_bad_box_is_red_and_filled_and_seen_even_where_it_is_empty():
    grey = Image.new("RGB", (300, 200), "grey")
    boxes = torch.tensor([[50.0, 60, 50, 60], [200, 150, 120, 90], [float("nan"), 1, 2, 3]])
    assert draw_boxes(grey, torch.zeros(0, 4), [], []).size == grey.size
    image = draw_boxes(grey, boxes, ["", "", "nowhere"], [BAD, BAD, BAD])
    red = set(places(image, BAD_COLOR))
    assert any(abs(x - 50) < 20 and abs(y - 60) < 20 for x, y in red)
    assert {(113, 83), (206, 155)} <= red
    tint = image.getpixel((160, 120))
    assert tint[0] > tint[1] == tint[2] > 0


def test_a_sheet_has_its_width_and_its_rows():
    tiles = [
        Image.new("RGB", (40, 20 * n), colour)
        for n, colour in ((1, "red"), (2, "lime"), (1, "blue"))
    ]
    whole = contact_sheet(tiles, 2, 218)
    assert whole.size == (218, 6 + 100 + 6 + 100 + 6)
    assert whole.getpixel((50, 56)) == (255, 0, 0)
    assert whole.getpixel((150, 90)) == (0, 255, 0)
    assert whole.getpixel((50, 162)) == (0, 0, 255)
    assert whole.getpixel((150, 162)) == (255, 255, 255)


def test_pictures_with_bad_boxes_come_first_and_then_every_split_in_turn_and_none_twice(tmp_path):
    year = voc_year(tmp_path)
    for i in range(10, 20):
        add(year, str(i), CAT)
    split(year, "own", *map(str, range(10, 20)))
    add(year, "17", EMPTY)
    order = [(which, one.name) for which, one in sheet_order(read_annotations(year))]
    assert order[0] == ("own", "17")
    assert [which for which, _ in order[1:4]] == ["own", "test", "train"]
    assert len(order) == len({name for _, name in order}) == 13
    image = draw_sheet(read_annotations(year), 3)
    assert 1_990 < image.width <= 2_000 and places(image, BAD_COLOR)


# ---- the command --------------------------------------------------------------------------------


def test_a_folder_with_bad_boxes_ends_with_1_and_a_good_one_with_0(command, tmp_path):
    year = voc_year(tmp_path / "pets")
    answer = command("data", "check", year)
    assert (answer.status, answer.err) == (0, "")
    lines = [line.split() for line in answer.out.splitlines()]
    assert answer.out.startswith(f"{year} (PASCAL VOC): 3 pictures, 0 damaged; bad boxes: 0")
    assert ["test", "train", "trainval", "val"] in lines and ["dog", "1", "1", "1", "0"] in lines
    add(year, "000001", CAT, EMPTY)
    answer = command("data", "check", year, "--draw", 2, cwd=tmp_path)
    assert answer.status == 1
    assert answer.out.splitlines()[-1].endswith(
        "box 2 (cat: xmin 7, ymin 7, xmax 7, ymax 7) is empty"
    )
    assert answer.err.splitlines() == [
        "residual: pictures with their boxes are in boxes.png",
        f"residual: {year} has bad boxes (1)",
    ]
    assert 1_990 < Image.open(tmp_path / "boxes.png").width <= 2_000
    failed = command("data", "check", year, "--draw", 2, "--out", tmp_path)  # a folder
    assert failed.status == 1 and failed.out == answer.out
    found = command("data", "check", year, "--json").json
    assert (found["bad"], found["pictures"], len(found["boxes"])) == (1, 3, 1)
    assert found["splits"]["test"] == {
        "pictures": 1, "boxes": {"cat": 0, "dog": 1}, "difficult": 0, "empty": 0
    }  # fmt: skip


def test_of_many_classes_the_extremes_are_shown(command, tmp_path):
    add(tmp_path, "a", *[(f"class{i:02}", 1, 1, 9, 9) for i in range(25)], ("class07", 1, 1, 5, 5))
    split(tmp_path, "train", "a")
    out = command("data", "check", tmp_path).out
    assert "train: 25 classes, from 1 boxes (class00) to 2 (class07)" in out


def test_drawing_is_refused_before_anything_is_read_where_it_cannot_be(command, tmp_path):
    year, photos = voc_year(tmp_path / "pets"), pets(tmp_path / "photos", "train", "val")
    answer = command("data", "check", year, "--draw", 2, "--out", tmp_path / "no" / "x.png")
    assert answer.status == 2 and "there is no folder" in answer.err and not answer.out
    answer = command("data", "check", photos, "--draw", 2)
    assert answer.status == 2 and "--draw is for boxes" in answer.err


def test_a_devkit_whose_names_are_no_text_stops_nothing(command, tmp_path):
    year = voc_year(tmp_path)
    said = b"<annotation><object><name>caf\xe9</name></object></annotation>"
    (year / "Annotations" / "000001.xml").write_bytes(said)
    (year / "ImageSets" / "Main" / "own.txt").write_bytes(b"\xff\n")
    for words in ((), ("--json",)):
        answer = command("data", "check", year, *words)
        assert answer.status == 1 and "000001.xml is damaged" in answer.out
        assert "Traceback" not in answer.err
    assert json.loads(answer.out)["bad"] == 2


def test_checking_changes_nothing_in_the_folder(tmp_path):
    year = devkit(tmp_path)

    def state() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in year.rglob("*")}

    before = state()
    checked(year)
    draw_sheet(read_annotations(year), 4)
    assert state() == before
