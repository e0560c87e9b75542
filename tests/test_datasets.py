"""Claims of data sets and their splits."""

import hashlib
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import draw_pictures

from residual.data.datasets import (
    Data,
    ImageTensors,
    apply_split,
    fingerprint,
    stratified_split,
    tensor_fingerprint,
)
from residual.data.sources import load
from residual.tasks.classification.train import check, recipe_for


def some(n: int, classes: int = 10) -> ImageTensors:
    pixels = torch.arange(n * 12, dtype=torch.int64).remainder(251).to(torch.uint8)
    return ImageTensors(pixels.view(n, 3, 2, 2), torch.arange(n) % classes, (("a/1.jpg", 0),))


def test_a_part_has_its_images_and_its_own_damaged_ones():
    images = some(10)
    part = images.subset(torch.tensor([7, 2]))
    assert part.labels.tolist() == [7, 2]
    assert torch.equal(part.pixels[0], images.pixels[7])
    assert part.damaged == ()
    assert images.subset(torch.tensor([7]), images.damaged).damaged == images.damaged


@pytest.mark.parametrize("n", [1, 8, 40])
@pytest.mark.parametrize("beside", ["test", "val"])
def test_a_damaged_picture_belongs_to_one_part_of_a_split(n, beside):
    damaged = tuple((f"a/{i}.jpg", i % 10) for i in range(n))
    whole = Data("d", "f", tuple("0123456789"), replace(some(100), damaged=damaged))
    data = replace(whole, **{beside: some(20)})
    held = apply_split(data, "45k5k")
    out = held.val if beside == "test" else held.holdout
    assert sorted(held.train.damaged + out.damaged) == sorted(damaged)
    assert len(held.train) + len(out) == 100
    assert abs(len(out.damaged) - n / 10) < 1
    plain = apply_split(replace(data, train=some(100)), "45k5k")
    assert torch.equal(plain.train.pixels, held.train.pixels)


def test_a_set_that_is_not_there_is_refused_and_the_others_are_named():
    data = Data("digits", "f", ("a", "b"), some(10), test=some(4))
    assert data.split("test") is data.test
    with pytest.raises(ValueError, match="digits has no val set; it has train, test"):
        data.split("val")


def test_the_headline_is_on_the_test_set_where_there_is_one():
    assert Data("d", "f", (), some(4), test=some(2), val=some(2)).headline == "test"
    assert Data("d", "f", (), some(4), val=some(2)).headline == "val"


def test_dividing_takes_each_place_once_and_as_many_of_each_class():
    labels = torch.arange(1_000) % 10
    first, second = stratified_split(labels, 0.1)
    assert sorted(first.tolist() + second.tolist()) == list(range(1_000))
    assert labels[second].bincount().tolist() == [10] * 10
    again = stratified_split(labels, 0.1)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_a_tenth_is_held_out_for_45k5k_and_none_for_full():
    data = Data("d", "f", tuple("0123456789"), some(500), test=some(20))
    assert apply_split(data, "full") is data
    held = apply_split(data, "45k5k")
    assert (len(held.train), len(held.val), held.test) == (450, 50, data.test)
    assert held.val.labels.bincount().tolist() == [5] * 10
    assert held.fingerprint == data.fingerprint


def test_a_fingerprint_is_the_sha256_of_sorted_lines():
    files = [("b/2.jpg", "b", 5, "hash2"), ("a/1.jpg", "a", 3, "hash1")]
    lines = "a/1.jpg\ta\t3\thash1\nb/2.jpg\tb\t5\thash2\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert fingerprint(files) == fingerprint(files[::-1]) == expected


def test_a_fingerprint_changes_with_each_pixel_label_and_set():
    classes = tuple("0123456789")
    marks = {tensor_fingerprint(classes, train=some(20), test=some(10))}
    for name in ("pixels", "labels"):
        changed = some(10)
        getattr(changed, name)[3] += 1
        marks.add(tensor_fingerprint(classes, train=some(20), test=changed))
    marks.add(tensor_fingerprint(classes, train=some(10), test=some(20)))
    marks.add(tensor_fingerprint(tuple("abcdefghij"), train=some(20), test=some(10)))
    assert len(marks) == 5


def test_a_fingerprint_in_memory_takes_each_image_for_a_file():
    images = some(2)
    raw = [bytes(image.flatten().tolist()) for image in images.pixels]
    files = [(f"train/0000{i}", "xy"[i], 12, hashlib.sha256(raw[i]).hexdigest()) for i in (0, 1)]
    assert tensor_fingerprint(("x", "y"), train=images) == fingerprint(files)


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_without_train_is_good_to_be_judged_on_alone(tmp_path, whole):
    path = draw_pictures(tmp_path / "signs", 3, ("3", "8"))
    shutil.rmtree(path / "train")
    for _ in range(2):  # read, and recalled
        data = load(str(path), tmp_path, size=32, as_files=whole)
    assert (len(data.train), len(data.test), data.classes) == (0, 6, ("3", "8"))
    with pytest.raises(ValueError, match="signs has no train set; it has test"):
        data.split("train")
    recipe = recipe_for("resnet18" if whole else "resnet8", "signs")
    with pytest.raises(ValueError, match="signs has no train/"):
        check(recipe, data)
