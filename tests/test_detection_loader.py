"""Training batches of a detector: resizing, mirroring, order, damaged images."""

import itertools
from dataclasses import replace

import pytest
import torch
from made_boxes import draw_voc
from test_faster_rcnn import CPU, SMALL

from residual.data.decode import open_image as seen_picture
from residual.distributed import World
from residual.tasks.detection import datasets, loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_voc(tmp_path_factory.mktemp("boxes") / "made")


def test_a_picture_is_resized_to_its_shorter_side_unless_the_longer_one_becomes_too_long():
    assert loader.resized_size((500, 375), 600, 1000) == (800, 600)
    assert loader.resized_size((375, 500), 600, 1000) == (600, 800)
    assert loader.resized_size((1000, 300), 600, 1000) == (1000, 300)
    assert loader.resized_size((2000, 3), 600, 1000) == (1000, 16)


def test_boxes_are_resized_and_mirrored_with_their_picture(tmp_path):
    data = datasets.load(draw_voc(tmp_path / "bars", labels=("bar",)), "trainval")
    before = loader.imagenet_preprocessing(144)
    own = loader.TrainingLoader(
        data, replace(SMALL, shorter=144, longest=400, batch=6), before, CPU
    )
    mirrored = set()
    for one in itertools.chain(*itertools.islice(own.batches(), 4)):
        pixels = (one.image * before.std + before.mean) * 255
        blue = (pixels[2] - pixels[0] > 70).nonzero()  # rows, columns of the bar
        if not len(one.boxes):
            assert not len(blue)
            continue
        (top, left), (bottom, right) = blue.amin(dim=0).tolist(), blue.amax(dim=0).tolist()
        found = torch.tensor([left, top, right + 1, bottom + 1])
        assert (found - one.boxes[0]).abs().max() <= 2.5
        example = data.examples[one.key[1]]
        plain = example.boxes[0] * (one.boxes[0, 3] / example.boxes[0, 3])
        assert one.scale[1] == pytest.approx(float(one.boxes[0, 3] / example.boxes[0, 3]))
        mirrored.add(bool((plain - one.boxes[0]).abs().max() > 1))
    assert mirrored == {True, False}


def test_order_and_mirror_are_functions_of_seed_epoch_and_picture_alone(folder):
    data, before = datasets.load(folder, "trainval"), loader.imagenet_preprocessing(64)
    alone = loader.TrainingLoader(data, SMALL, before, CPU)
    later = loader.TrainingLoader(data, SMALL, before, CPU, workers=1)
    first = list(itertools.islice(alone.batches(), 9))
    again = list(itertools.islice(later.batches(4), 5))
    for one, other in zip(first[4:], again, strict=True):
        assert all(
            torch.equal(a.image, b.image) and a.key == b.key
            for a, b in zip(one, other, strict=True)
        )
    parts = [
        next(loader.TrainingLoader(data, SMALL, before, CPU, World(r, 2)).batches()) for r in (0, 1)
    ]
    assert [each.key for part in parts for each in part] == [each.key for each in first[0]]
    epoch = [each.key for own in first[:3] for each in own]
    assert sorted(i for _, i in epoch) == list(range(6)) and {e for e, _ in epoch} == {0}


def test_difficult_objects_teach_nothing(folder):
    data = datasets.load(folder, "trainval")
    hard = replace(data.examples[0], difficult=torch.tensor([True, False]))
    recipe, before = replace(SMALL, batch=1), loader.imagenet_preprocessing(64)
    feed = loader.TrainingLoader(replace(data, examples=(hard,)), recipe, before, CPU)
    (one,) = next(feed.batches())
    assert one.labels.tolist() == hard.labels[1:].tolist() and one.boxes.shape == (1, 4)


def test_a_damaged_picture_ends_the_training_or_another_takes_its_place(tmp_path):
    made_ = draw_voc(tmp_path / "voc")
    data = datasets.load(made_, "trainval")
    broken = data.examples[2].path
    broken.write_bytes(b"nothing")
    before = loader.imagenet_preprocessing(64)
    with pytest.raises(ValueError, match=str(broken)):
        list(itertools.islice(loader.TrainingLoader(data, SMALL, before, CPU).batches(), 3))
    skipping = loader.TrainingLoader(data, replace(SMALL, bad_images="skip"), before, CPU)
    assert len(list(itertools.islice(skipping.batches(), 3))) == 3
    assert list(skipping.damaged) == [str(broken)]
    assert seen_picture(data.examples[0].path).size in ((96, 72), (72, 96))
