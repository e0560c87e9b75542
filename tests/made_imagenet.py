"""A made ImageNet of fifteen pictures, in each of the forms in which it is given out."""

import io
import tarfile
from hashlib import md5
from pathlib import Path

import numpy as np
from scipy.io import savemat
from torchvision.datasets.imagenet import ARCHIVE_META

WORDS = {"n00000001": "tench, Tinca tinca", "n00000002": "goldfish", "n00000003": "hen"}
SIZES = dict(zip(WORDS, (3, 4, 2), strict=True))
TRAIN = {wnid: [f"{wnid}_{i}.JPEG" for i in range(n)] for wnid, n in SIZES.items()}
TRUTH = (2, 1, 3, 3, 2, 1)  # the classes of the validation set, by their numbers in the devkit
VAL = {f"ILSVRC2012_val_{i:08}.JPEG": list(WORDS)[number - 1] for i, number in enumerate(TRUTH, 1)}
SMALL = {"train": 9, "val": 6, "classes": 3}
LISTS = {
    "LOC_val_solution.csv": "ImageId,PredictionString\n"
    + "".join(f"{file[:-5]},{wnid} 1 2 3 4 {wnid} 5 6 7 8\n" for file, wnid in VAL.items()),
    "LOC_synset_mapping.txt": "".join(f"{wnid} {words}\n" for wnid, words in WORDS.items()),
}


def content(name: str) -> bytes:
    """No picture is looked into, so any bytes will do."""
    return name.encode() * 50


def tar(file: Path, files: dict[str, bytes], how: str = "w") -> str:
    """An archive -> its md5."""
    with tarfile.open(file, how) as archive:
        for name, raw in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    return md5(file.read_bytes()).hexdigest()


def meta() -> bytes:
    """The devkit's meta.mat: the classes, and a synset above them that is none."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children"]
    fields += ["wordnet_height", "num_train_images"]
    rows = [
        (i, wnid, words, "a gloss", 0, np.array([]), 0, len(TRAIN[wnid]))
        for i, (wnid, words) in enumerate(WORDS.items(), start=1)
    ]
    rows.append((4, "n00000009", "animal", "a gloss", 3, np.array([1, 2, 3]), 1, 0))
    table = np.array(rows, dtype=[(name, object) for name in fields])
    file = io.BytesIO()
    savemat(file, {"synsets": table})
    return file.getvalue()


KIT = {
    "ILSVRC2012_devkit_t12/data/meta.mat": meta(),
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(
        f"{number}\n" for number in TRUTH
    ).encode(),
    "ILSVRC2012_devkit_t12/readme.txt": b"read me",
}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def official(source: Path) -> dict[str, tuple[str, str]]:
    """The three archives -> their names and checksums."""
    source.mkdir()
    names = {split: name for split, (name, _) in ARCHIVE_META.items()}
    inner: dict[str, bytes] = {}
    for wnid, files in TRAIN.items():
        tar(source / "inner.tar", {file: content(file) for file in files})
        inner[f"{wnid}.tar"] = (source / "inner.tar").read_bytes()
    (source / "inner.tar").unlink()
    sums = {
        "train": tar(source / names["train"], inner),
        "val": tar(source / names["val"], {file: content(file) for file in VAL}),
        "devkit": tar(source / names["devkit"], KIT, "w:gz"),
    }
    return {split: (names[split], sums[split]) for split in names}


def flat(source: Path) -> None:
    write(source, {file: content(file) for file in VAL})
    write(source, KIT)


def kaggle(source: Path) -> None:
    place = source / "ILSVRC" / "Data" / "CLS-LOC"
    write(place / "train", {f"{w}/{f}": content(f) for w, files in TRAIN.items() for f in files})
    write(place / "val", {file: content(file) for file in VAL})
    write(source, {name: text.encode() for name, text in LISTS.items()})


def assert_sorted(target: Path, *splits: str) -> None:
    """Every picture in its place with its bytes, and no other file."""
    expected = {f"train/{w}/{f}": content(f) for w, files in TRAIN.items() for f in files}
    expected |= {f"val/{wnid}/{file}": content(file) for file, wnid in VAL.items()}
    expected = {path: raw for path, raw in expected.items() if path.startswith(splits)}
    found = {
        file.relative_to(target).as_posix(): file.read_bytes()
        for split in ("train", "val")
        for file in (target / split).rglob("*")
        if file.is_file()
    }
    assert found == expected


def state(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
