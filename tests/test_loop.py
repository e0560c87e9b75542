"""What loop.py claims: Section 3.4's training loop, beside one so plain that it is right."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.data.batches import per_pixel_mean, training_batches
from residual.data.digits import digits
from residual.nets.networks import build
from residual.training.loop import pace, start, train
from residual.training.recipe import CIFAR, Recipe, learning_rate

TEN = replace(
    CIFAR, network="resnet8", batch=16, norm_group=16, steps=10, drops=(5, 8), warmup=(2, 0.01)
)


def network(name: str = "resnet8") -> nn.Module:
    torch.manual_seed(0)
    return build(name).double()


def batches(recipe: Recipe, step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    images = digits().train
    for x, y in training_batches(
        images,
        per_pixel_mean(images),
        batch=recipe.batch,
        seed=0,
        padding=1,
        mirror=True,
        step=step,
    ):
        yield x.double(), y


def plain_loop(net: nn.Module, recipe: Recipe) -> list[float]:
    """SGD as every textbook has it, on whole batches."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others}],
        lr=recipe.lr,
        momentum=recipe.momentum,
    )
    losses = []
    for step, (x, y) in enumerate(islice(batches(recipe), recipe.steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad()
        if recipe.norm_group == recipe.batch:
            loss = F.cross_entropy(net(x), y)
            loss.backward()
        else:
            loss = on_many_devices(net, x.split(recipe.norm_group), y.split(recipe.norm_group))
        optimizer.step()
        losses.append(loss.item())
    return losses


def on_many_devices(net: nn.Module, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """A copy of the network looks at each group; gradients and statistics are their means."""
    copies = [deepcopy(net) for _ in images]
    losses = [F.cross_entropy(n(x), y) for n, x, y in zip(copies, images, labels, strict=True)]
    for loss in losses:
        loss.backward()
    for own, *theirs in zip(net.parameters(), *(n.parameters() for n in copies), strict=True):
        own.grad = torch.stack([parameter.grad for parameter in theirs]).mean(dim=0)
    for own, *theirs in zip(net.buffers(), *(n.buffers() for n in copies), strict=True):
        own.copy_(torch.stack([statistic.double() for statistic in theirs]).mean(dim=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", ["resnet8", "plain8", "resnet8-B"])
@pytest.mark.parametrize("norm_group", [16, 8, 4])
def test_ten_steps_equal_those_of_a_plain_loop_to_1e_9(name, norm_group):
    recipe = replace(TEN, network=name, norm_group=norm_group)
    plain, run = network(name), start(network(name), recipe)
    expected = plain_loop(plain, recipe)
    losses = [float(step.loss) for step in train(run, batches(recipe), recipe)]
    assert losses == pytest.approx(expected, abs=1e-6)  # the sum of the loss is in float32
    theirs = dict(plain.state_dict())
    for key, ours in run.net.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert (ours - theirs[key]).abs().max() < 1e-9, key


def test_the_size_of_the_norm_group_changes_the_answer():
    def weights(norm_group: int) -> Tensor:
        recipe = replace(TEN, norm_group=norm_group)
        run = start(network(), recipe)
        list(train(run, batches(recipe), recipe))
        return run.net.fc.weight

    assert (weights(16) - weights(4)).abs().max() > 1e-4


@pytest.mark.parametrize("groups", [1, 2, 3, 8])
def test_running_statistics_move_once_by_a_tenth_toward_the_mean_over_the_groups(groups):
    x = torch.randn(8 * groups, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    norm = nn.BatchNorm2d(3).double()
    for g, part in enumerate(x.chunk(groups)):
        norm.momentum = pace(g, groups)
        norm(part)
    means = torch.stack([part.mean(dim=(0, 2, 3)) for part in x.chunk(groups)]).mean(dim=0)
    variances = torch.stack([part.var(dim=(0, 2, 3)) for part in x.chunk(groups)]).mean(dim=0)
    assert torch.allclose(norm.running_mean, 0.1 * means, rtol=0, atol=1e-12)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * variances, rtol=0, atol=1e-12)


def test_a_step_tells_its_rate_its_loss_and_what_was_wrong_before_it():
    recipe = replace(TEN, steps=1, drops=(), warmup=(0, 0.01))
    net, (x, y) = network(), next(batches(recipe))
    scores = network().train()(x)
    (step,) = train(start(net, recipe), batches(recipe), recipe)
    assert (step.number, step.lr, step.seen) == (1, 0.1, 16)
    assert int(step.wrong) == sum(
        int(best) != int(label) for best, label in zip(scores.argmax(dim=1), y, strict=True)
    )
    assert float(step.loss) == pytest.approx(F.cross_entropy(scores, y).item(), abs=1e-6)
    assert not step.loss.requires_grad


def test_the_rate_of_each_step_is_that_of_the_schedule():
    steps = list(train(start(network(), TEN), batches(TEN), TEN))
    assert [step.number for step in steps] == list(range(1, 11))
    rates = [0.01] * 2 + [0.1] * 3 + [0.01] * 3 + [0.001] * 2
    assert [step.lr for step in steps] == pytest.approx(rates)


def test_weight_decay_is_on_weights_and_on_nothing_else():
    net = network()
    decayed, free = start(net, TEN).optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert all(p.ndim in (2, 4) for p in decayed["params"])
    assert {names[id(p)] for p in free["params"]} == {
        name for name, p in net.named_parameters() if p.ndim == 1
    }
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_a_loop_that_stops_and_goes_on_takes_the_same_steps():
    whole, parts = start(network(), TEN), start(network(), TEN)
    expected = [float(step.loss) for step in train(whole, batches(TEN), TEN)]
    losses = []
    for step in train(parts, batches(TEN), TEN):
        losses.append(float(step.loss))
        if step.number == 4:
            break
    losses += [float(step.loss) for step in train(parts, batches(TEN, step=4), TEN)]
    assert losses == expected
    assert parts.step == 10


def test_a_run_that_is_over_takes_no_step_and_needs_no_batch():
    run = start(network(), TEN)
    run.step = 10
    assert not list(train(run, iter(()), TEN))


def test_the_network_is_trained_in_training_mode():
    run = start(network().eval(), TEN)
    next(train(run, batches(TEN), TEN))
    assert run.net.training
