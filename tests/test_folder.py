"""Claims of image folders."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EXACT, draw_pictures
from PIL import Image

from residual.data import folder as module
from residual.data.datasets import fingerprint
from residual.data.decode import decode
from residual.data.folder import cache_key, generated_split, load_folder, open_folder
from residual.data.folder_index import index_folder

SIZE = 8


def picture(file: Path, number: int, side: int = SIZE) -> None:
    """A picture of noise that no other number gives."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(file)


def pets(path: Path, *sets: str, each: int = 6) -> Path:
    """A folder of three classes, with these sets or plain."""
    for s, name in enumerate(sets or ("",)):
        for c, kind in enumerate(("cat", "Dog", "ant")):
            for i in range(each):
                picture(path / name / kind / f"{i}.png", 100 * s + 10 * c + i)
    return path


def read(path: Path, root: Path, **settings):
    return load_folder(path, SIZE, root, **settings)


def asked(path: Path, root: Path) -> int:
    """How many pictures are decoded when the folder is read."""
    reports: list[tuple[int, int]] = []
    read(path, root, progress=lambda *report: reports.append(report))
    return reports[-1][1] if reports else 0


def equal(a, b) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("train", "val", "test")]
    return (a.name, a.fingerprint, a.classes) == (b.name, b.fingerprint, b.classes) and all(
        one is other is None
        or (
            torch.equal(one.pixels, other.pixels)
            and torch.equal(one.labels, other.labels)
            and one.damaged == other.damaged
        )
        for one, other in pairs
    )


@pytest.mark.parametrize("sets", [("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_each_set_has_its_pictures_by_class_and_name(tmp_path, sets):
    path = pets(tmp_path / "pets", *sets)
    data = read(path, tmp_path)
    assert (data.name, data.classes) == ("pets", ("Dog", "ant", "cat"))
    for name in ("train", "val", "test"):
        if name not in sets:
            assert getattr(data, name) is None
            continue
        files = [path / name / kind / f"{i}.png" for kind in data.classes for i in range(6)]
        assert torch.equal(data.split(name).pixels, torch.stack([decode(file) for file in files]))
        assert data.split(name).labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (generated_split(path), data.notices) == ({}, ())


def test_pictures_of_another_size_are_resized_by_the_one_resize(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    picture(path / "train" / "ant" / "0.png", 0, side=50)
    expected = decode(path / "train" / "ant" / "0.png", (SIZE, SIZE))
    for data in (read(path, tmp_path), read(path, tmp_path)):
        assert torch.equal(data.train.pixels[6], expected)
        assert data.notices == ("1 of 36 pictures were resized to 8x8",)


def test_only_pictures_are_taken_and_hidden_files_are_not(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    before = read(path, tmp_path)
    (path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (path / "train" / "cat" / ".hidden.png").write_text("nor this")
    (path / "train" / ".cache").mkdir()
    (path / "README.md").write_text("nor this")
    assert equal(read(path, tmp_path), before)
    picture(path / "train" / "cat" / "more" / "X.JPeG", 1)
    assert len(read(path, tmp_path).train) == len(before.train) + 1


# ---- a plain folder -----------------------------------------------------------------------------


def test_a_plain_folder_is_split_once_a_fifth_of_each_class(tmp_path):
    path = pets(tmp_path / "pets", each=10)
    split = generated_split(path)
    assert {name: len(files) for name, files in split.items()} == {"train": 24, "test": 6}
    every = sorted(str(file.relative_to(path)) for file in path.rglob("*.png"))
    assert sorted(split["train"] + split["test"]) == every
    data = read(path, tmp_path)
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for name, files in split.items():
        shown = torch.stack([decode(path / file) for file in files])
        assert torch.equal(data.split(name).pixels, shown)
    shutil.copytree(path, tmp_path / "elsewhere")
    assert generated_split(tmp_path / "elsewhere") == split


def test_a_class_of_two_pictures_has_one_in_each_set(tmp_path):
    data = read(pets(tmp_path / "pets", each=2), tmp_path)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1, 2]


def test_a_class_may_be_called_train(tmp_path):
    path = pets(tmp_path / "vehicles")
    (path / "cat").rename(path / "train")
    assert read(path, tmp_path).classes == ("Dog", "ant", "train")


# ---- the same answer, sooner --------------------------------------------------------------------


def test_the_number_of_workers_changes_nothing(tmp_path):
    path = pets(tmp_path / "pets", "train", "test", each=50)
    (path / "train" / "cat" / "7.png").write_bytes(b"")
    one, *others = [read(path, tmp_path / str(n), workers=n) for n in (0, 1, 4)]
    assert all(equal(one, other) for other in others)
    assert len(one.train) == 149


def test_pictures_are_decoded_once(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    (path / "test" / "ant" / "2.png").write_text("no picture")
    fresh = read(path, tmp_path)
    assert asked(path, tmp_path) == 0
    assert equal(read(path, tmp_path), fresh)
    assert len(list((tmp_path / "folders").iterdir())) == 1


def test_what_changes_in_the_folder_is_decoded_anew(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    marks = {read(path, tmp_path).fingerprint}
    file = path / "train" / "cat" / "3.png"
    raw, times = file.read_bytes(), file.stat()
    picture(file, 999)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000_000))
    assert len(file.read_bytes()) == len(raw)  # noise does not compress: only the time tells
    assert asked(path, tmp_path) == 36
    marks.add(read(path, tmp_path).fingerprint)
    file.rename(path / "train" / "Dog" / "3b.png")
    marks.add(read(path, tmp_path).fingerprint)
    assert len(marks) == 3
    assert load_folder(path, SIZE + 1, tmp_path).train.pixels.shape[-1] == SIZE + 1


def test_two_folders_that_differ_in_their_contents_alone_are_told_apart(tmp_path):
    paths = [pets(tmp_path / name, "train", "test") for name in ("a", "b")]
    for path in paths:
        for file in path.rglob("*.png"):
            Image.open(file).save(file.with_suffix(".bmp"))
            file.unlink()
    picture(paths[1] / "train" / "cat" / "0.bmp", 999)
    for path in paths:
        for file in path.rglob("*.bmp"):
            os.utime(file, (0, 0))
    a, b = (read(path, tmp_path) for path in paths)
    assert a.fingerprint != b.fingerprint
    assert not torch.equal(a.train.pixels, b.train.pixels)


def test_a_damaged_copy_is_made_again(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    fresh = read(path, tmp_path)
    [file] = (tmp_path / "folders").iterdir()
    raw = file.read_bytes()
    middle = len(raw) // 2
    flipped = raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]
    renamed = raw.replace(b"Dog", b"Dig")
    for spoilt in (b"", b"text", raw[:-100], flipped, renamed):
        file.write_bytes(spoilt)
        assert asked(path, tmp_path) == 36
        assert asked(path, tmp_path) == 0
    assert equal(read(path, tmp_path), fresh)


def test_without_room_for_a_copy_the_pictures_are_read_all_the_same(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    fresh = read(path, tmp_path / "root")
    (tmp_path / "file").touch()
    assert equal(read(path, tmp_path / "file"), fresh)
    assert not list((tmp_path / "root" / "folders").glob("*.partial"))


def test_a_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    mark = read(path, tmp_path).fingerprint
    assert mark == fingerprint(
        (f"{name}/{kind}/{i}.png", kind, len(raw), hashlib.sha256(raw).hexdigest())
        for name in ("train", "test")
        for kind in ("cat", "Dog", "ant")
        for i in range(6)
        for raw in [(path / name / kind / f"{i}.png").read_bytes()]
    )
    shutil.copytree(path, tmp_path / "elsewhere" / "animals")
    moved = read(tmp_path / "elsewhere" / "animals", tmp_path)
    assert (moved.name, moved.fingerprint) == ("animals", mark)


def test_a_very_large_folder_is_marked_without_reading_every_byte(tmp_path, monkeypatch):
    path = pets(tmp_path / "pets", "train", "test")
    monkeypatch.setattr(module, "QUICK_ABOVE_BYTES", 1_000)
    assert read(path, tmp_path).fingerprint.startswith("quick-")


def test_progress_ends_with_everything_done(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    reports: list[tuple[int, int]] = []
    read(path, tmp_path, workers=2, progress=lambda *report: reports.append(report))
    assert reports[-1] == (36, 36)
    assert reports == sorted(reports)


# ---- what is refused ----------------------------------------------------------------------------


def test_damaged_pictures_are_named_with_their_class(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    (path / "test" / "cat" / "1.png").write_bytes(b"")
    (path / "test" / "ant" / "2.png").write_text("a text named png")
    whole = (path / "train" / "Dog" / "0.png").read_bytes()
    (path / "train" / "Dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    (path / "train" / "cat" / "9.png").symlink_to("nothing.png")
    (path / "train" / "cat" / "99.png").symlink_to("99.png")
    data = read(path, tmp_path)
    assert data.test.damaged == (("test/ant/2.png", 1), ("test/cat/1.png", 2))
    links = ("train/cat/9.png", 2), ("train/cat/99.png", 2)
    assert data.train.damaged == (("train/Dog/0.png", 0), *links)
    assert (len(data.test), len(data.train)) == (16, 17)
    assert data.test.labels.tolist() == [0] * 6 + [1] * 5 + [2] * 5
    kept = torch.stack([decode(path / "test" / "ant" / f"{i}.png") for i in (0, 1, 3, 4, 5)])
    assert torch.equal(data.test.pixels[6:11], kept)


def refused(path: Path, root: Path, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(path, root)


def test_an_empty_class_folder_is_refused_for_training_and_not_for_testing(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    shutil.rmtree(path / "test" / "cat")
    shutil.rmtree(path / "test" / "ant")
    (path / "test" / "ant").mkdir()
    assert read(path, tmp_path).test.labels.tolist() == [0] * 6
    for file in (path / "train" / "ant").iterdir():
        file.unlink()
    refused(path, tmp_path, r"train/ant has no pictures")
    shutil.rmtree(path / "test" / "Dog")
    refused(path, tmp_path, r"pets/test has no pictures")


def test_a_class_that_training_lacks_is_named(tmp_path):
    path = pets(tmp_path / "pets", "train", "test")
    (path / "test" / "cat").rename(path / "test" / "cats")
    refused(path, tmp_path, r"pets/test has a class 'cats' that train/ lacks; .* Dog, ant, cat")


def test_a_folder_that_is_not_one_of_pictures_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        read(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, r"empty has no class folders")
    (tmp_path / "half" / "train").mkdir(parents=True)
    (tmp_path / "half" / "test").mkdir()
    refused(tmp_path / "half", tmp_path, r"half/train has no class folders")
    picture(tmp_path / "one" / "cat" / "1.png", 1)
    refused(tmp_path / "one", tmp_path, r"one has only one class folder, 'cat'")
    picture(tmp_path / "one" / "dog" / "1.png", 1)
    refused(tmp_path / "one", tmp_path, r"cat has one picture, and a class that is split needs two")
    refused(pets(tmp_path / "b", "train"), tmp_path, r"b has train/ but neither test/ nor val/")
    hollow = pets(tmp_path / "c")
    for file in (hollow / "cat").iterdir():
        file.unlink()
    refused(hollow, tmp_path, r"c/cat has no pictures")


def test_a_folder_without_one_whole_picture_is_refused(tmp_path):
    path = pets(tmp_path / "pets", "train", "test", each=1)
    for file in path.rglob("*.png"):
        file.write_bytes(b"")
    refused(path, tmp_path, r"pets has no picture to learn from that can be read")


def odd(place: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(place) + b"/" + name))


@pytest.fixture(scope="module")
def oddities(tmp_path_factory) -> Path:
    """A folder, a class and pictures that are no UTF-8, with one damaged picture in each set."""
    path = odd(tmp_path_factory.mktemp("odd"), b"donn\xe9es")
    draw_pictures(path, 10, ("cat", "dog"))
    for name in ("train", "test"):
        (path / name / "dog" / "0.png").rename(odd(path / name / "dog", b"\xff\n.png"))
        odd(path / name / "cat", b"\xfe.png").write_bytes(b"")
        (path / name / "cat").rename(odd(path / name, b"b\xeate"))
    return path


def test_a_folder_of_odd_names_is_checked_trained_on_evaluated_and_predicted(
    command, oddities, tmp_path
):
    run, words = tmp_path / "run", ("--data", oddities, "--root", tmp_path / "root")
    checked = command("data", "check", oddities)
    assert checked.status == 1
    assert r"'train/b\udceate/\udcfe.png' (class b\xeate): it has no bytes" in checked.out
    sets = ("--set", "batch=8", "--set", "norm_group=8", "--bad-images", "skip")
    done = command("train", "resnet8", *words, "--steps", 3, *sets, "--out", run, "--json", *EXACT)
    assert done.status == 0, done.err
    assert done.json["seen"] == 21
    assert json.loads((run / "classes.json").read_text()) == [r"b\xeate", "dog"]
    for again in (("resume", run, "--json"), ("evaluate", run, "--json", "--threads", 1)):
        answer = command(*again)
        assert (answer.status, answer.json["seen"]) == (0, 21), answer.err
    assert r"'test/b\udceate/\udcfe.png' is damaged and counts as wrong" in answer.err
    told = command("predict", run, odd(oddities / "test" / "dog", b"\xff\n.png"), "--threads", 1)
    assert told.status == 0, told.err
    assert told.out.startswith("'") and r"\udcff\n.png': " in told.out
    assert command("report", run).status == 0


def test_photographs_of_odd_names_are_read_and_named(oddities, tmp_path):
    data = open_folder(oddities, tmp_path)
    names = [data.train.name(i) for i in range(len(data.train))]
    assert names == [picture.path for picture in index_folder(oddities).sets["train"]]
    assert data.train.image(names.index("train/dog/\udcff\n.png")).size == (32, 32)
    assert data.fingerprint == load_folder(oddities, 8, tmp_path).fingerprint


def test_a_fingerprint_and_a_key_are_over_the_bytes_of_the_names(oddities):
    assert fingerprint([("\udcff", "a", 1, "")]) != fingerprint([("\udcfe", "a", 1, "")])
    assert fingerprint([("\u00ff", "a", 1, "")]) != fingerprint([("\udcff", "a", 1, "")])
    assert len(cache_key(oddities, index_folder(oddities), 8)) == 64
