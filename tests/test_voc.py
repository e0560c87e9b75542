"""PASCAL VOC: boxes in our coordinates, splits of devkits, and what is refused."""

import os
import time
from pathlib import Path

import pytest
import torch
from archives import unpack
from made_annotations import CAT, DOG, SIDE, SKIPPING, add, described, devkit, split, voc_year, xml
from made_pets import noise

from residual.tasks.detection.datasets import load
from residual.tasks.detection.recipe import Reading

SHARED = os.environ.get("RESIDUAL_SHARED", "")


def names(folder: Path, which: str) -> list[str]:
    return [example.name for example in load(folder, which).examples]


# ---- what is read -------------------------------------------------------------------------------


def test_a_box_around_the_first_pixel_counts_from_0_and_ends_after_it(tmp_path):
    add(
        tmp_path,
        "a",
        ("cat", 1, 1, 2, 2),
        ("dog", "4.5", 5, "10.5", 7, 1),
        ("cat", 1, 2, 40, 40, 0),
    )
    split(tmp_path, "train", "a")
    [example] = load(tmp_path, "train").examples
    assert example.boxes.tolist() == [[0, 0, 2, 2], [3.5, 4, 10.5, 7], [0, 1, 40, 40]]
    assert example.boxes.dtype == torch.float32 and example.labels.dtype == torch.int64
    assert example.labels.tolist() == [0, 1, 0]
    assert example.difficult.tolist() == [False, True, False]


@pytest.mark.parametrize("no", ["0", "0.0", "False", "no", "Unspecified", ""])
def test_an_object_is_not_difficult_if_its_flag_says_so_in_another_way(tmp_path, no):
    add(tmp_path, "a", (*CAT, no), (*DOG, "1"), (*DOG, "true"))
    split(tmp_path, "train", "a")
    assert load(tmp_path, "train").examples[0].difficult.tolist() == [False, True, True]


def test_a_picture_without_objects_is_kept_with_empty_tensors(tmp_path):
    scenes = load(voc_year(tmp_path / "pets"), "trainval")
    empty = scenes.examples[1]
    assert (empty.boxes.shape, empty.labels.shape) == ((0, 4), (0,))
    assert empty.difficult.dtype == torch.bool
    assert (scenes.name, scenes.format, scenes.classes) == ("pets trainval", "voc", ("cat", "dog"))


def test_the_classes_are_those_of_the_split_or_those_that_are_given(tmp_path):
    year = voc_year(tmp_path)
    assert load(year, "test").classes == ("dog",)
    given = load(year, "test", ("bird", "cat", "dog"))
    assert given.classes == ("bird", "cat", "dog")
    assert given.examples[0].labels.tolist() == [2]
    with pytest.raises(ValueError) as refused:
        load(year, "test", ("bird", "cat"), reading=SKIPPING)
    assert str(refused.value) == (
        "Annotations/000003.xml: box 1 is of class 'dog', which is none of the classes (2): "
        "bird, cat"
    )


def test_the_boxes_of_parts_are_no_boxes_of_objects(tmp_path):
    file = add(tmp_path, "a")
    part = described(CAT).replace("object>", "part>").replace(">cat<", ">head<")
    whole = described(DOG)
    for text in (
        whole.replace("</object>", f"{part}</object>"),
        whole.replace("<name>", f"{part}<name>"),
    ):
        file.write_text(f"<annotation>{text}</annotation>")
        split(tmp_path, "train", "a")
        scenes = load(tmp_path, "train")
        assert scenes.classes == ("dog",)
        assert scenes.examples[0].boxes.tolist() == [[4, 5, 40, 30]]


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png", ".PnG"])
def test_a_picture_may_be_called_by_any_ending_in_any_case(tmp_path, ending):
    add(tmp_path, "a", CAT, ending=ending)
    split(tmp_path, "train", "a")
    assert load(tmp_path, "train").examples[0].path == tmp_path / "JPEGImages" / f"a{ending}"


def test_a_devkit_has_the_splits_of_its_years_and_their_sums(tmp_path):
    devkit(tmp_path / "VOCdevkit")
    late, early = ["2008_01", "2008_02"], ["000001", "000002"]
    for folder in (tmp_path, tmp_path / "VOCdevkit"):
        assert names(folder, "07") == names(folder, "07trainval") == early
        assert names(folder, "07+12") == early + late
        assert names(folder, "07++12") == [*early, "000003", *late]
        assert names(folder, "07test") == names(folder, "test") == ["000003"]
        assert names(folder, "12val") == ["2008_02"]
        assert load(folder, "07+12").name == "VOCdevkit 07+12"


@pytest.mark.parametrize("which", ["12test", "13", "07+13", "07+", "nonsense", "", "cat_train"])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path, which):
    with pytest.raises(ValueError) as refused:
        load(devkit(tmp_path), which)
    assert str(refused.value) == (
        f"{tmp_path} has no split {which!r}; it has 07test, 07train, 07trainval, 07val, "
        "12train, 12trainval, 12val"
    )


def test_a_list_that_two_years_have_must_be_told_apart(tmp_path):
    with pytest.raises(ValueError, match="both have a split 'val'; take 07val, 12val or 07val.12v"):
        load(devkit(tmp_path), "val")


# ---- what identifies it -------------------------------------------------------------------------


def test_the_fingerprint_changes_with_the_split_a_picture_and_an_annotation_and_nothing_else(
    tmp_path,
):
    first, second = voc_year(tmp_path / "a"), voc_year(tmp_path / "a again" / "a")
    split(first, "copy", "000002", "000001")
    marks = [load(first, which).fingerprint for which in ("trainval", "copy", "train")]
    assert len({*marks}) == 3
    assert load(second, "trainval").fingerprint == marks[0]
    add(second, "000001", CAT)
    other = load(second, "trainval").fingerprint
    noise(99, SIDE).save(second / "JPEGImages" / "000002.jpg")
    assert len({marks[0], other, load(second, "trainval").fingerprint}) == 3


# ---- what is refused ----------------------------------------------------------------------------

BAD = {
    ("cat", 5, 5, 5, 9): "is empty",
    ("cat", 5, 9, 8, 9): "is empty",
    ("cat", 8, 5, 5, 9): "is inverted",
    ("cat", "nan", 5, 5, 9): "is not four finite numbers",
    ("cat", 5, 5, "inf", 9): "is not four finite numbers",
    ("cat", "five", 5, 5, 9): "is not four finite numbers",
    ("cat", "", 5, 5, 9): "is not four finite numbers",
    ("cat", -1, 5, 5, 9): "lies outside its picture of 40x40 pixels by 2",
    ("cat", 5, 5, 9, 42): "lies outside its picture of 40x40 pixels by 2",
    ("", 5, 5, 9, 9): "has no class",
}


@pytest.mark.parametrize(("box", "why"), BAD.items())
def test_a_bad_box_is_an_error_that_names_it_or_is_left_out_and_named(tmp_path, box, why):
    add(tmp_path / "x", "a", CAT, box)
    add(tmp_path / "x", "b", box)
    split(tmp_path / "x", "train", "a", "b")
    with pytest.raises(ValueError) as refused:
        load(tmp_path / "x", "train")
    first, second = load(tmp_path / "x", "train", reading=SKIPPING).skipped
    assert str(refused.value) == (
        f"{first}; it is the first of 2 bad boxes of x train, "
        "and --bad-boxes skip leaves out such boxes"
    )
    said = ", ".join(
        f"{side} {value if value != '' else 'missing'}"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box[1:], strict=True)
    )
    assert first == f"Annotations/a.xml: box 2 ({box[0] or 'without a class'}: {said}) {why}"
    assert second.startswith("Annotations/b.xml: box 1 (")
    scenes = load(tmp_path / "x", "train", reading=SKIPPING)
    assert [len(example.boxes) for example in scenes.examples] == [1, 0]
    assert scenes.classes == ("cat",)


def test_a_box_at_the_border_or_a_pixel_beyond_it_is_left_as_it_is(tmp_path):
    add(tmp_path, "a", ("cat", 1, 1, SIDE, SIDE), ("cat", 0, 0, SIDE + 1, SIDE))
    split(tmp_path, "train", "a")
    boxes = load(tmp_path, "train").examples[0].boxes.tolist()
    assert boxes == [[0, 0, SIDE, SIDE], [-1, -1, SIDE + 1, SIDE]]


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_where_no_size_is_annotated_the_header_of_the_picture_has_it(tmp_path, size):
    add(tmp_path, "a").write_text(xml([CAT, ("dog", 5, 5, 60, 9)], size))
    split(tmp_path, "train", "a")
    [skipped] = load(tmp_path, "train", reading=SKIPPING).skipped
    assert skipped.endswith("lies outside its picture of 40x40 pixels by 20")


def test_a_missing_annotation_or_picture_is_named_even_where_bad_boxes_are_skipped(tmp_path):
    year = voc_year(tmp_path)
    (year / "JPEGImages" / "000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="there is no picture .*JPEGImages/000003 .*jpg"):
        load(year, "test", reading=SKIPPING)
    (year / "Annotations" / "000001.xml").unlink()
    with pytest.raises(FileNotFoundError, match="there is no annotation .*Annotations/000001.xml"):
        load(year, "trainval", reading=SKIPPING)


def test_a_split_without_pictures_or_with_one_twice_is_refused(tmp_path):
    year = voc_year(tmp_path / "x")
    split(year, "none")
    split(year, "twice", "000001", "000003", "000001")
    with pytest.raises(ValueError, match="x none has no pictures"):
        load(year, "none")
    with pytest.raises(ValueError, match="x twice has the picture 000001 more than once"):
        load(year, "twice")


def test_a_folder_of_neither_form_is_refused_with_what_would_be_right(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        load(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="neither the form of PASCAL VOC .* nor that of COCO"):
        load(tmp_path, "train")
    for place in ("Annotations", "JPEGImages"):
        (tmp_path / place).mkdir()
    with pytest.raises(ValueError, match="has no split 'train'; it has all"):
        load(tmp_path, "train")
    with pytest.raises(ValueError, match="bad_boxes is error or skip, not 'ignore'"):
        load(voc_year(tmp_path), "train", reading=Reading(bad_boxes="ignore"))


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
EVIL = {
    "laughs": (
        f'<!DOCTYPE l [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>',
        "document",
    ),
    "outside": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        "declares a document type",
    ),
    "plain doctype": ('<!DOCTYPE a SYSTEM "http://x/y.dtd"><annotation/>', "document type"),
    "undeclared": ("<annotation>&x;</annotation>", "undefined entity"),
    "cut": (xml([CAT])[:-20], "no element found|unclosed"),
    "two roots": ("<annotation/><annotation/>", "junk"),
    "empty": ("", "no element"),
    "no text": ("\0\1\2", "not well-formed"),
    "unknown letters": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "encoding"),
}


@pytest.mark.parametrize("text", EVIL)
def test_damaged_or_evil_xml_is_refused_in_a_sentence_that_names_the_file(tmp_path, text):
    file = add(tmp_path, "a")
    file.write_text(EVIL[text][0])
    split(tmp_path, "train", "a")
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"a.xml is damaged: .*({EVIL[text][1]})"):
        load(tmp_path, "train", reading=SKIPPING)
    assert time.monotonic() - begun < 1


def test_an_annotation_that_is_too_large_is_not_read_and_a_deep_one_takes_no_time(tmp_path):
    file = add(tmp_path, "a")
    split(tmp_path, "train", "a")
    with file.open("wb") as opened:
        opened.truncate(1 << 30)
    with pytest.raises(ValueError, match="a.xml is no annotation: it has more than 16,777,216 byt"):
        load(tmp_path, "train")
    file.write_text("<annotation>" + "<a>" * 50_000 + "</a>" * 50_000 + "</annotation>")
    begun = time.monotonic()
    assert not len(load(tmp_path, "train").examples[0].boxes)
    assert time.monotonic() - begun < 2


# ---- real pictures ------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED, reason="needs RESIDUAL_SHARED: the blood cells of BCCD")
def test_the_blood_cells_have_two_empty_boxes_and_no_other_bad_one(tmp_path):
    unpack(Path(SHARED) / "bccd.tar.xz", tmp_path)
    with pytest.raises(ValueError, match="BloodImage_00338.* the first of 2 bad boxes"):
        load(tmp_path / "BCCD", "trainval")
    learned = load(tmp_path / "BCCD", "trainval", reading=SKIPPING)
    judged = load(tmp_path / "BCCD", "test", learned.classes)
    assert learned.classes == ("Platelets", "RBC", "WBC")
    assert (len(learned.examples), len(judged.examples)) == (292, 72)
    assert [line.split(":")[0] for line in learned.skipped] == [
        "Annotations/BloodImage_00338.xml",
        "Annotations/BloodImage_00343.xml",
    ]
    assert not judged.skipped
    assert sum(len(each.boxes) for each in (*learned.examples, *judged.examples)) == 4_888 - 2
