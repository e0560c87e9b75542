"""True statistics of a trained network are measured over the training set; nothing else changes."""

import itertools

import torch

from residual.data.digits import digits
from residual.data.feeding import Place
from residual.runs import supply
from residual.runs.loading import load


def test_statistics_are_those_of_all_training_images(command, finished, tmp_path):
    out = tmp_path / "true.safetensors"
    answer = command("statistics", finished, "--out", out, "--threads", 1)
    assert answer.status == 0, answer.err
    before, after, data = load(finished), load(out), digits()
    batch = before.recipe.batch
    steps = -(-len(data.train) // batch)
    assert f"statistics of {steps * batch:,} training images" in answer.out
    batches = supply.batches(before.recipe, data, before.preprocessing, Place(torch.device("cpu")))
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


def test_a_file_that_is_there_is_left_alone(command, finished, tmp_path):
    (tmp_path / "old").write_text("mine")
    answer = command("statistics", finished, "--out", tmp_path / "old")
    assert answer.status == 1 and "exists already" in answer.complaint
    assert (tmp_path / "old").read_text() == "mine"
