"""Photographs from the first look to the last, by the commands that a person types: every kind of
picture and every kind of damage, through check, train, evaluate and predict."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from archives import unpack
from conftest import EXACT
from test_decode import MATRIX, MODES, options, saved

from residual.data.folder import open_folder
from residual.data.loader import LoaderOptions
from residual.models.registry import build
from residual.tasks.classification.loader import batches, preprocessing
from residual.tasks.classification.loop import start, train
from residual.tasks.classification.train import recipe_for

SHARED = os.environ.get("RESIDUAL_SHARED", "")
needs_shared = pytest.mark.skipif(not SHARED, reason="needs RESIDUAL_SHARED: the 200 photographs")
SMALL = ("--set", "batch=8", "--set", "norm_group=4", "--set", "size=32", "--set", "mean=channel")
DAMAGED = {
    "empty.jpg": b"",
    "text.jpg": b"this is no picture",
    "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
    "half.png": b"\x89PNG\r\n\x1a\n",
}


def every_kind(folder: Path) -> None:
    """The decoder's matrix as files: each format with each mode that it holds, turned or not."""
    folder.mkdir(parents=True)
    for form, mode, orientation in MATRIX:
        if orientation in (1, 6):
            name = f"{form}-{mode.replace(';', '')}-{orientation}.{form.lower()}"
            made, _ = MODES[mode]
            (folder / name).write_bytes(saved(made(), form, **options(form, mode, orientation)))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    """Two classes; every kind of picture in train/ and in test/."""
    root = tmp_path_factory.mktemp("zoo") / "zoo"
    for place, name in itertools.product(("train", "test"), ("cat", "dog")):
        every_kind(root / place / name)
    return root


@pytest.fixture(scope="module")
def spoilt(zoo, tmp_path_factory) -> Path:
    """The same with damaged files in test/dog."""
    import shutil

    root = tmp_path_factory.mktemp("spoilt") / "zoo"
    shutil.copytree(zoo, root)
    for name, content in DAMAGED.items():
        (root / "test" / "dog" / name).write_bytes(content)
    return root


def test_every_kind_of_picture_is_checked_trained_on_evaluated_and_predicted(
    command, zoo, spoilt, tmp_path
):
    assert command("data", "check", zoo).status == 0
    run = tmp_path / "run"
    words = ("train", "resnet18", "--data", zoo, "--root", tmp_path, "--steps", 2, "--out", run)
    trained = command(*words, *SMALL, *EXACT)
    assert trained.status == 0, trained.err
    checked = command("data", "check", spoilt)
    assert checked.status == 1 and all(name in checked.out + checked.err for name in DAMAGED)
    judged = command("evaluate", run, "--data", spoilt, "--root", tmp_path, "--json", *EXACT[:2])
    assert judged.status == 0, judged.err
    assert judged.json["damaged"] == len(DAMAGED)
    assert judged.json["seen"] == len(list((spoilt / "test").rglob("*.*")))
    assert all(name in judged.err for name in DAMAGED)
    pictures = [next((zoo / "test" / "cat").glob("PNG-RGB-*")), spoilt / "test/dog/text.jpg"]
    answered = command("predict", run, *pictures, "--json", *EXACT[:2])
    assert answered.status == 1
    whole, damaged = answered.json
    assert {each["label"] for each in whole["labels"]} == {"cat", "dog"} and damaged["error"]


@pytest.mark.parametrize("kind", ["torn", "link to nothing"])
def test_a_damaged_training_picture_ends_the_training_or_is_skipped(command, zoo, tmp_path, kind):
    import shutil

    root, run = tmp_path / "zoo", tmp_path / "run"
    shutil.copytree(zoo, root)
    torn = root / "train" / "dog" / "torn.jpg"
    if kind == "torn":
        torn.write_bytes(b"torn")
    else:
        torn.symlink_to("nothing.jpg")
    words = ("--data", root, "--root", tmp_path, "--steps", 12, *SMALL, *EXACT)
    stopped = command("train", "resnet18", *words, "--out", tmp_path / "stopped")
    assert stopped.status == 1 and "torn.jpg" in stopped.err.splitlines()[-1]
    skipped = command("train", "resnet18", *words, "--out", run, "--bad-images", "skip")
    assert skipped.status == 0, skipped.err
    assert "another of its class" in skipped.err
    assert json.loads((run / "result.json").read_text())["skipped"] == ["train/dog/torn.jpg"]


def test_photographs_and_small_pictures_are_not_taken_for_one_another(command, zoo, tmp_path):
    words = ("--data", zoo, "--root", tmp_path, "--out", tmp_path / "run", *EXACT)
    padded = command("train", "resnet18", *words, "--set", "crop=pad")
    assert padded.status == 1 and "crop=scale or aspect" in padded.complaint
    small = command("train", "resnet8", *words, "--recipe", "imagenet")
    assert small.status == 1 and "crop=pad" in small.err.splitlines()[-1]
    frozen = command("train", "resnet18", *words, "--recipe", "finetune")
    assert frozen.status == 1 and "--weights" in frozen.complaint
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def ten(tmp_path_factory) -> Path:
    """The photographs as ten classes of twenty, by name."""
    folder = tmp_path_factory.mktemp("photographs")
    unpack(Path(SHARED) / "imagenet-sample.tar", folder)
    for i, file in enumerate(sorted(folder.rglob("*.JPEG"))):
        place = folder / "ten" / ("train" if i % 20 < 15 else "val") / f"class{i // 20}"
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / file.name)
    return folder / "ten"


@needs_shared
@pytest.mark.parametrize("name", ["imagenet", "modern"])
def test_six_steps_on_photographs_equal_those_of_a_plain_loop_to_1e_9(ten, tmp_path, name):
    recipe = replace(
        recipe_for("resnet18", "ten", name), batch=8, norm_group=8, steps=6, drops=(4,), size=64,
        mean="channel", warmup=(2, 0.01), lr=0.05, repeats=1,
    )  # fmt: skip
    data = open_folder(ten, tmp_path)
    before = preprocessing(recipe, data)

    def double():
        for x, y in batches(recipe, data, before, LoaderOptions(torch.device("cpu"))):
            yield x.double(), y.double() if y.ndim == 2 else y

    torch.manual_seed(0)
    plain = build("resnet18", 10).double().train()
    torch.manual_seed(0)
    run = start(build("resnet18", 10).double(), recipe)
    steps = list(train(run, double(), recipe))
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    free = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free}], 1.0, 0.9
    )
    for step, (x, y) in zip(steps, double(), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = step.lr
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(x), y, label_smoothing=recipe.smoothing)
        loss.backward()
        optimizer.step()
        assert float(step.loss) == pytest.approx(float(loss.detach()), abs=1e-9)
    theirs = plain.state_dict()
    for key, ours in run.net.state_dict().items():
        if "num_batches" not in key:
            assert (ours - theirs[key]).abs().max() < 1e-9, key


@needs_shared
def test_equal_seeds_give_equal_weights_on_photographs_with_any_number_of_workers(
    command, ten, tmp_path
):
    found = []
    for workers in (0, 2):
        words = ("--data", ten, "--root", tmp_path, "--steps", 3, "--workers", workers)
        answer = command(
            *("train", "resnet18", *words, *SMALL, *EXACT),
            *("--out", tmp_path / str(workers), "--json"),
        )
        assert answer.status == 0, answer.err
        found.append(answer.json["weights_sha256"])
    assert found[0] == found[1]
