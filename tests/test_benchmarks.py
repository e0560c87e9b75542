"""What ours is measured against does the same work, and what is measured is told truly."""

import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import (
    cifar_errors,
    fitting,
    growth,
    shared_machine,
    sides,
    usual_loop,
    usual_pictures,
)
from benchmarks import imagenet_training as training
from benchmarks.imagenet_loading import apart, ours
from benchmarks.sides import against
from residual.data.augment import ScaleCrop, pad_crop_flip
from residual.data.datasets import Data, ImageFiles, ImageTensors
from residual.data.normalization import per_pixel_mean
from residual.data.sources import digits, load
from residual.device import ComputeConfig
from residual.models.registry import build
from residual.storage import read_json
from residual.tasks.classification.recipe import ClassificationRecipe, with_steps
from residual.tasks.classification.throughput import Bench, Stage, decoding, verdict
from residual.tasks.classification.train import recipe_for


def test_both_sides_draw_from_the_same_crops_and_mirrors():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=draw)
    images = ImageTensors(pixels, torch.tensor([0, 1]))
    preprocessing, recipe = per_pixel_mean(images), recipe_for("resnet8", "cifar10")
    n = 3_000  # 9 x 9 places and 2 directions: each comes about 18 times
    ids = torch.zeros(n, dtype=torch.int64)
    inputs = preprocessing(pixels[ids])
    ours = pad_crop_flip(inputs, ids, torch.arange(n), 0, recipe.padding, recipe.mirror)
    batches = usual_loop.loader(pixels, images.labels, preprocessing.mean, recipe, workers=0)
    torch.manual_seed(0)
    theirs = torch.stack([batches.dataset[0][0] for _ in range(n)])
    assert len(torch.unique(ours, dim=0)) == 9 * 9 * 2
    torch.testing.assert_close(torch.unique(theirs, dim=0), torch.unique(ours, dim=0))


def test_the_usual_loop_takes_the_steps_of_the_recipe_and_learns():
    data, recipe = digits(), with_steps(recipe_for("resnet8", "digits"), 25)
    mean = per_pixel_mean(data.train).mean
    torch.manual_seed(0)
    net = build("resnet8")
    batches = usual_loop.loader(data.train.pixels, data.train.labels, mean, recipe, workers=0)
    losses = list(usual_loop.train(net, batches, recipe, torch.device("cpu")))
    assert len(losses) == 25 and losses[-1] < losses[0] / 1.5
    wrong = usual_loop.wrong(net, data.test.pixels, data.test.labels, mean, torch.device("cpu"))
    assert 0 <= wrong < 0.9 * len(data.test)


def test_the_precisions_are_trained_in_turn_from_the_same_seeds(command, tmp_path, monkeypatch):
    """Two trainings of two steps each; a second call trains nothing."""
    started = []

    def run(words: list[str], **_: object) -> None:
        started.append(words[words.index("--precision") + 1])
        assert command(*words[3:]).status == 0

    monkeypatch.setattr(cifar_errors.subprocess, "run", run)
    words = ["digits", "--network", "resnet8", "--steps", "2", "--seeds", "2", "--precisions"]
    words += ["--threads", "1", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["cifar_errors", *words])
    for _ in range(2):
        cifar_errors.main()
    assert started == ["float32", "bf16", "bf16", "float32"]
    result = read_json(tmp_path / "precisions-digits-resnet8-2steps.json")
    assert [len(side["error_top1"]) for side in result["precisions"].values()] == [2, 2]
    assert result["ratio"] > 0 and result["recipe"]["steps"] == 2


def folder_of(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for n in range(8):
        own = tmp_path / "photos" / ("train" if n < 6 else "val") / "ab"[n % 2]
        own.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 256, (20, 26, 3), dtype=np.uint8)
        Image.fromarray(small).resize((390, 300), Image.Resampling.BICUBIC).save(own / f"{n}.png")
    return tmp_path / "photos"


def test_our_crops_are_those_of_the_whole_picture_resized(tmp_path):
    photographs = load(str(folder_of(tmp_path)), tmp_path, as_files=True).train
    assert apart(photographs, ScaleCrop(224, (256, 480), 0), 24) < 2


@pytest.mark.parametrize("other", [ScaleCrop(224, (256, 400), 0), ScaleCrop(224, (256, 480), 1)])
def test_another_scale_or_another_place_is_seen(tmp_path, other):
    photographs = load(str(folder_of(tmp_path)), tmp_path, as_files=True).train
    assert apart(photographs, other, 24) > 10


def test_both_sides_read_the_same_augmentation(tmp_path):
    """Over many draws, each channel's mean and deviation agree."""
    folder = folder_of(tmp_path)
    ours_, usual_ = ours(str(folder), 0), usual_pictures.batches(folder / "train", 6, 0)
    random.seed(0)
    torch.manual_seed(0)
    mine = torch.cat([next(ours_)[0] for _ in range(3)])
    theirs = torch.cat([next(usual_)[0] for _ in range(32)])
    assert mine.shape == theirs.shape == (192, 3, 224, 224)
    dims = (0, 2, 3)
    torch.testing.assert_close(mine.mean(dims), theirs.mean(dims), atol=0.1, rtol=0)
    torch.testing.assert_close(mine.std(dims), theirs.std(dims), atol=0.05, rtol=0)


def test_a_comparison_is_the_median_of_the_ratios_round_by_round():
    def turns(*speeds: float) -> list[dict[str, float]]:
        return [dict.fromkeys(("images_per_second", "images_per_cpu_second"), s) for s in speeds]

    found = against({"ours": turns(10, 40, 30), "usual": turns(10, 10, 20)}, "usual")
    assert found["ours"]["ratios"] == [1, 4, 1.5]
    assert found["ours"]["ratio"] == found["ours"]["ratio_per_cpu_second"] == 1.5
    assert found["usual"]["ratio"] == 1


def test_a_side_keeps_the_share_of_its_own_speed_round_by_round():
    def speeds(alone: list[float], busy: list[float]) -> dict[str, list[float]]:
        return dict(zip(shared_machine.NEIGHBOURS, (alone, busy, alone), strict=True))

    measured = {"ours": speeds([99, 50, 100], [49.5, 40, 10])}
    measured["ours, spinning"] = speeds([100, 100, 100], [10, 20, 30])
    found = shared_machine.summary(measured)
    assert found["ours"]["kept"] == {"beside a busy loop": 0.5, "beside another training": 1}
    assert found["ours"]["alone_ratio"] == 0.99
    assert found["ours"]["images_per_second"]["alone"] == 99


@pytest.mark.parametrize("side", shared_machine.SIDES)
def test_each_side_beside_other_work_trains(side):
    first, second = (next(shared_machine.steps_of(side, 1)) for _ in range(2))
    assert first and second


def test_both_ways_of_training_take_steps():
    how = ComputeConfig()
    for steps in (training.ours("resnet50", how, 2, 32), plain_training(how)):
        first, *_, last = (next(steps) for _ in range(3))
        assert torch.isfinite(torch.as_tensor(getattr(first, "loss", first)))
        assert torch.isfinite(torch.as_tensor(getattr(last, "loss", last)))


def plain_training(how: ComputeConfig):
    return training.theirs("torchvision", "resnet50", how, 2, 32)


def test_the_figure_of_growth_is_drawn(tmp_path):
    first = growth.Point()
    values = {axis: [getattr(first, axis), 2 * getattr(first, axis)] for axis in growth.AXES}
    cost = {"seconds_per_step": 1.0, "peak_memory_bytes": 2**30}
    rows = [{"axis": a} | asdict(p) | cost for a, p in growth.points(first, values)]
    assert len(rows) == 2 * 4 * 2
    assert all(path.stat().st_size > 1_000 for path in growth.figure(rows, tmp_path / "growth"))


def stages_at(**speeds: float) -> list[Stage]:
    return [Stage(name.replace("_", " "), speed, "") for name, speed in speeds.items()]


FAST = {"disk": 9e3, "decode": 9e3, "crop_and_resize": 9e3, "rest_of_the_augmentation": 9e3}


@pytest.mark.parametrize(
    ("slow", "network", "workers", "name", "helps"),
    [
        ({}, 10, 2, "The network", "Another device"),
        ({"disk": 100}, 9e3, 2, "The disk", "Packed data"),
        ({"decode": 100}, 9e3, 2, "Decoding", "--workers 4"),
        ({"decode": 100}, 9e3, 4, "Decoding", "--as raw"),
        ({"crop_and_resize": 100}, 9e3, 2, "Cutting and resizing", "--workers 4"),
        ({"rest_of_the_augmentation": 100}, 9e3, 2, "The rest of the augmentation", "a GPU"),
    ],
)
def test_the_bottleneck_is_named_with_what_would_help(slow, network, workers, name, helps):
    sentence = verdict(stages_at(**FAST | slow, batches=99, network=network), workers, 4)
    assert sentence.startswith(f"{name} is the bottleneck: ")
    assert helps in sentence


def test_benchmark_data_measures_each_stage(command, tmp_path):
    folder = folder_of(tmp_path)
    words = ("--network", "resnet18", "--batch", 2, "--seconds", 0.01, "--workers", 0)
    answer = command(
        "benchmark", "data", folder, *words, "--root", tmp_path, "--threads", 1, "--json"
    )
    assert answer.status == 0
    names = [stage["name"] for stage in answer.json["stages"]]
    assert names[:3] == ["disk", "decode", "crop and resize"]
    assert names[-3:] == ["batches", "network", "end to end"]
    assert all(stage["images_per_second"] > 0 for stage in answer.json["stages"])
    assert answer.json["bottleneck"].startswith("The network is the bottleneck: ")


def test_benchmark_data_refuses_what_it_cannot_measure(command, tmp_path):
    assert command("benchmark", "data", tmp_path, "--network", "resnet20").status == 2
    assert "no data" in command("benchmark", "data", tmp_path / "none").complaint
    damaged = folder_of(tmp_path) / "train" / "a" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:5_000])
    words = ("--seconds", 0.01, "--root", tmp_path, "--batch", 8)
    assert "0.png is damaged" in command("benchmark", "data", tmp_path / "photos", *words).complaint


def test_of_any_two_sides_each_is_started_first_in_every_other_round(monkeypatch):
    started = []

    class Fake:
        def __init__(self, stack, module, name, options):
            self.name = name
            started.append(name)

        def turn(self):
            return {"images_per_second": float(len(started))}

    monkeypatch.setattr(sides, "Side", Fake)
    turns = sides.compare("a module", dict.fromkeys("abc", ()), rounds=6)
    rounds = [started[i : i + 3] for i in range(0, 18, 3)]
    assert {each: len(found) for each, found in turns.items()} == dict.fromkeys("abc", 6)
    for a, b in ("ab", "ac", "bc"):
        assert sum(each.index(a) < each.index(b) for each in rounds) == 3


def test_fitting_ends_where_none_is_wrong_or_the_steps_are_over_or_the_loss_is_no_number():
    labels = torch.arange(32) % 3
    images = torch.eye(3)[labels][:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    recipe = ClassificationRecipe("nin", batch=32, norm_group=32, drops=(), optimizer="rmsprop")

    def tried(lr: float, steps: int) -> dict[str, object]:
        how = replace(recipe, lr=lr, steps=steps)
        return fitting.attempt("nin", "raised", how, images, labels, ComputeConfig(threads=2))

    learned = tried(5e-4, 50)
    assert learned["wrong"] == 0 and learned["steps"] in range(5, 50, 5)
    unmoved = tried(0.0, 6)  # looked at after the last step, too
    assert unmoved["wrong"] > 0 and unmoved["steps"] == 6
    assert tried(1e20, 6)["wrong"] is None


def test_fitting_counts_what_is_wrong_of_the_first_pictures_of_each_class(tmp_path):
    draw = np.random.default_rng(0)
    for n in range(50):
        own = tmp_path / "photos" / ("val" if n < 6 else "train") / "abc"[n % 3]
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(
            own / f"{n:02}.png"
        )
    for whole in (False, True):
        data = load(str(tmp_path / "photos"), tmp_path, size=32, as_files=whole)
        images, labels = fitting.pictures(data, 32)
        assert images.shape == (32, 3, 32, 32) and torch.bincount(labels).tolist() == [11, 11, 10]
    ever = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    with torch.no_grad():
        ever[1].weight.zero_(), ever[1].bias.copy_(torch.tensor([0.0, 0, 1]))
    assert fitting.wrong(ever, images, labels, ComputeConfig(threads=2)) == 22 and ever.training
    few = replace(data, train=data.train.subset(torch.arange(20)))
    with pytest.raises(SystemExit, match="photos has 20 training pictures, not 32"):
        fitting.pictures(few, 32)


class Watched:
    """A source of photographs of which parts are asked for."""

    size, pixels = (400, 300), np.zeros((300, 400, 3), np.uint8)

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, int]] = []

    def name(self, i: int) -> str:
        return f"{i}.jpg"

    def image(self, i: int) -> "Watched":
        return self

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        self.asked.append((left, top, right, bottom))
        return self.pixels[top:bottom, left:right]


def test_only_the_part_that_is_cut_counts_as_decoded():
    source = Watched()
    pictures = ImageFiles(source, torch.arange(4), torch.tensor([0, 0, 1, 1]))
    data = Data("pets", "", ("cat", "dog"), pictures)
    recipe = replace(recipe_for("resnet18", "pets"), batch=2, norm_group=2, scales=(300, 400))
    pieces = decoding(Bench(data, recipe, ComputeConfig(), workers=0, seconds=0.0))
    next(pieces)
    source.asked.clear()
    assert next(pieces) == 1
    ((left, top, right, bottom),) = source.asked
    assert 150 < right - left < 300 and 150 < bottom - top < 300
