"""`data check` of class folders: every bad file is named, with its reason."""

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_pets import noise, pets
from PIL import Image

from residual.data.decode import DamagedImage, inspect_image, open_image
from residual.preparation.check import check

HTML = "\n <!DOCTYPE html><html><body>404</body></html>"


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG whose header speaks of side x side pixels, and little else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


WHOLE = saved(noise(7, side=64), "JPEG", quality=95)
CORPUS = {  # file: (its bytes, the kind of its damage, a word of the reason)
    "zero.jpg": (b"", "empty", "no bytes"),
    "half.jpg": (WHOLE[: len(WHOLE) // 2], "damaged", "truncated"),
    "header.jpg": (WHOLE[:3], "damaged", "header"),
    "half.png": (saved(noise(8), "PNG")[:900], "damaged", "truncated"),
    "zeros.jpg": (bytes(3000), "damaged", "zero"),
    "text.jpg": (b"not found\n", "mislabelled", "text"),
    "umlaut.jpg": ("für später".encode(), "mislabelled", "text"),
    "page.jpg": (HTML.encode(), "mislabelled", "HTML"),
    "telephone.jpg": (b"\0\0\0\x18ftypheic" + bytes(99), "mislabelled", "HEIC"),
    "archive.jpg": (b"PK\3\4" + bytes(range(200)), "mislabelled", "no picture"),
    "bomb.png": (bomb(9_500), "oversized", "9500x9500"),
    "great bomb.png": (bomb(60_000), "oversized", "89,478,485"),
}


def test_each_bad_file_is_named_with_its_class_and_the_reason(tmp_path):
    path = pets(tmp_path, "train", "val")
    for file, (raw, *_) in CORPUS.items():
        (path / "train" / "cat" / file).write_bytes(raw)
    report = check(path, workers=2)
    found = {p.path: p for p in report.damaged}
    assert found.keys() == {f"train/cat/{file}" for file in CORPUS}
    for file, (_, kind, word) in CORPUS.items():
        problem = found[f"train/cat/{file}"]
        assert (problem.label, problem.kind) == ("cat", kind), problem
        assert word in problem.reason, problem
    assert report.total == 12 + len(CORPUS)
    assert report.sets == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 3, "dog": 3}}


def test_what_is_no_regular_file_is_unreadable_and_is_not_waited_for(tmp_path):
    path = pets(tmp_path, "train", "val")
    cat = path / "train" / "cat"
    (cat / "gone.jpg").symlink_to("nowhere.jpg")
    (cat / "itself.jpg").symlink_to("itself.jpg")
    (cat / "up").symlink_to("..")
    os.mkfifo(cat / "pipe.jpg")
    reasons = {Path(p.path).name: (p.kind, p.reason) for p in check(path).damaged}
    assert reasons == {
        "gone.jpg": ("unreadable", "it is a link to nothing"),
        "itself.jpg": ("unreadable", "too many levels of symbolic links"),
        "up": ("unreadable", "it is a link to a folder above it"),
        "pipe.jpg": ("unreadable", "it is no regular file"),
    }


def test_a_file_that_may_not_be_read_is_unreadable(tmp_path, monkeypatch):
    path = pets(tmp_path, "train", "val")
    read = Path.read_bytes

    def denied(file: Path) -> bytes:  # the superuser is never denied anything
        if file.name == "1.jpg":
            raise PermissionError(13, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", denied)
    report = check(path)
    assert {(p.kind, p.reason) for p in report.damaged} == {("unreadable", "permission denied")}
    assert len(report.damaged) == 4
    monkeypatch.setattr(os, "scandir", refusing(os.scandir, "cat"))
    assert "val/cat" in {p.path for p in check(path).damaged}


def refusing(scandir, name: str):
    def scan(folder="."):
        if Path(folder).name == name:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    return scan


def test_a_folder_named_like_a_picture_is_searched_and_mentioned(tmp_path):
    path = pets(tmp_path, "train", "val")
    noise(5).save(path / "train" / "cat" / "a.png")
    (path / "train" / "cat" / "more.jpg").mkdir()
    (path / "train" / "cat" / "a.png").rename(path / "train" / "cat" / "more.jpg" / "a.png")
    report = check(path)
    assert (report.folders, report.damaged) == (["train/cat/more.jpg"], [])
    assert report.sets["train"]["cat"] == 4


def test_a_cut_or_spoilt_jpeg_is_damaged_in_a_check_where_it_is_damaged_in_training():
    def verdict(reader, raw: bytes) -> str:
        try:
            reader(raw)
        except DamagedImage as error:
            return str(error)
        return "whole"

    draw, verdicts = np.random.default_rng(0), []
    for progressive in (False, True):
        raw = saved(noise(1, side=96), "JPEG", progressive=progressive)
        for _ in range(60):
            spoilt = bytearray(raw)
            for place in draw.integers(2, len(raw), 4):
                spoilt[place] = draw.integers(256)
            for each in (raw[: draw.integers(1, len(raw))], bytes(spoilt)):
                verdicts.append(verdict(inspect_image, each))
                assert verdicts[-1] == verdict(open_image, each)
    assert 20 < verdicts.count("whole") < 200


# ---- what is changed, and what is worth a word --------------------------------------------------


def test_what_is_changed_in_a_picture_is_counted(tmp_path):
    path = pets(tmp_path, "train", "val")
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [noise(2).quantize()]}
    deep = Image.fromarray(np.full((9, 9), 3000, np.uint16))
    added: dict[str, tuple[Image.Image, dict[str, object], set[str]]] = {
        "a.jpg": (noise(1), {"exif": turned}, {"turned upright (EXIF)"}),
        "a.png": (noise(2), {"exif": turned}, {"turned upright (EXIF)"}),
        "b.jpg": (noise(1).convert("CMYK"), {}, {"CMYK to RGB"}),
        "b.png": (deep, {}, {"more than 8 bits scaled to 8", "grey to RGB"}),
        "b.tif": (deep.convert("F"), {}, {"more than 8 bits scaled to 8", "grey to RGB"}),
        "c.png": (noise(3).convert("RGBA"), {}, {"transparency shown on white"}),
        "d.png": (noise(4).quantize(), {}, {"palette to RGB"}),
        "e.gif": (noise(1).quantize(), frames, {"palette to RGB", "first of several frames taken"}),
        "f.jpg": (noise(5).convert("L"), {}, {"grey to RGB"}),
        "g.png": (noise(6), {}, set()),
    }
    expected: dict[str, int] = {}
    for file, (picture, options, changes) in added.items():
        picture.save(path / "train" / "cat" / file, **options)
        for change in changes:
            expected[change] = expected.get(change, 0) + 1
    report = check(path)
    assert (report.converted, report.damaged, report.misnamed) == (expected, [], {})


def test_the_high_bytes_of_a_coloured_picture_of_16_bits_are_a_change():
    rows = zlib.compress(b"".join(b"\0" + bytes(4 * 6) for _ in range(4)))
    raw = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    ):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        raw += struct.pack(">I", len(data)) + kind + data + crc
    assert inspect_image(raw) == ("PNG", ("more than 8 bits scaled to 8",))


def test_a_picture_of_another_format_than_its_name_is_a_note_and_no_damage(tmp_path):
    path = pets(tmp_path, "train", "val")
    noise(9).save(path / "train" / "cat" / "really.jpg", "PNG")
    report = check(path)
    assert (report.misnamed, report.damaged) == ({"train/cat/really.jpg": "PNG"}, [])


def test_files_that_training_leaves_out_are_mentioned(tmp_path):
    path = pets(tmp_path, "train", "val")
    for file in ("train/cat/notes.txt", "train/cat/.hidden", "train/README.md", "train/cat/4.heic"):
        (path / file).write_text("no picture")
    noise(3).save(path / "train" / "stray.jpg")
    report = check(path)
    assert report.others == ["train/cat/4.heic", "train/cat/notes.txt"]
    assert (report.outside, report.total, report.damaged) == (["train/stray.jpg"], 12, [])


# ---- warnings -----------------------------------------------------------------------------------


def test_a_good_folder_gives_no_warning(tmp_path):
    report = check(pets(tmp_path, "train", "val", "test"))
    assert (report.warnings, report.damaged, report.total) == ([], [], 18)


def test_very_unequal_classes_are_named_with_their_ratio(tmp_path):
    path = pets(tmp_path, "train", "val", each=6)
    for i in range(6, 12):
        noise(50 + i).save(path / "train" / "cat" / f"{i}.jpg")
    for i in range(1, 6):
        (path / "train" / "dog" / f"{i}.jpg").unlink()
    [warning] = check(path).warnings
    assert warning == (
        "the classes of train are very unequal: cat has 12 pictures and dog 1, 12 to 1"
    )


def test_a_class_that_a_set_lacks_or_whose_pictures_are_all_damaged_is_named(tmp_path):
    path = pets(tmp_path, "train", "val", "test")
    shutil.rmtree(path / "val" / "dog")
    for file in (path / "test" / "cat").iterdir():
        file.write_text("no picture")
    assert check(path).warnings == [
        "classes without a whole picture in val (1): dog",
        "classes without a whole picture in test (1): cat",
    ]


def test_equal_pictures_are_found_across_sets_and_across_classes(tmp_path):
    path = pets(tmp_path, "train", "val", "test")
    shutil.copy(path / "train" / "cat" / "0.jpg", path / "val" / "cat" / "again.jpg")
    shutil.copy(path / "test" / "dog" / "1.jpg", path / "train" / "cat" / "again.jpg")
    shutil.copy(path / "train" / "dog" / "2.jpg", path / "train" / "cat" / "dog.jpg")
    for i in (1, 2):
        (path / "train" / "dog" / f"empty{i}.jpg").touch()
    leak, contrary = check(path).warnings
    assert leak.startswith(
        "equal pictures in more than one set, so that test images are trained on"
    )
    assert leak.endswith(
        " (2): train/cat/0.jpg = val/cat/again.jpg, train/cat/again.jpg = test/dog/1.jpg"
    )
    assert contrary.endswith("in more than one class (1): train/cat/dog.jpg = train/dog/2.jpg")


def test_equal_pictures_in_a_plain_folder_are_found(tmp_path):
    path = pets(tmp_path)
    for name, copy in (("0", "9"), ("1", "1b")):
        shutil.copy(path / "cat" / f"{name}.jpg", path / "cat" / f"{copy}.jpg")
    report = check(path)  # groups in the order of their second pictures
    assert report.copies == [["cat/1.jpg", "cat/1b.jpg"], ["cat/0.jpg", "cat/9.jpg"]]
    assert report.warnings == [
        "equal pictures more than once in their class (2): cat/1.jpg = cat/1b.jpg, "
        "cat/0.jpg = cat/9.jpg"
    ]


# ---- layouts, and how it is done ----------------------------------------------------------------


def test_more_is_checked_than_training_accepts_and_the_reason_is_given(tmp_path):
    report = check(pets(tmp_path / "a", "val"))
    assert report.sets == {"val": {"cat": 3, "dog": 3}}
    assert "has val/ but no train/" in report.warnings[0]
    assert report.refusal in report.warnings[0]
    report = check(pets(tmp_path / "b"))
    assert (report.sets, report.warnings) == ({"all": {"cat": 3, "dog": 3}}, [])
    assert not report.refusal
    (tmp_path / "b" / "dog").rename(tmp_path / "elsewhere")
    assert "only one class folder" in check(tmp_path / "b").warnings[0]


def test_a_folder_beside_the_sets_is_pointed_out(tmp_path):
    path = pets(tmp_path, "train", "val", "more")
    assert check(path).warnings == ["more/ is none of train, val, test and was not looked at"]


def test_a_place_without_classes_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        check(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no class folders; it needs one folder for each"):
        check(tmp_path)


def test_the_number_of_workers_changes_nothing_and_progress_ends_with_everything(tmp_path):
    path = pets(tmp_path, "train", "val", each=20)
    for i in range(0, 20, 3):
        (path / "train" / "dog" / f"{i}.jpg").write_text(HTML)
    reports: list[tuple[int, int]] = []
    one = check(path, 1, lambda *report: reports.append(report))
    assert one == check(path, 4)
    assert reports[-1] == (80, 80)
    assert reports == sorted(reports)
