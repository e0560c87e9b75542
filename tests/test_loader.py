"""Claims of the loader of image files."""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from residual.data.datasets import FolderSource, ImageFiles
from residual.data.decode import DamagedImage
from residual.data.folder import open_folder
from residual.data.loader import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CpuCollate,
    LoaderOptions,
    file_batches,
    finish_batch,
    max_workers,
    measure_preprocessing,
)
from residual.data.normalization import Preprocessing
from residual.data.sampler import DataConfig
from residual.data.test_crops import Views
from residual.distributed import World

CPU = torch.device("cpu")
PER_CLASS = 20
HOW = DataConfig(
    batch=8, seed=1, norm_group=4, crop="scale", size=32, scales=(36, 60), colour=0.1, erasing=0.5
)
ALL = replace(HOW, crop="aspect", trivial=True, mixup=0.2, cutmix=1.0)
MEAN = Preprocessing(torch.full((3, 1, 1), 0.5), torch.ones(3, 1, 1), (32, 32), 36)


def jpegs(folder: Path, n: int = PER_CLASS) -> Path:
    """Three classes of n pictures of about 64 pixels; no two alike."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(n):
            size = (6 + i % 3, 7 - i % 2)
            small = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            small[..., label] //= 2
            image = Image.fromarray(small).resize((size[0] * 10, size[1] * 10))
            image.save(folder / "train" / name / f"{i:02}.jpg")
    return folder


def loaded(folder: Path) -> ImageFiles:
    """All pictures of the folder, as one set."""
    paths = sorted((folder / "train").rglob("*.jpg"))
    names = [str(path.relative_to(folder)) for path in paths]
    labels = torch.tensor([("ant", "bee", "cat").index(path.parent.name) for path in paths])
    return ImageFiles(FolderSource(folder, names), torch.arange(len(paths)), labels)


@pytest.fixture(scope="module")
def insects(tmp_path_factory) -> Path:
    """No test may change it."""
    return jpegs(tmp_path_factory.mktemp("insects"))


@pytest.fixture
def own(tmp_path) -> Path:
    """To be spoilt."""
    return jpegs(tmp_path / "own", 6)


def taken(
    pictures: ImageFiles, how: DataConfig, place: LoaderOptions, n: int, step: int = 0
) -> list[tuple[Tensor, Tensor]]:
    return list(islice(file_batches(pictures, MEAN, how, place, 3, step), n))


def same(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("how", [HOW, ALL], ids=["paper", "modern"])
def test_batches_are_equal_on_any_number_of_workers(insects, how):
    pictures = loaded(insects)
    alone = taken(pictures, how, LoaderOptions(CPU), 9)
    assert alone[0][0].shape == (8, 3, 32, 32)
    for workers in (1, 2):
        assert same(taken(pictures, how, LoaderOptions(CPU, workers), 9), alone)


@pytest.mark.parametrize("how", [HOW, ALL], ids=["paper", "modern"])
def test_the_parts_of_two_processes_are_the_whole_batch(insects, how):
    pictures = loaded(insects)
    whole = taken(pictures, how, LoaderOptions(CPU), 9)
    parts = [taken(pictures, how, LoaderOptions(CPU, world=World(rank, 2)), 9) for rank in (0, 1)]
    assert all(len(x) == 4 for part in parts for x, _ in part)
    together = [
        (torch.cat([x, a]), torch.cat([y, b])) for (x, y), (a, b) in zip(*parts, strict=True)
    ]
    assert same(together, whole)


def test_mixing_makes_soft_labels_inside_each_norm_group(insects):
    pictures = loaded(insects)
    plain = taken(pictures, replace(ALL, mixup=0.0, cutmix=0.0), LoaderOptions(CPU), 9)
    found = taken(pictures, ALL, LoaderOptions(CPU), 9)
    shares = []
    for (_, labels), (_, soft) in zip(plain, found, strict=True):
        assert soft.shape == (8, 3)
        assert torch.allclose(soft.sum(dim=1), torch.ones(8))
        for group in (slice(0, 4), slice(4, 8)):
            one = torch.nn.functional.one_hot(labels[group], 3).float()
            before = one.roll(1, 0)
            differs = (one != before).any(dim=1)
            if differs.any():
                first = int(differs.int().argmax())
                kept = float(soft[group][first, labels[group][first]])
                shares.append(kept)
                expected = kept * one + (1 - kept) * before
                assert torch.allclose(soft[group], expected, atol=1e-6)
    assert len({round(share, 4) for share in shares}) > 9  # each group has a draw of its own


def test_batches_go_on_at_any_step(insects):
    pictures = loaded(insects)
    whole = taken(pictures, ALL, LoaderOptions(CPU), 12)
    assert same(taken(pictures, ALL, LoaderOptions(CPU, 2), 5, step=7), whole[7:])


def test_another_seed_or_epoch_gives_other_crops_of_the_same_picture(insects):
    pictures = loaded(insects).subset(torch.arange(4))
    how = replace(HOW, batch=4)
    batches = taken(pictures, how, LoaderOptions(CPU), 2) + taken(
        pictures, replace(how, seed=2), LoaderOptions(CPU), 1
    )
    assert len({x.sum().item() for x, _ in batches}) == 3


def test_each_picture_comes_once_in_an_epoch(insects):
    pictures = loaded(insects)
    n = len(pictures)
    labels = torch.cat(
        [y for _, y in taken(pictures, replace(HOW, batch=12), LoaderOptions(CPU), n // 12)]
    )
    assert labels.bincount().tolist() == [PER_CLASS] * 3


def test_copies_of_a_picture_in_a_balanced_epoch_get_crops_of_their_own(insects):
    few = loaded(insects).subset(torch.cat([torch.tensor([0]), torch.arange(20, 35)]))
    how = replace(HOW, batch=16, norm_group=16, balance="sampler", colour=0.0, erasing=0.0)
    ((x, y),) = taken(few, how, LoaderOptions(CPU), 1)
    ants = x[y == 0]
    assert len(ants) == 8
    assert len({picture.sum().item() for picture in ants}) > 4


def damage(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "train" / name).write_bytes(b"no picture")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_ends_the_training_and_is_named(own, workers):
    damage(own, "bee/03.jpg")
    with pytest.raises(DamagedImage, match=r"bee/03\.jpg is no picture.*--bad-images skip"):
        taken(loaded(own), HOW, LoaderOptions(CPU, workers), 5)


def test_a_vanished_picture_is_named(own):
    pictures = loaded(own)
    (own / "train" / "bee" / "03.jpg").unlink()
    with pytest.raises(DamagedImage, match=r"bee/03\.jpg"):
        taken(pictures, HOW, LoaderOptions(CPU), 5)


def test_a_damaged_picture_is_replaced_inside_its_class_and_heard_of_once(own):
    whole = taken(loaded(own), replace(HOW, colour=0, erasing=0), LoaderOptions(CPU), 9)
    damage(own, "bee/03.jpg")
    skip = replace(HOW, colour=0, erasing=0, bad_images="skip")
    notices: list[tuple[str, str]] = []

    def heard(path: str, why: str) -> None:
        notices.append((path, why))

    found = taken(loaded(own), skip, LoaderOptions(CPU, on_damaged=heard), 9)  # four epochs
    assert [path for path, _ in notices] == ["train/bee/03.jpg"]
    assert "damaged" in notices[0][1]
    changed = 0
    for (x, y), (a, b) in zip(whole, found, strict=True):
        assert torch.equal(y, b)  # so the label is the same, and a picture of it is there
        different = (x != a).flatten(1).any(dim=1)
        assert (y[different] == 1).all()
        changed += int(different.sum())
    assert changed == 4
    assert same(taken(loaded(own), skip, LoaderOptions(CPU, 2), 9), found)


def test_a_replacement_is_a_picture_of_the_class(own):
    for label, name in enumerate(("ant", "bee", "cat")):
        for path in (own / "train" / name).iterdir():
            Image.new("RGB", (64, 64), (100 * label, 0, 0)).save(path)
    damage(own, "bee/03.jpg")
    how = replace(HOW, colour=0, erasing=0, bad_images="skip")
    for x, y in taken(loaded(own), how, LoaderOptions(CPU), 9):
        red = ((x[:, 0].mean(dim=(1, 2)) + 0.5) * 255 / 100).round()
        assert torch.equal(red.long(), y)


def test_more_damaged_pictures_than_one_in_a_thousand_end_the_training(own):
    damage(own, "bee/03.jpg", "cat/01.jpg")
    with pytest.raises(
        DamagedImage, match=r"2 of 18 training pictures are damaged, more than the 1"
    ):
        taken(loaded(own), replace(HOW, bad_images="skip"), LoaderOptions(CPU), 9)


def test_a_class_without_a_whole_picture_is_named(own):
    damage(own, *(f"bee/{i:02}.jpg" for i in range(1)))
    pictures = loaded(own).subset(torch.tensor([0, 1, 2, 6]))  # the only bee
    with pytest.raises(
        DamagedImage, match=r"no whole picture was found in the class of .*bee/00\.jpg"
    ):
        taken(pictures, replace(HOW, bad_images="skip"), LoaderOptions(CPU), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_mean_is_that_of_the_centre_crops(insects, workers):
    pictures = loaded(insects)
    cut = Views("centre", (32, 32), (36,))
    crops = [cut(pictures.image(i), i, 0)[0][0] for i in range(len(pictures))]
    plain = torch.tensor(np.stack(crops)).double().mean(dim=0).permute(2, 0, 1) / 255
    pixel = measure_preprocessing(pictures, "pixel", 32, 36, workers)
    assert pixel.mean.shape == (3, 32, 32)
    assert torch.allclose(pixel.mean.double(), plain, atol=1e-6)
    channel = measure_preprocessing(pictures, "channel", 32, 36, workers)
    expected = plain.mean(dim=(1, 2), keepdim=True)
    assert torch.allclose(channel.mean.double(), expected, atol=1e-6)
    assert (channel.std == 1).all() and (channel.size, channel.shorter) == ((32, 32), 36)


def test_damaged_pictures_are_left_out_of_the_mean(own):
    pictures = loaded(own)
    rest = pictures.subset(torch.tensor([i for i in range(18) if i != 9]))
    expected = measure_preprocessing(rest, "pixel", 32, 36, 0).mean
    damage(own, "bee/03.jpg")
    assert torch.equal(measure_preprocessing(pictures, "pixel", 32, 36, 0).mean, expected)


def test_imagenets_mean_needs_no_picture(own):
    damage(own, "bee/03.jpg")
    found = measure_preprocessing(loaded(own), "imagenet", 224, 256, 0)
    assert found.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert found.std.flatten().tolist() == pytest.approx(IMAGENET_STD)


def test_crops_of_small_pictures_are_refused(insects):
    with pytest.raises(ValueError, match="not by crop=pad"):
        taken(loaded(insects), replace(HOW, crop="pad"), LoaderOptions(CPU), 1)


def test_no_more_workers_than_the_shared_memory_holds(tmp_path):
    assert max_workers(8, 1, tmp_path) == 8
    assert max_workers(8, 2**60, tmp_path) == 0
    assert max_workers(8, 2**60, tmp_path / "none") == 8


def test_a_folder_is_read_as_photographs(insects, tmp_path):
    for name in ("ant", "bee", "cat"):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for i, path in enumerate(sorted((insects / "train" / name).iterdir())):
            split = "val" if i < 5 else "train"
            (tmp_path / "data" / split / name / path.name).write_bytes(path.read_bytes())
    data = open_folder(tmp_path / "data", tmp_path / "root")
    assert (len(data.train), len(data.val), data.classes) == (45, 15, ("ant", "bee", "cat"))
    assert [data.train.name(i) for i in (0, 44)] == ["train/ant/05.jpg", "train/cat/19.jpg"]
    for part in (data.train, data.val):
        for i in range(len(part)):
            assert data.classes[part.labels[i]] == part.name(i).split("/")[1]
    again = open_folder(tmp_path / "data", tmp_path / "root", workers=2)
    assert again.fingerprint == data.fingerprint


def test_more_workers_than_cores_are_taken_as_they_are_asked_for(insects, recwarn):
    place = LoaderOptions(torch.device("cpu"), workers=1 + (os.cpu_count() or 1))
    next(file_batches(loaded(insects), MEAN, HOW, place, 3))
    assert not [each for each in recwarn if "worker" in str(each.message)]


@pytest.mark.parametrize(("erasing", "per_channel"), [(0.0, False), (0.5, True)])
def test_image_by_image_a_batch_becomes_what_it_does_in_bulk(erasing, per_channel):
    draw = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (7, 33, 33, 3), dtype=torch.uint8, generator=draw)
    mean, std = torch.rand(3, 33, 33, generator=draw), torch.tensor([0.2, 0.3, 0.4])
    mean = mean.mean(dim=(1, 2), keepdim=True) if per_channel else mean
    way = Preprocessing(mean, std.view(3, 1, 1), (33, 33), 36)
    how = DataConfig(batch=7, seed=1, crop="scale", size=33, colour=0.1, erasing=erasing)
    ids, epochs = torch.arange(7) + 5, torch.arange(7) // 3
    parts = list(crops.split(4))
    one_by_one = CpuCollate(way, how)(parts, ids, epochs)
    assert torch.allclose(one_by_one, finish_batch(crops, ids, epochs, way, how), atol=1e-5)


def test_the_memory_of_a_batch_is_taken_again_once_nobody_holds_it():
    mean = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (8, 8))
    collate = CpuCollate(mean, DataConfig(batch=4, seed=0, size=8))
    first = collate.buffer(4, 8)
    view, where = first.t()[2:], first.data_ptr()
    del first
    second = collate.buffer(4, 8)  # the first is held by a view
    assert second.data_ptr() != where
    assert collate.buffer(2, 8).data_ptr() not in (where, second.data_ptr())
    del view
    assert collate.buffer(4, 8).data_ptr() == where
