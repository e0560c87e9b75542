"""Claims of the index of an image folder."""

import os
import shutil
from pathlib import Path

import pytest
from made_pets import noise, pets

from residual.data.decode import FORMATS
from residual.data.folder_index import (
    FORMAT_SUFFIXES,
    FolderIndex,
    index_folder,
    is_hidden,
    is_image,
    split_name,
    split_names,
)
from residual.storage import decode_name, display_name, encode_name, parse_list

VOC = "<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"
COCO = '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}'
YOLO = "0 0.5 0.5 0.25 0.125\n3 0.1 0.2 0.05 1\n"


def sizes(listed: FolderIndex) -> dict[str, int]:
    return {name: len(own) for name, own in listed.sets.items()}


def said(path: Path) -> str:
    return "; ".join(index_folder(path).ignored.sentences(path))


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        index_folder(path)
    assert "remove" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "sets"),
    [
        (("Training", "Testing"), ("train", "test")),
        (("train", "valid"), ("train", "val")),
        (("train", "validation", "test"), ("train", "val", "test")),
        (("TRAIN", "Dev"), ("train", "val")),
        (("train_set", "test_set"), ("train", "test")),
        (("train2017", "val2017"), ("train", "val")),
        (("training-images", "valid-split", "test1"), ("train", "val", "test")),
    ],
)
def test_sets_are_sets_in_every_usual_spelling(tmp_path, names, sets):
    listed = index_folder(pets(tmp_path, *names))
    assert (listed.classes, sizes(listed)) == (("cat", "dog"), dict.fromkeys(sets, 6))
    assert not listed.is_split
    for name, folder in zip(sets, names, strict=True):
        assert {each.path.split("/")[0] for each in listed.sets[name]} == {folder}


def test_the_spelling_of_the_sets_changes_nothing_but_the_paths(tmp_path):
    one, other = pets(tmp_path / "a", "train", "test"), pets(tmp_path / "b", "Training", "Testing")
    mine, theirs = index_folder(one).sets, index_folder(other).sets
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert [Path(p.path).parts[1:] for p in mine[name]] == [
            Path(p.path).parts[1:] for p in theirs[name]
        ]


@pytest.mark.parametrize("pair", [("Train", "train"), ("val", "valid"), ("Testing", "test")])
def test_two_folders_of_one_set_are_refused(tmp_path, pair):
    path = pets(tmp_path, *{"train", "test", *pair})
    assert f"has {pair[0]} and {pair[1]}, and both are names of the" in refusal(path)


def test_top_folders_that_are_all_called_like_sets_are_never_classes(tmp_path):
    path = pets(tmp_path / "flat")
    (path / "cat").rename(path / "Training")
    (path / "dog").rename(path / "Validation")
    assert "Training has no class folders" in refusal(path)


def test_a_class_that_is_divided_into_sets_is_none(tmp_path):
    for label in ("cat", "dog"):
        pets(tmp_path / label, "train", "test")
    assert "cat is no class, for it has the sets test and train; sets come first" in refusal(
        tmp_path
    )
    shutil.rmtree(tmp_path / "dog")
    assert f"only one class folder, 'cat'; it needs two, as {tmp_path / 'cat'} has" in refusal(
        tmp_path
    )


# ---- boxes and annotations ----------------------------------------------------------------------


def flat(path: Path, *names: str) -> Path:
    """Folders with pictures in them directly."""
    for i, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for j in range(3):
            noise(10 * i + j).save(path / name / f"{j}.jpg")
    return path


BOXES = [(VOC, "xml", "PASCAL VOC"), (COCO, "json", "COCO"), (YOLO, "txt", "YOLO")]


@pytest.mark.parametrize(("text", "suffix", "form"), BOXES)
def test_boxes_beside_pictures_are_recognised_with_the_command_for_them(
    tmp_path, text, suffix, form
):
    path = flat(tmp_path, "train", "valid")
    (path / "train" / f"0.{suffix}").write_text(text)
    why = refusal(path)
    assert f"boxes in {form}'s form, such as 0.{suffix}" in why
    assert "residual detect train" in why
    assert ("convert them to COCO's or PASCAL VOC's" in why) == (form == "YOLO")


@pytest.mark.parametrize(("text", "suffix", "form"), BOXES)
@pytest.mark.parametrize("names", [("images", "annots"), ("Images", "labels"), ("img", "Masks")])
def test_pictures_and_annotations_are_no_classes(tmp_path, names, text, suffix, form):
    path = flat(tmp_path, *names)
    assert f"{names[0]}/ and {names[1]}/ are pictures and annotations of them" in refusal(path)
    for file in (path / names[1]).iterdir():
        file.unlink()
    (path / names[1] / f"0.{suffix}").write_text(text)
    assert f"boxes in {form}'s form, such as {names[1]}/0.{suffix}" in refusal(path)


def test_a_class_folder_with_boxes_and_no_pictures_is_recognised(tmp_path):
    path = pets(tmp_path)
    (path / "notes").mkdir()
    assert refusal(path).endswith("notes has no pictures; a class needs some")
    (path / "notes" / "0.xml").write_text(VOC)
    assert "notes has no pictures; it holds boxes in PASCAL VOC's form" in refusal(path)


def test_boxes_beside_pictures_in_classes_are_left_out_and_named(tmp_path):
    path = pets(tmp_path / "pets", "train", "val")
    for i in range(3):
        (path / "train" / "cat" / f"{i}.xml").write_text(VOC)
    assert said(path) == (
        "left out of pets: .xml files (3, such as train/cat/0.xml); train/cat/0.xml holds boxes in "
        "PASCAL VOC's form; learn from boxes with: residual detect train NETWORK --data FOLDER"
    )


def test_a_text_of_numbers_or_words_is_no_box(tmp_path):
    path = flat(tmp_path, "train", "test")
    for name, text in (("a.txt", "0 cat\n"), ("b.json", '{"a": 1}'), ("c.xml", "<html/>")):
        (path / "train" / name).write_text(text)
    assert "boxes" not in refusal(path)


# ---- which files --------------------------------------------------------------------------------


def test_what_is_left_out_is_said_with_its_kinds(tmp_path):
    path = pets(tmp_path / "pets", "train", "val")
    assert said(path) == ""
    for file in ("train/cat/a.heic", "train/cat/b.HEIC", "val/dog/._0.jpg", "val/dog/.DS_Store"):
        (path / file).write_bytes(b"")
    noise(1).save(path / "train" / "stray.png")
    (path / "more").mkdir()
    (path / "__MACOSX" / "train" / "cat").mkdir(parents=True)
    kinds = said(path).removeprefix("left out of pets: ").split("), ")
    assert [kind.split(", such as")[0] for kind in kinds] == [
        ".heic files (2",
        "folders beside the sets (1",
        "pictures in no class folder (1",
        "hidden pictures (1",
    ]
    (path / "train" / "cat" / "notes.csv").touch()
    assert said(path).index("hidden pictures") < said(path).index(".csv files")
    assert "such as val/dog/._0.jpg" in said(path) and "such as more/" in said(path)


def test_every_usual_ending_is_a_picture(tmp_path):
    path = pets(tmp_path, "train", "val")
    for i, suffix in enumerate((".jfif", ".JPE", ".Jpeg", ".BMP", ".pbm", ".webp")):
        noise(i).convert("1" if suffix == ".pbm" else "RGB").save(
            path / "val" / "cat" / f"{i}{suffix}", **({"format": "JPEG"} if i < 2 else {})
        )
    assert sizes(index_folder(path)) == {"train": 6, "val": 12}


def odd(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def test_names_that_are_no_utf8_are_kept_and_classes_are_readable(tmp_path):
    path = pets(tmp_path, "train", "val")
    for name in ("train", "val"):
        (path / name / "cat").rename(odd(path / name, b"gl\xfchwein"))
        (path / name / "dog" / "0.jpg").rename(odd(path / name / "dog", b"\xff.jpg"))
    listed = index_folder(path)
    assert listed.classes == ("dog", r"gl\xfchwein")
    assert all((path / picture.path).is_file() for picture in listed)
    assert sizes(listed) == {"train": 6, "val": 6}


TRAIN = "train Train TRAINING train_set train-set TrainData train2017 training_images trainval"
VAL = "val valid Valid validation VAL2017 dev val_images validation_set valid-split"
TEST = "test Test testing test_set test1 test2017 test-dev2017 TESTDATA"
NONE = "trains trainer steam_train cat device devil value tests testament contest validated set"


@pytest.mark.parametrize(("names", "meant"), [(TRAIN, "train"), (VAL, "val"), (TEST, "test")])
def test_sets_are_known_in_every_usual_spelling(names, meant):
    assert [name for name in names.split() if split_name(name) != meant] == []
    assert split_name(f"{meant} set") == meant


def test_words_that_only_begin_or_end_like_sets_are_none():
    assert [name for name in NONE.split() if split_name(name)] == []


def test_sets_come_in_order_and_two_names_of_one_set_are_refused():
    assert split_names(["cat", "Testing", "Training", "valid"], "pets") == {
        "train": "Training",
        "val": "valid",
        "test": "Testing",
    }
    assert list(split_names(["test", "dev", "train"], "")) == ["train", "val", "test"]
    for pair in (["Train", "train"], ["valid", "validation"]):
        with pytest.raises(ValueError, match=f"pets has {pair[0]} and {pair[1]}, and both are"):
            split_names(["test", *pair], "pets")


def test_a_picture_is_told_by_its_ending_in_any_case_and_is_not_hidden():
    assert all(map(is_image, ("a.jpg", "a.JPEG", "a.jpe", "a.JFIF", "a.b.bmp", "\udcff.PNG")))
    assert not any(map(is_image, ("jpg", "a.txt", "._a.jpg", ".jpg", "a.jpg.partial", "a.heic")))
    assert all(map(is_hidden, ("._a.jpg", ".git", "__MACOSX", "@eaDir")))


def test_every_format_that_is_read_has_its_endings():
    assert {*FORMATS, "MPO"} == FORMAT_SUFFIXES.keys()


def test_a_name_that_is_no_utf8_is_kept_to_the_byte():
    raw = b"gl\xfchwein.jpg"
    assert encode_name(decode_name(raw)) == raw
    assert encode_name("glühwein.jpg") == "glühwein.jpg".encode()


def test_odd_names_are_shown_by_their_repr():
    for plain in ("a.jpg", "für später.jpg", "a 'b'.jpg"):
        assert display_name(plain) == plain
    for odd in ("a\n.jpg", " a", "a ", "\udcff", "a\x1b[31m", "\u202egpj.a", ""):
        assert display_name(odd) == repr(odd)


ENTRIES = ["a b", "für.jpg", "c\x0cd", "it's"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\0"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_list_reads_alike_whoever_wrote_it(end, mark):
    assert list(parse_list(mark + end.join(ENTRIES).encode())) == ENTRIES
    assert list(parse_list(mark + "".join(each + end for each in ENTRIES).encode())) == ENTRIES
    assert list(parse_list(mark + (end + end).join(ENTRIES).encode())) == ENTRIES


def test_a_list_may_be_quoted_indented_and_in_utf16():
    assert list(parse_list(b'"a b"\r\n  \'c\'\t\n"\n')) == ["a b", "c", '"']
    assert list(parse_list("\ufeffa b\r\nfür.jpg\r\n".encode("utf-16-le"))) == ["a b", "für.jpg"]
    assert list(parse_list(b"a\xff\n")) == ["a\udcff"]
    assert list(parse_list(b" a\0b\n")) == [" a", "b"]
