"""What `--recipe finetune --weights` claims: trained weights learn classes of one's own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EXACT, Answer
from PIL import Image
from torch import Tensor, nn

from residual.data.datasets import apply_split
from residual.data.folder import open_folder
from residual.device import ComputeConfig
from residual.runs import folder
from residual.tasks.classification.evaluate import evaluate_member
from residual.tasks.classification.inference import InferenceOptions, Member
from residual.tasks.classification.load import load, read_recipe
from residual.tasks.classification.recipe import RECIPES
from residual.tasks.classification.train import advance, begin, from_weights
from residual.training import checkpoint
from residual.training.early_stopping import EarlyStopping
from residual.training.events import RunOptions
from residual.weights import convert
from residual.weights.convert import write

CLASSES = ("ant", "bee", "cat")
SIZES = {"batch": 8, "norm_group": 8, "size": 32, "shorter": 32, "steps": 6, "patience": 3}
SMALL = [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def insects(tmp_path_factory) -> Path:
    """Three classes of 12 pictures to learn from, a few to be tested on. No test may change it."""
    place = tmp_path_factory.mktemp("insects")
    draw = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (place / split / name).mkdir(parents=True)
            for i in range(n if label else n - n // 4):  # of ants there are fewer
                noise = draw.integers(0, 120, (48, 40, 3), dtype=np.uint8)
                noise[..., label] += 100
                Image.fromarray(noise).save(place / split / name / f"{i}.jpg")
    return place


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> Path:
    """A file of weights as torchvision publishes them: random ones, for 1,000 classes."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18()
    for module in net.modules():  # statistics that cannot be taken for fresh ones
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    write(convert.convert(net.state_dict(), "resnet18"), path)
    return path


def finetuned(command, insects: Path, weights: Path, out: Path, *words: object) -> Answer:
    return command(
        "train", "resnet18", "--recipe", "finetune", "--weights", weights, "--data", insects,
        "--root", out.parent / "root", "--out", out, "--workers", 0, "--json", *SMALL, *EXACT,
        *words,
    )  # fmt: skip


def state_at(run: Path, step: int) -> dict[str, Tensor]:
    tensors, _ = checkpoint.read(run / "checkpoints" / f"step-{step:08d}.safetensors")
    return {k.removeprefix("net."): t for k, t in tensors.items() if k.startswith("net.")}


@pytest.fixture(scope="module")
def run(command, insects, thousand, tmp_path_factory) -> Path:
    """A finished run. No test may change it."""
    out = tmp_path_factory.mktemp("finetuned") / "run"
    answer = finetuned(command, insects, thousand, out)
    assert answer.status == 0, answer.err
    assert answer.json["seen"] == 6
    return out


def test_the_body_begins_with_the_weights_and_the_head_is_new(run, thousand):
    first, given = state_at(run, 0), load(thousand).net.state_dict()
    assert first["fc.weight"].shape == (3, 512) and given["fc.weight"].shape == (1000, 512)
    for name, tensor in first.items():
        if not name.startswith("fc."):
            assert torch.equal(tensor, given[name]), name
    assert tuple(json.loads((run / "classes.json").read_text())) == CLASSES


def test_frozen_statistics_are_those_of_the_weights_in_the_result(run, thousand):
    found, given = load(run).net.state_dict(), load(thousand).net.state_dict()
    kept = [name for name in given if name.endswith(("running_mean", "running_var"))]
    assert len(kept) == 40
    assert all(torch.equal(found[name], given[name]) for name in kept)
    moved = [n for n in given if not n.startswith("fc.") and not torch.equal(found[n], given[n])]
    assert any(name.endswith("weight") for name in moved)


def test_pictures_are_seen_as_the_weights_expect(run, thousand):
    found, given = load(run).preprocessing, load(thousand).preprocessing
    assert torch.equal(found.mean, given.mean) and torch.equal(found.std, given.std)


def test_the_recipe_names_the_weights(run, thousand):
    expected = checkpoint.weights_sha256(load(thousand).net.state_dict())
    assert read_recipe(run).start == expected


def test_the_head_is_kept_where_the_classes_are_the_same(run, insects, tmp_path):
    start, again = load(run), tmp_path / "again"
    recipe = from_weights(read_recipe(run), start)
    where = {"where": str(insects), "root": str(tmp_path)}
    begin(again, recipe, open_folder(insects, tmp_path), where, ComputeConfig(threads=1), start)
    first, given = state_at(again, 0), start.net.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in first.items())


def test_the_last_layer_learns_ten_times_as_fast_as_the_rest(thousand, insects, run, tmp_path):
    from residual.tasks.classification import loop

    learner = loop.start(load(run).net, read_recipe(run))
    shares = {id(p): g["lr_scale"] for g in learner.optimizer.param_groups for p in g["params"]}
    for name, parameter in learner.net.named_parameters():
        assert shares[id(parameter)] == (1.0 if name.startswith("fc.") else 0.1), name


def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, insects, thousand, tmp_path):
    stopped, trained = tmp_path / "stopped", load(thousand)
    data = open_folder(insects, tmp_path / "root")
    where = {"where": str(insects), "root": str(tmp_path / "root")}
    begin(stopped, read_recipe(run), data, where, ComputeConfig(threads=1), trained)
    for event in advance(stopped, data, RunOptions(checkpoint_minutes=0)):
        if event.step == 3:
            break
    found = next(m.result for m in advance(stopped, data, RunOptions()) if m.result)
    whole = json.loads((run / "result.json").read_text())
    assert found["weights_sha256"] == whole["weights_sha256"]
    assert found["chosen_step"] == whole["chosen_step"]


def test_a_stop_before_the_first_step_loses_nothing(command, run, insects, thousand, tmp_path):
    fresh, data = tmp_path / "fresh", open_folder(insects, tmp_path)
    where = {"where": str(insects), "root": str(tmp_path)}
    begin(fresh, read_recipe(run), data, where, ComputeConfig(threads=1), load(thousand))
    answer = command("resume", fresh, "--json", "--workers", 2)
    assert answer.status == 0, answer.err
    whole = json.loads((run / "result.json").read_text())
    assert answer.json["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("balance", ["sampler", "weights"])
def test_classes_of_unequal_size_are_balanced(command, run, insects, thousand, tmp_path, balance):
    out = tmp_path / "run"
    words = ("--balance", balance, "--set", "steps=2", "--set", "patience=1")
    answer = finetuned(command, insects, thousand, out, *words)
    assert answer.status == 0, answer.err
    assert json.loads((out / "recipe.json").read_text())["balance"] == balance


def test_weights_of_another_network_are_refused(command, insects, thousand, tmp_path):
    answer = command(
        "train", "resnet34", "--recipe", "finetune", "--weights", thousand, "--data", insects,
        "--root", tmp_path, "--out", tmp_path / "run",
    )  # fmt: skip
    assert answer.status == 1
    assert "are those of resnet18, not of resnet34" in answer.complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("size", "test_size"), [(32, 0), (224, 64)])
def test_a_mean_image_of_weights_for_other_sizes_becomes_its_channels_means(
    insects, thousand, tmp_path, size, test_size
):
    weights, image = load(thousand), torch.rand(3, 224, 224)
    weights = replace(weights, preprocessing=replace(weights.preprocessing, mean=image))
    recipe = replace(RECIPES["finetune"], network="resnet18", size=size, test_size=test_size)
    where = {"where": str(insects), "root": str(tmp_path)}
    data = open_folder(insects, tmp_path)
    recipe = from_weights(recipe, weights)
    run = begin(tmp_path / "run", recipe, data, where, ComputeConfig(threads=1), weights)
    found = load(run).preprocessing
    assert torch.allclose(found.mean[:, 0, 0], image.mean(dim=(1, 2)))
    assert found.size == (test_size or size,) * 2 and found.shorter == 256


def test_finetuning_without_weights_is_refused(command, insects, tmp_path):
    words = ("--recipe", "finetune", "--data", insects, "--root", tmp_path)
    answer = command("train", "resnet18", *words, "--out", tmp_path / "run")
    assert answer.status == 1
    assert "--weights" in answer.complaint


@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_file_that_holds_no_weights_is_refused(command, insects, tmp_path, content):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    answer = finetuned(command, insects, file, tmp_path / "run")
    assert answer.status == 1
    assert "weights.safetensors" in answer.complaint


def test_a_name_that_is_no_file_and_no_public_weights_is_refused(command, insects, tmp_path):
    answer = finetuned(command, insects, Path("resnet18.NONE"), tmp_path / "run")
    assert answer.status == 1
    assert "resnet18.NONE" in answer.complaint


# Looks


def validations(patience: int, *wrong: int) -> tuple[EarlyStopping, nn.Module]:
    """So many wrong at each look; the weight of the network says after which step."""
    seen, net = EarlyStopping(patience), nn.Linear(1, 1)
    for step, each in enumerate(wrong, 1):
        nn.init.constant_(net.weight, step)
        seen.add(step, each, net)
    return seen, net


@pytest.mark.parametrize(
    ("patience", "wrong", "chosen", "ended"),
    [
        (2, (9, 8, 7), 3, False),
        (2, (9, 7, 8), 2, False),
        (2, (9, 7, 8, 8), 2, True),
        (2, (9, 7, 7, 7), 2, True),  # as good is not better, and the first is kept
        (3, (9, 7, 8, 8), 2, False),
        (2, (7, 8, 6, 8, 5), 5, False),
        (1, (5, 5), 1, True),
    ],
)
def test_the_best_look_is_kept_and_patience_ends(patience, wrong, chosen, ended):
    seen, _ = validations(patience, *wrong)
    assert (seen.best_step, seen.ended) == (chosen, ended)
    assert seen.best["weight"].item() == chosen


def test_without_patience_nothing_is_kept_and_nothing_ends():
    seen, _ = validations(0, 5, 5, 5, 5)
    assert (seen.best_step, seen.ended, seen.best) == (None, False, {})
    assert seen.plateaus(2) == 1


def test_looks_go_on_from_a_checkpoint():
    whole, _ = validations(2, 9, 7, 8, 8)
    part, net = validations(2, 9, 7)
    other = EarlyStopping(2)
    other.restore(json.loads(json.dumps(part.errors)), part.best)
    for step in (3, 4):
        other.add(step, 8, net)
    assert (other.errors, other.best_step, other.ended) == (
        whole.errors,
        whole.best_step,
        whole.ended,
    )
    assert torch.equal(other.best["weight"], whole.best["weight"])


def test_an_early_end_has_the_weights_of_the_best_look(insects, thousand, run, tmp_path):
    recipe = replace(read_recipe(run), steps=60, patience=2, lr=0.1)
    data, early = open_folder(insects, tmp_path / "root"), tmp_path / "early"
    where = {"where": str(insects), "root": str(tmp_path / "root")}
    begin(early, recipe, data, where, ComputeConfig(threads=1), load(thousand))
    found = next(m.result for m in advance(early, data, RunOptions()) if m.result)
    log = folder.read_log(early / "log.jsonl")
    wrong = {line["step"]: line["val_wrong"] for line in log if "val_wrong" in line}
    best = min(wrong, key=lambda step: wrong[step])
    assert found["chosen_step"] == best
    assert found["steps_taken"] == max(wrong) < 60
    assert sum(step > best for step in wrong) == 2
    kept = load(early)
    choices = apply_split(data, recipe.split).selection_set
    assert choices is not None
    seen, _, _ = evaluate_member(
        Member(kept.net, kept.preprocessing), choices, 3, InferenceOptions(ComputeConfig())
    )
    assert seen.wrong_top1 == wrong[best]


def test_exported_weights_begin_a_training_as_those_of_the_run_do(command, finished, tmp_path):
    exported = tmp_path / "exported.safetensors"
    command("export", finished, "--format", "safetensors", "--out", exported)
    digests = set()
    for i, weights in enumerate((finished, exported)):
        words = ("--weights", weights, "--steps", 1, "--out", tmp_path / f"{i}", "--json", *EXACT)
        answer = command("train", "resnet8", *words)
        assert answer.status == 0, answer.err
        digests.add(answer.json["weights_sha256"])
    assert len(digests) == 1
    (tmp_path / "model.onnx").write_bytes(b"graph")
    answer = command("train", "resnet8", "--weights", tmp_path / "model.onnx", "--steps", 1)
    assert answer.status == 1 and "name the run that it was made of" in answer.complaint
