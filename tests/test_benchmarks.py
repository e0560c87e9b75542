"""The usual loop, which ours is measured against, does the same work."""

import torch

from benchmarks import usual_loop
from residual.data.batches import crop_and_mirror, per_pixel_mean
from residual.data.digits import digits
from residual.data.images import Images
from residual.nets.networks import build
from residual.runs.training import recipe_for
from residual.training.recipe import with_steps


def test_both_sides_draw_from_the_same_crops_and_mirrors():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=draw)
    images = Images(pixels, torch.tensor([0, 1]))
    preprocessing, recipe = per_pixel_mean(images), recipe_for("resnet8", "cifar10")
    n = 3_000  # 9 x 9 places and 2 directions: each comes about 18 times
    ids = torch.zeros(n, dtype=torch.int64)
    inputs = preprocessing(pixels[ids])
    ours = crop_and_mirror(inputs, ids, torch.arange(n), 0, recipe.padding, recipe.mirror)
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
