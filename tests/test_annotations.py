"""Annotated boxes in pixels of the upright image, by every EXIF orientation and unit."""

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_annotations import CAT, DOG, SIDE, SKIPPING, add, coco_split, described, split, voc_year
from PIL import Image
from test_detect_command import SMALL

from residual.data.decode import open_image
from residual.preparation.check_boxes import check as checked
from residual.tasks.detection import datasets
from residual.tasks.detection.annotations import read_header
from residual.tasks.detection.recipe import Reading

WIDTH, HEIGHT = 60, 40  # of the stored pixels
BOX = (8, 4, 24, 14)  # white on black in these: left, top, right, bottom
AS_STORED, AS_FRACTIONS = Reading(box_frame="stored"), Reading(box_unit="fraction")


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def bright(file: Path, orientation: int) -> None:
    """A black picture with a white box, which EXIF data turns."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, quality=95, exif=exif(orientation))


def where(file: Path) -> list[int]:
    """The white box in a picture as it is seen."""
    rows, columns = (np.asarray(open_image(file))[..., 0] > 127).nonzero()
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def one_picture(folder: Path, orientation: int, box: list[float], size: tuple[int, int]) -> Path:
    """COCO with the same picture to learn from and to be tested on."""
    for place, name in enumerate(("train", "val")):
        said = {
            "images": [{"id": 1, "file_name": "1.jpg", "width": size[0], "height": size[1]}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        coco_split(folder / "annotations" / f"{name}.json", folder / name, said)
        bright(folder / name / "1.jpg", orientation)
        with (folder / name / "1.jpg").open("ab") as file:
            file.write(bytes(place))  # no equal pictures
    return folder


CORNER = [float(side) for side in (BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1])]


# ---- the frame ----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_of_what_is_stored_is_turned_with_its_picture(orientation, tmp_path):
    folder = one_picture(tmp_path, orientation, CORNER, (WIDTH, HEIGHT))
    [example] = datasets.load(folder, "train", reading=AS_STORED).examples
    assert example.boxes.tolist() == [where(example.path)]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_picture_that_exif_turns_and_whose_boxes_are_not_turned_is_refused(orientation, tmp_path):
    folder = one_picture(tmp_path, orientation, CORNER, (WIDTH, HEIGHT))
    sentence = (
        "annotations/train.json: says 60x40 pixels, and 1.jpg has 40x60, turned upright (EXIF): "
        "--box-frame stored turns its boxes, too"
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        datasets.load(folder, "train")
    assert sentence in checked(folder).sizes
    report = checked(folder, reading=AS_STORED)
    assert (report.bad, report.warnings) == (0, [])


def test_boxes_of_what_is_seen_are_refused_as_those_of_what_is_stored(tmp_path):
    folder = one_picture(tmp_path, 6, [1, 1, 20, 50], (HEIGHT, WIDTH))
    assert datasets.load(folder, "train").examples[0].boxes.tolist() == [[1, 1, 21, 51]]
    with pytest.raises(ValueError, match="has 60x40 as it is stored: with --box-frame upright its"):
        datasets.load(folder, "train", reading=AS_STORED)


def test_where_nothing_tells_whether_boxes_are_turned_a_notice_says_so(tmp_path):
    half = one_picture(tmp_path / "half", 3, CORNER, (WIDTH, HEIGHT))
    unsized = one_picture(tmp_path / "unsized", 6, CORNER, (0, 0))
    plain = one_picture(tmp_path / "plain", 1, CORNER, (0, 0))
    for folder in (half, unsized):
        [notice] = datasets.load(folder, "train").notices
        assert notice.endswith(": 1.jpg; look at them with `residual data check --draw`, and say "
                               "--box-frame stored if they are not")  # fmt: skip
        assert notice in checked(folder).warnings
        assert not datasets.load(folder, "train", reading=AS_STORED).notices
    assert not datasets.load(plain, "train").notices


def test_pictures_of_another_size_than_annotated_are_refused_or_left_out_and_named(tmp_path):
    year = voc_year(tmp_path)
    Image.new("RGB", (SIDE // 2, SIDE)).save(year / "JPEGImages/000001.jpg")
    with pytest.raises(ValueError) as refused:
        datasets.load(year, "trainval")
    said = "Annotations/000001.xml: says 40x40 pixels, and 000001.jpg has 20x40"
    assert str(refused.value) == (
        f"{said}; it is the only annotation of another size of {year.name} trainval, and "
        "--bad-boxes skip leaves out such pictures"
    )
    left = datasets.load(year, "trainval", reading=SKIPPING)
    assert left.skipped == (said,) and [each.name for each in left.examples] == ["000002"]
    with pytest.raises(ValueError, match="000001.jpg has 20x40; so do all of .* train$"):
        datasets.load(year, "train", reading=SKIPPING)


def test_a_damaged_picture_is_left_to_the_reading_of_pictures(tmp_path):
    year = voc_year(tmp_path)
    (year / "JPEGImages/000001.jpg").write_bytes(b"\xff\xd8 cut")
    assert len(datasets.load(year, "trainval").examples[0].boxes) == 2


# ---- the header ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_header_tells_how_a_picture_is_seen(ending, orientation, tmp_path):
    file = tmp_path / f"x.{ending}"
    Image.new("RGB", (WIDTH, HEIGHT)).save(file, exif=exif(orientation))
    assert read_header(file).upright == open_image(file).size
    assert read_header(file).stored == (WIDTH, HEIGHT)


def test_exif_data_behind_the_pixels_of_a_png_are_seen(tmp_path):
    file = tmp_path / "x.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(file)
    data = b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    end = file.read_bytes().index(b"IEND") - 4
    file.write_bytes(file.read_bytes()[:end] + chunk + file.read_bytes()[end:])
    assert open_image(file).size == (HEIGHT, WIDTH)
    assert read_header(file).upright == (HEIGHT, WIDTH)


def test_the_header_is_read_without_the_pixels(tmp_path, monkeypatch):
    for ending in ("jpg", "png", "bmp", "gif"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"x.{ending}")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", None)
    for ending in ("jpg", "png", "bmp", "gif"):
        assert read_header(tmp_path / f"x.{ending}").upright == (WIDTH, HEIGHT)


# ---- the unit -----------------------------------------------------------------------------------

FRACTIONS = [0.1, 0.25, 0.5, 0.5]


def test_fractions_are_refused_with_the_option_that_reads_them_and_are_read(tmp_path):
    folder = one_picture(tmp_path / "coco", 1, FRACTIONS, (WIDTH, HEIGHT))
    why = "has only numbers from 0 to 1; if they are fractions of the picture, say --box-unit fract"
    with pytest.raises(ValueError, match=why):
        datasets.load(folder, "train")
    with pytest.raises(ValueError, match="no box of coco train is good"):
        datasets.load(folder, "train", reading=SKIPPING)
    assert why in checked(folder).boxes[0]
    assert checked(folder, reading=AS_FRACTIONS).bad == 0
    [example] = datasets.load(folder, "train", reading=AS_FRACTIONS).examples
    assert example.boxes[0].tolist() == pytest.approx([6, 10, 36, 30])


def test_fractions_in_voc_s_form_are_of_the_whole_picture(tmp_path):
    text = add(tmp_path, "a")
    text.write_text(f"<annotation>{described(('cat', 0.25, 0, 1, 0.5))}</annotation>")
    split(tmp_path, "train", "a")
    with pytest.raises(ValueError, match="--box-unit fraction"):
        datasets.load(tmp_path, "train")
    [example] = datasets.load(tmp_path, "train", reading=AS_FRACTIONS).examples
    assert example.boxes.tolist() == [[10, 0, 40, 20]]
    add(tmp_path, "a", CAT, DOG)
    with pytest.raises(ValueError, match="lies outside its picture of 40x40 pixels"):
        datasets.load(tmp_path, "train", reading=AS_FRACTIONS)


def test_fractions_of_what_is_stored_are_turned_too(tmp_path):
    box = [BOX[0] / WIDTH, BOX[1] / HEIGHT, CORNER[2] / WIDTH, CORNER[3] / HEIGHT]
    folder = one_picture(tmp_path, 6, box, (WIDTH, HEIGHT))
    reading = Reading(box_frame="stored", box_unit="fraction")
    [example] = datasets.load(folder, "train", reading=reading).examples
    assert example.boxes[0].tolist() == pytest.approx(where(example.path))


# ---- the commands -------------------------------------------------------------------------------


def test_frame_and_unit_are_kept_with_the_run_and_asked_for_again(command, tmp_path):
    folder = one_picture(tmp_path / "data", 6, CORNER, (WIDTH, HEIGHT))
    words = ("--data", folder, "--out", tmp_path / "run", "--steps", 1, *SMALL)
    refused = command("detect", "train", "resnet18", *words)
    assert refused.status == 1 and "--box-frame stored turns its boxes" in refused.complaint
    assert not (tmp_path / "run").exists()
    assert command("detect", "train", "resnet18", *words, "--box-frame", "sideways").status == 2
    answer = command("detect", "train", "resnet18", *words, "--box-frame", "stored")
    assert answer.status == 0, answer.err
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    assert (recipe["box_frame"], recipe["box_unit"]) == ("stored", "pixels")
    same = command("detect", "evaluate", tmp_path / "run", "--json", "--threads", 1)
    assert same.status == 0 and same.json["ap"]["objects"] == 1
    other = command("detect", "evaluate", tmp_path / "run", "--box-frame", "upright")
    assert other.status == 1 and "--box-frame stored" in other.complaint
    assert command("data", "check", folder).status == 1
    assert command("data", "check", folder, "--box-frame", "stored").status == 0
    (tmp_path / "run/result.json").unlink()
    resumed = command("resume", tmp_path / "run")
    assert resumed.status == 0, resumed.err
