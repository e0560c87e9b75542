"""True statistics of a trained network are measured over the training set; nothing else changes."""

import itertools

import torch
from conftest import EXACT

from residual.data.datasets import apply_split
from residual.data.loader import LoaderOptions
from residual.data.sources import digits
from residual.tasks.classification import loader
from residual.tasks.classification.load import load


def test_statistics_are_those_of_all_training_images(command, finished, tmp_path):
    out = tmp_path / "true.safetensors"
    answer = command("statistics", finished, "--out", out, "--threads", 1)
    assert answer.status == 0, answer.err
    before, after, data = load(finished), load(out), digits()
    batch = before.recipe.batch
    steps = -(-len(data.train) // batch)
    assert f"statistics of {steps * batch:,} training images" in answer.out
    batches = loader.batches(
        before.recipe, data, before.preprocessing, LoaderOptions(torch.device("cpu"))
    )
    conv = before.net.conv1[0][0]
    with torch.no_grad():
        maps = [conv(images).double() for images, _ in itertools.islice(batches, steps)]
    mean = torch.stack([each.mean(dim=(0, 2, 3)) for each in maps]).mean(dim=0)
    own = dict(after.net.named_buffers())
    assert torch.allclose(own["conv1.0.1.running_mean"].double(), mean, atol=1e-6)
    old = dict(before.net.named_buffers())
    assert not torch.allclose(own["conv1.0.1.running_mean"], old["conv1.0.1.running_mean"])
    weights = dict(before.net.named_parameters())
    assert all(torch.equal(each, weights[name]) for name, each in after.net.named_parameters())


def test_images_that_are_held_out_are_not_measured(command, tmp_path):
    run, out = tmp_path / "run", tmp_path / "true.safetensors"
    words = ("train", "resnet8", "--steps", 3, "--set", "split=45k5k", "--out", run, *EXACT)
    assert command(*words).status == 0
    answer = command("statistics", run, "--out", out, "--threads", 1)
    assert answer.status == 0, answer.err
    before, after = load(run), load(out)
    rest = apply_split(digits(), "45k5k")
    steps = -(-len(rest.train) // before.recipe.batch)
    assert len(rest.train) < len(digits().train)
    assert f"statistics of {steps * before.recipe.batch:,} training images" in answer.out
    batches = loader.batches(
        before.recipe, rest, before.preprocessing, LoaderOptions(torch.device("cpu"))
    )
    with torch.no_grad():
        seen = [x for x, _ in itertools.islice(batches, steps)]
        maps = torch.cat([before.net.conv1[0][0](x).double() for x in seen])
    own = dict(after.net.named_buffers())
    assert torch.allclose(
        own["conv1.0.1.running_mean"].double(), maps.mean(dim=(0, 2, 3)), atol=1e-6
    )
    exact = maps.var(dim=(0, 2, 3), correction=0)
    assert torch.allclose(own["conv1.0.1.running_var"].double(), exact, rtol=1e-5)


def test_a_file_that_is_there_is_left_alone(command, finished, tmp_path):
    (tmp_path / "old").write_text("mine")
    answer = command("statistics", finished, "--out", tmp_path / "old")
    assert answer.status == 1 and "exists already" in answer.complaint
    assert (tmp_path / "old").read_text() == "mine"
