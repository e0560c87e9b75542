"""ImageNet is sorted from any of its usual forms, resumed after a stop, and compared."""

import errno
import os
from hashlib import md5

import pytest
from made_imagenet import (
    KIT,
    SMALL,
    VAL,
    WORDS,
    assert_sorted,
    content,
    flat,
    kaggle,
    official,
    state,
    tar,
    write,
)
from torchvision.datasets.imagenet import ARCHIVE_META

from residual.preparation import archives as module
from residual.preparation.archives import STATE
from residual.preparation.imagenet import imagenet
from residual.storage import read_json


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch, quick_reader):
    monkeypatch.setattr(os, "sync", lambda: None)


# ---- from what it is made -----------------------------------------------------------------------


def test_the_official_archives_are_sorted(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    archives = official(source)
    before = state(source)
    report = imagenet(source, target, SMALL, archives)
    assert_sorted(target, "train", "val")
    assert report.complete and not report.superfluous
    assert (report.pictures, report.classes) == ({"train": 9, "val": 6}, {"train": 3, "val": 3})
    assert read_json(target / "classes.json") == WORDS
    assert state(source) == before


def test_a_flat_validation_folder_is_sorted_by_the_devkit_packed_or_not(tmp_path):
    flat(tmp_path / "a")
    report = imagenet(tmp_path / "a", None, SMALL)
    assert report.folder == str(tmp_path / "a" / "imagenet")
    assert_sorted(tmp_path / "a" / "imagenet", "val")
    assert report.complete and report.pictures == {"val": 6}
    archives = official(tmp_path / "b")
    for split in ("train", "val"):
        (tmp_path / "b" / archives[split][0]).unlink()
    write(tmp_path / "b" / "val", {file: content(file) for file in VAL})
    imagenet(tmp_path / "b", None, SMALL, archives)
    assert_sorted(tmp_path / "b" / "imagenet", "val")


def test_the_layout_of_kaggle_is_sorted_with_links_to_the_same_files(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    kaggle(source)
    report = imagenet(source, target, SMALL)
    assert_sorted(target, "train", "val")
    assert report.complete
    assert read_json(target / "classes.json") == WORDS
    one = "train/n00000001/n00000001_0.JPEG"
    assert (target / one).samefile(source / "ILSVRC" / "Data" / "CLS-LOC" / one)


def test_where_no_links_can_be_made_files_are_copied(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    kaggle(tmp_path / "source")
    imagenet(tmp_path / "source", tmp_path / "target", SMALL)
    assert_sorted(tmp_path / "target", "train", "val")
    one = "train/n00000001/n00000001_0.JPEG"
    original = tmp_path / "source" / "ILSVRC" / "Data" / "CLS-LOC" / one
    assert not (tmp_path / "target" / one).samefile(original)


def test_a_link_in_the_source_is_followed(tmp_path):
    kaggle(tmp_path / "source")
    file = tmp_path / "source/ILSVRC/Data/CLS-LOC/train/n00000001/n00000001_0.JPEG"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    imagenet(tmp_path / "source", tmp_path / "target", SMALL)
    assert not (tmp_path / "target" / "train" / "n00000001" / file.name).is_symlink()
    assert_sorted(tmp_path / "target", "train", "val")


def test_a_sorted_tree_is_only_compared(tmp_path):
    kaggle(tmp_path / "source")
    imagenet(tmp_path / "source", tmp_path / "tree", SMALL)
    (tmp_path / "tree" / STATE).unlink()
    before = state(tmp_path / "tree")
    for target in (None, tmp_path / "tree"):
        report = imagenet(tmp_path / "tree", target, SMALL)
        assert report.complete and report.folder == str(tmp_path / "tree")
    assert state(tmp_path / "tree") == before


def test_a_sorted_train_and_a_flat_val_become_one_tree(tmp_path):
    kaggle(tmp_path / "source")
    place = tmp_path / "source" / "ILSVRC" / "Data" / "CLS-LOC"
    for name in ("train", "val"):
        (place / name).rename(tmp_path / "source" / name)
    report = imagenet(tmp_path / "source", None, SMALL)
    assert_sorted(tmp_path / "source" / "imagenet", "train", "val")
    assert report.complete


# ---- interruptions ------------------------------------------------------------------------------


class Killed(BaseException):
    """As sudden as a signal."""


@pytest.mark.parametrize("make", [official, kaggle])
@pytest.mark.parametrize("after", range(0, 15, 2))
def test_an_interrupted_preparation_goes_on_and_does_nothing_twice(
    tmp_path, monkeypatch, make, after
):
    archives = make(tmp_path / "source") or ARCHIVE_META
    copy, done = module.copy, []

    def counted(item, target):
        new = not (target / item.path).exists()
        copy(item, target)
        done.extend([item.path] * new)
        if len(done) == after + 1 and new:
            raise Killed

    monkeypatch.setattr(module, "copy", counted)
    with pytest.raises(Killed):
        imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)
    report = imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)
    assert report.complete
    assert_sorted(tmp_path / "target", "train", "val")
    assert len(done) == len(set(done)) == 15


def test_what_is_marked_as_whole_is_not_opened_again(tmp_path, monkeypatch):
    archives = official(tmp_path / "source")
    imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)
    copied: list[str] = []
    copy = module.copy
    monkeypatch.setattr(module, "copy", lambda item, to: (copied.append(item.path), copy(item, to)))
    monkeypatch.setattr(module.hashlib, "md5", None)  # nor is an archive that was checked
    (tmp_path / "target" / "train" / "n00000002" / "n00000002_1.JPEG").unlink()
    report = imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)
    assert copied == [f"train/n00000002/n00000002_{i}.JPEG" for i in range(4)]
    assert report.complete
    (tmp_path / "target" / STATE).write_text("damaged")
    monkeypatch.undo()
    assert imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives).complete


def test_a_half_written_picture_is_written_anew_and_the_original_is_not_touched(tmp_path):
    kaggle(tmp_path / "source")
    before = state(tmp_path / "source")
    folder = tmp_path / "target" / "train" / "n00000001"
    folder.mkdir(parents=True)
    (folder / "n00000001_0.JPEG").write_bytes(b"half")
    original = tmp_path / "source/ILSVRC/Data/CLS-LOC/train/n00000001/n00000001_1.JPEG"
    (folder / ".n00000001_1.JPEG.partial").hardlink_to(original)  # killed before the renaming
    imagenet(tmp_path / "source", tmp_path / "target", SMALL)
    assert_sorted(tmp_path / "target", "train", "val")
    assert state(tmp_path / "source") == before


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    archives = official(tmp_path / "source")
    copied: list[object] = []
    copyfileobj = module.shutil.copyfileobj

    def full(original, opened, length):
        copyfileobj(original, opened, length)
        copied.append(opened)
        if len(copied) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match=r"n00000002_2\.JPEG: No space left on device; all that was"):
        imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)
    assert not list(tmp_path.rglob("*.partial"))
    assert len(list((tmp_path / "target").rglob("*.JPEG"))) == 5
    assert imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives).complete
    assert len(copied) == 16


def test_progress_ends_with_every_picture(tmp_path):
    archives = official(tmp_path / "source")
    reports: dict[str, list[tuple[int, int]]] = {}

    class Counter:
        def __init__(self, what: str) -> None:
            self.reports = reports.setdefault(what, [])

        def __enter__(self):
            return lambda *report: self.reports.append(report)

        def __exit__(self, *_: object) -> None: ...

    for _ in range(2):
        imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives, Counter)
        assert reports["preparing pictures"][-1] == (15, 15)
    assert [what for what in reports if "ILSVRC2012_img_train.tar" in what]


# ---- what is wrong ------------------------------------------------------------------------------


def test_what_is_missing_and_what_is_superfluous_is_named(tmp_path):
    archives = official(tmp_path / "source")
    target = tmp_path / "target"
    imagenet(tmp_path / "source", target, SMALL, archives)
    write(tmp_path / "kit", KIT)
    (target / "ILSVRC2012_devkit_t12").symlink_to(tmp_path / "kit" / "ILSVRC2012_devkit_t12")
    (target / "train" / "n00000002" / "n00000002_1.JPEG").unlink()
    (target / "train" / "n00000003" / "another.JPEG").touch()
    (target / "train" / "stray.JPEG").touch()
    wrong = "ILSVRC2012_val_00000002.JPEG"  # of the first class
    (target / "val" / "n00000001" / wrong).rename(target / "val" / "n00000002" / wrong)
    (target / "val" / "n00000003").rename(target / "val" / "hens")
    report = imagenet(target, None, SMALL)
    assert not report.complete
    assert report.missing == [
        "train/n00000002/: 3 pictures, not 4",
        "val/n00000003/",
        f"val/n00000001/{wrong}",
    ]
    assert report.superfluous == [
        "train/stray.JPEG",
        "train/n00000003/: 3 pictures, not 2",
        "val/hens/",
        f"val/n00000002/{wrong}",
    ]


def test_without_the_devkit_a_sorted_tree_is_compared_by_numbers(tmp_path):
    kaggle(tmp_path / "source")
    target = tmp_path / "target"
    imagenet(tmp_path / "source", target, SMALL)
    (target / "train" / "n00000001" / "n00000001_0.JPEG").unlink()
    (target / "val" / "n00000002" / "ILSVRC2012_val_00000001.JPEG").unlink()
    report = imagenet(target, None, SMALL)
    assert (report.complete, report.pictures) == (False, {"train": 8, "val": 5})
    assert report.missing == ["val/n00000002/: 1 pictures, not 2"]
    report = imagenet(target, None, SMALL | {"classes": 5, "val": 10})
    assert "train/: 2 classes" in report.missing


def test_an_archive_with_another_checksum_is_refused_before_anything_is_made(tmp_path):
    archives = official(tmp_path / "source")
    archives["train"] = (archives["train"][0], "0" * 32)
    with pytest.raises(ValueError, match=r"train\.tar is damaged or not the official archive"):
        imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)
    assert not (tmp_path / "target" / "train").exists()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("cut", [700, 1500, 2048, 2100, 5000])
def test_a_cut_archive_is_one_sentence_or_what_it_lacks_is_named(tmp_path, split, cut):
    archives = official(tmp_path / "source")
    file = tmp_path / "source" / archives[split][0]
    file.write_bytes(file.read_bytes()[:cut])
    archives[split] = (file.name, md5(file.read_bytes()).hexdigest())
    try:
        report = imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)
    except (ValueError, OSError) as error:
        assert split in str(error) and "\n" not in str(error)
    else:
        assert not report.complete and report.missing


def test_without_the_devkit_val_cannot_be_sorted_and_nothing_is_read_before(tmp_path, monkeypatch):
    archives = official(tmp_path / "source")
    (tmp_path / "source" / archives["devkit"][0]).unlink()
    monkeypatch.setattr(module.hashlib, "md5", None)
    with pytest.raises(ValueError, match="does not say which class .* put ILSVRC2012_devkit_t12"):
        imagenet(tmp_path / "source", tmp_path / "target", SMALL, archives)


def test_a_folder_without_imagenet_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        imagenet(tmp_path / "nowhere")
    write(tmp_path, {"train/cat/1.jpg": b"1", "val/cat/2.jpg": b"2"})
    with pytest.raises(ValueError, match=r"holds no ImageNet; looked for ILSVRC2012_img_train\.ta"):
        imagenet(tmp_path)


def test_names_in_an_archive_cannot_leave_the_target(tmp_path):
    archives = official(tmp_path / "source")
    tar(tmp_path / "inner", {"../../../../escaped.JPEG": b"x", "/tmp/n.JPEG": b"y"})
    inner = {"../n00000001.tar": (tmp_path / "inner").read_bytes(), "evil.tar": b"", "../x": b""}
    checksum = tar(tmp_path / "source" / archives["train"][0], inner)
    archives["train"] = (archives["train"][0], checksum)
    imagenet(tmp_path / "source", tmp_path / "a" / "b" / "target", SMALL, archives)
    made = {path.name for path in (tmp_path / "a" / "b" / "target" / "train").rglob("*.JPEG")}
    assert made == {"escaped.JPEG", "n.JPEG"}
    assert not [path for path in tmp_path.rglob("escaped.JPEG") if "n00000001" not in str(path)]
