"""VOC and COCO are unpacked from their archives: safely, resumed after a stop, and compared."""

import io
import json
import os
import tarfile
import zipfile
from hashlib import md5
from pathlib import Path

import pytest
from made_annotations import coco_folder, devkit, instances

from residual.cli import data as cli
from residual.preparation import archives as preparing
from residual.preparation.voc_coco import COCO, VOC, VOC_ARCHIVES, Archives, coco, voc
from residual.tasks.detection.datasets import load

TARS = {
    "07trainval": ("VOC2007", ("000001", "000002", "trainval", "train", "val")),
    "07test": ("VOC2007", ("000003", "test")),
    "12trainval": ("VOC2012", ("2008_01", "2008_02", "2008_03", "trainval", "train", "val")),
}
FEW_OF_VOC = {"07trainval": 2, "07test": 1, "12trainval": 2}
FEW_OF_COCO = {"train2017": 3, "val2017": 2}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "sync", lambda: None)


def tars(source: Path, *names: str) -> Archives:
    """The archives of a made devkit, as they are divided in the real one, with their checksums."""
    whole = devkit(source / "made" / "VOCdevkit")
    archives = {}
    for name in names or TARS:
        year, stems = TARS[name]
        file = source / VOC_ARCHIVES[name][0]
        with tarfile.open(file, "w") as opened:
            for path in sorted((whole / year).rglob("*.*")):
                if path.stem in stems:
                    opened.add(path, path.relative_to(whole.parent).as_posix())
            readme = tarfile.TarInfo(f"VOCdevkit/{year}/SegmentationClass/000001.png")
            opened.addfile(readme, io.BytesIO())
        archives[name] = (file.name, md5(file.read_bytes()).hexdigest())
    return VOC_ARCHIVES | archives


def zips(source: Path) -> None:
    """The archives of a made COCO."""
    whole = coco_folder(source / "made")
    for name in ("train2017", "val2017", "annotations"):
        file = "annotations_trainval2017" if name == "annotations" else name
        with zipfile.ZipFile(source / f"{file}.zip", "w") as opened:
            for path in sorted((whole / name).iterdir()):
                opened.write(path, path.relative_to(whole).as_posix())
            opened.writestr("annotations/captions_train2017.json", "{}")


def files(folder: Path) -> set[str]:
    """The files below a folder, but for marks."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != preparing.STATE
    }


# ---- from what it is made -----------------------------------------------------------------------


def test_voc_is_unpacked_so_that_every_split_can_be_loaded(tmp_path):
    report = voc(tmp_path, tmp_path / "to", FEW_OF_VOC, tars(tmp_path))
    assert report.complete and report.pictures == FEW_OF_VOC and not report.absent
    assert len(load(tmp_path / "to", "07++12").examples) == 5
    assert len(load(tmp_path / "to", "07test").examples) == 1
    assert not any("Segmentation" in file for file in files(tmp_path / "to"))


def test_coco_is_unpacked_so_that_every_split_can_be_loaded(tmp_path):
    zips(tmp_path)
    report = coco(tmp_path, None, FEW_OF_COCO)
    assert report.complete and report.pictures == FEW_OF_COCO
    assert report.folder == str(tmp_path / "coco")
    assert len(load(tmp_path / "coco", "train").examples) == 3
    assert not any("captions" in file for file in files(tmp_path / "coco"))


def test_the_numbers_of_pictures_are_those_that_the_data_sets_have():
    assert (VOC["07trainval"] + VOC["07test"], VOC["12trainval"]) == (9_963, 11_540)
    assert VOC["07trainval"] + VOC["12trainval"] == 16_551
    assert COCO["train2014"] + COCO["val2014"] == COCO["train2017"] + COCO["val2017"] == 123_287
    assert {file for file, _ in VOC_ARCHIVES.values()} == {
        "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar"
    }  # fmt: skip


# ---- what is missing ----------------------------------------------------------------------------


def test_a_set_whose_archive_is_not_there_is_told_with_the_archive_that_has_it(tmp_path):
    archives = tars(tmp_path, "07trainval")
    report = voc(tmp_path, None, FEW_OF_VOC, archives)
    assert report.complete and report.pictures == {"07trainval": 2}
    assert report.absent == {
        "07test": "VOCtest_06-Nov-2007.tar", "12trainval": "VOCtrainval_11-May-2012.tar"
    }  # fmt: skip
    zips(tmp_path)
    (tmp_path / "val2017.zip").unlink()
    report = coco(tmp_path, None, FEW_OF_COCO)
    assert report.complete and report.absent == {"val2017": "val2017.zip"}


def test_each_missing_picture_and_annotation_is_named(tmp_path):
    archives = tars(tmp_path)
    voc(tmp_path, tmp_path / "to", FEW_OF_VOC, archives)
    for file, _ in archives.values():
        (tmp_path / file).unlink()
    year = tmp_path / "to" / "VOCdevkit" / "VOC2007"
    (year / "JPEGImages" / "000001.jpg").unlink()
    (year / "Annotations" / "000003.xml").unlink()
    report = voc(tmp_path, tmp_path / "to", FEW_OF_VOC, archives)
    assert not report.complete
    assert report.missing == ["VOC2007/JPEGImages/000001.jpg", "VOC2007/Annotations/000003.xml"]
    zips(tmp_path)
    coco(tmp_path, None, FEW_OF_COCO)
    (tmp_path / "coco" / "train2017" / "0002.jpg").unlink()
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").unlink()
    for name in ("train2017", "annotations_trainval2017"):
        (tmp_path / f"{name}.zip").unlink()
    report = coco(tmp_path, None, FEW_OF_COCO)
    assert report.missing == [
        "train2017/0002.jpg",
        "annotations/instances_val2017.json, from annotations_trainval2017.zip",
    ]


def test_a_list_that_is_shorter_than_it_should_be_is_not_whole(tmp_path):
    report = voc(tmp_path, None, FEW_OF_VOC | {"07trainval": 3}, tars(tmp_path))
    assert not report.complete and report.pictures["07trainval"] == 2


def test_a_place_without_archives_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        voc(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match="none of the official archives; looked for VOCtest_06-Nov"
    ):
        voc(tmp_path)
    with pytest.raises(
        ValueError, match="looked for annotations_trainval2014.zip, ann.* val2017.z"
    ):
        coco(tmp_path)
    assert not list(tmp_path.iterdir())


# ---- interrupted, damaged, evil -----------------------------------------------------------------


def test_an_interrupted_preparation_goes_on_and_does_nothing_again(tmp_path, monkeypatch):
    archives, target, done = tars(tmp_path), tmp_path / "to", []
    copyfileobj = preparing.shutil.copyfileobj

    def counted(source, file, length):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(file.name)
        copyfileobj(source, file, length)

    monkeypatch.setattr(preparing.shutil, "copyfileobj", counted)
    with pytest.raises(KeyboardInterrupt):
        voc(tmp_path, target, FEW_OF_VOC, archives)
    before = files(target)
    assert len(before) == 9 and not any("partial" in file for file in before)
    interrupted = done.copy()
    done.clear()
    monkeypatch.setattr(preparing.shutil, "copyfileobj", lambda source, file, length: (
        done.append(file.name), copyfileobj(source, file, length)))  # fmt: skip
    assert voc(tmp_path, target, FEW_OF_VOC, archives).complete
    assert voc(tmp_path, target, FEW_OF_VOC, archives).complete
    done += interrupted
    assert len(done) == len(set(done)) == len(files(target))


def test_a_damaged_archive_is_refused_by_its_name(tmp_path):
    archives = tars(tmp_path)
    file = tmp_path / VOC_ARCHIVES["07test"][0]
    file.write_bytes(file.read_bytes()[:2_000])
    with pytest.raises(ValueError, match="VOCtest_06-Nov-2007.tar is damaged or not the official"):
        voc(tmp_path, None, FEW_OF_VOC, archives)
    zips(tmp_path)
    whole = (tmp_path / "val2017.zip").read_bytes()
    place = whole.index(b"val2017/0001.jpg") + 500
    for raw in (whole[: len(whole) // 2], whole[:place] + b"spoilt" + whole[place + 6 :], b""):
        (tmp_path / "val2017.zip").write_bytes(raw)
        with pytest.raises(ValueError, match="val2017.zip is damaged: "):
            coco(tmp_path, None, FEW_OF_COCO)
        assert "coco/val2017/0001.jpg" not in files(tmp_path)


EVIL = (
    "../VOC2007/JPEGImages/x.jpg",
    "/tmp/VOC2007/JPEGImages/x.jpg",
    "a\\..\\..\\x.jpg",
    "C:/x.jpg",
)


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    file = tmp_path / "from" / VOC_ARCHIVES["07test"][0]
    file.parent.mkdir()
    with tarfile.open(file, "w") as opened:
        opened.addfile(tarfile.TarInfo(name), io.BytesIO())
    archives = VOC_ARCHIVES | {"07test": (file.name, md5(file.read_bytes()).hexdigest())}
    with pytest.raises(ValueError, match="is not the official archive: .*out of the folder"):
        voc(file.parent, tmp_path / "to", FEW_OF_VOC, archives)
    with zipfile.ZipFile(file.parent / "train2017.zip", "w") as zipped:
        zipped.writestr(name, "evil")
    if "\\" not in name:  # Python's own reader takes these for folders already
        with pytest.raises(ValueError, match="is not the official archive: .*out of the folder"):
            coco(file.parent, tmp_path / "to", FEW_OF_COCO)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {
        file.name, "train2017.zip", preparing.STATE
    }  # fmt: skip


def test_a_link_in_an_archive_is_not_made(tmp_path):
    archives = dict(tars(tmp_path, "07test"))
    file = tmp_path / archives["07test"][0]
    with tarfile.open(file, "a") as opened:
        link = tarfile.TarInfo("VOCdevkit/VOC2007/JPEGImages/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    archives["07test"] = (file.name, md5(file.read_bytes()).hexdigest())
    assert voc(tmp_path, None, FEW_OF_VOC, archives).complete
    assert not [path for path in (tmp_path / "voc").rglob("*") if path.is_symlink()]


# ---- the commands -------------------------------------------------------------------------------


def test_the_commands_tell_what_is_there_and_end_with_1_where_it_is_not_whole(command, tmp_path):
    zips(tmp_path)
    answer = command("data", "prepare", "coco", tmp_path, tmp_path / "to")
    assert answer.status == 1
    assert answer.out.splitlines() == [
        f"{tmp_path}/to: train2014: not there; it comes with train2014.zip",
        f"{tmp_path}/to: val2014: not there; it comes with val2014.zip",
        f"{tmp_path}/to: train2017: 3 of 118,287 pictures",
        f"{tmp_path}/to: val2017: 2 of 5,000 pictures",
    ]
    assert answer.err.splitlines()[-1] == f"residual: {tmp_path}/to does not hold the whole COCO"
    assert not command("data", "prepare", "coco", tmp_path, "--json").json["complete"]
    assert "looked for VOC" in command("data", "prepare", "voc", tmp_path).complaint


def test_what_is_whole_ends_with_0(tmp_path, capsys):
    cli.finish_prepared(voc(tmp_path, None, FEW_OF_VOC, tars(tmp_path)), "PASCAL VOC", as_json=True)
    assert json.loads(capsys.readouterr().out)["pictures"] == FEW_OF_VOC
    assert len(instances()["images"]) == FEW_OF_COCO["train2017"]
