"""The compared networks learn as they are told to."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from residual.models.baselines.layers import initialize
from residual.models.registry import BASELINES, build
from residual.tasks.classification import loop
from residual.tasks.classification.recipe import ClassificationRecipe
from residual.tasks.classification.train import recipe_for
from residual.training import checkpoint
from residual.training.loop import StepOptions

SMALL = [name for name, baseline in BASELINES.items() if baseline.pixels == 32]


@pytest.mark.parametrize("name", SMALL)
def test_gradients_flow_to_every_parameter_and_steps_lower_the_loss(name):
    torch.manual_seed(0)
    recipe = tame(recipe_for(name, "cifar10"))
    recipe = replace(recipe, steps=8, lr=recipe.lr / 10)  # of eight images, not of a hundred
    net = build(name, 4)
    if name == "fitnet19":  # whose own start hardly lets a gradient through: hence its hints
        initialize(net, torch.nn.init.kaiming_normal_)
    images, labels = patterns()
    run = loop.start(net, recipe)
    steps = loop.train(run, iter([(images, labels)] * 8), recipe)
    next(steps)
    loop.accumulate(run, (images, labels), recipe, StepOptions(), 8)
    for path, p in net.named_parameters():
        if path.startswith("heads.") and not recipe.auxiliary:  # which a hint alone teaches
            assert p.grad is None
        else:
            assert p.grad is not None and p.grad.abs().sum() > 0, path
    run.optimizer.zero_grad()
    losses = [float(step.loss) for step in steps]
    assert min(losses) < losses[0]


def patterns() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight images of four classes that differ in their colours."""
    labels = torch.arange(8) % 4
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return 2 * colours[labels][:, :, None, None] + noise, labels


def tame(recipe: ClassificationRecipe) -> ClassificationRecipe:
    """For eight images."""
    return replace(recipe, batch=8, norm_group=8)


@pytest.mark.parametrize("name", [*SMALL, "googlenet", "bn-inception"])
def test_steps_of_a_baseline_equal_a_plain_loop(name):
    """Its dropouts are left out of both: their coins have a test of their own."""
    recipe = replace(tame(recipe_for(name, "cifar10")), steps=4 if name in SMALL else 2)
    size = 32 if name in SMALL else 224
    recipe = replace(recipe, batch=2, norm_group=2)
    if recipe.schedule == "drops":
        recipe = replace(recipe, drops=(recipe.steps // 2,))
    images, labels = torch.randn(2, 3, size, size).double(), torch.arange(2)
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        net = build(name, 4).double()
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        nets.append(net)
    ours, plain = nets
    steps = loop.train(loop.start(ours, recipe), iter([(images, labels)] * 4), recipe)
    found = [float(step.loss.detach()) for step in islice(steps, recipe.steps)]
    assert found == pytest.approx(plainly(plain, recipe, images, labels), rel=1e-9, abs=1e-9)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def plainly(net, recipe, images, labels) -> list[float]:
    """The same training, written out with one group for each parameter."""
    last = list(net.state_dict())[-1].rpartition(".")[0]
    groups = []
    for path, module in net.named_modules():
        for name, p in module.named_parameters(recurse=False):
            rate = 1.0 if path == last else recipe.backbone_rate
            rate *= recipe.convolution_rate if isinstance(module, torch.nn.Conv2d) else 1.0
            rate *= recipe.bias_rate if name == "bias" else 1.0
            rate *= recipe.heads_rate if path.startswith("heads") else 1.0
            decay = recipe.weight_decay * (recipe.last_decay if path == last else 1.0)
            groups.append({"params": [p], "lr": recipe.lr * rate,
                           "weight_decay": decay if p.ndim > 1 else 0.0, "rate": rate})  # fmt: skip
    if recipe.optimizer == "rmsprop":
        optimizer = torch.optim.RMSprop(groups, alpha=0.9)
    else:
        nesterov = recipe.optimizer == "nesterov"
        optimizer = torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov)
    losses = []
    for step in range(recipe.steps):
        rate = recipe.lr
        if recipe.schedule == "linear":
            rate *= 1 - (1 - recipe.factor) * step / recipe.drops[0]
        elif step >= recipe.drops[0]:
            rate *= recipe.factor
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
            if recipe.momentum_rise[0]:
                rise = (recipe.momentum_rise[1] - recipe.momentum) * step / recipe.momentum_rise[0]
                group["momentum"] = recipe.momentum + rise
        outputs = net.train()(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        parts = []
        for scores in outputs if recipe.auxiliary else outputs[:1]:
            if recipe.loss == "squared-hinge":
                targets = -torch.ones_like(scores)
                targets[range(len(labels)), labels] = 1.0
                parts.append(torch.relu(1 - targets * scores).pow(2).sum() / len(labels))
            else:
                parts.append(F.cross_entropy(scores, labels))
        loss = parts[0] + recipe.auxiliary * sum(parts[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shrink(net)
        losses.append(float(loss.detach()))
    return losses


def shrink(net) -> None:
    """Filters that are too long, one by one."""
    for module in net.modules():
        if hasattr(module, "max_norm"):
            for each in module.weight.data:
                if each.norm() > module.max_norm:
                    each.mul_(module.max_norm / (each.norm() + 1e-7))


@pytest.mark.parametrize("name", ["dsn", "fitnet19", "highway19"])
def test_a_baseline_that_stops_and_resumes_takes_the_same_steps(name):
    """With its dropout, its heads and its optimizer."""
    recipe = replace(tame(recipe_for(name, "cifar10")), steps=4)

    def begun() -> loop.ClassifierLearner:
        torch.manual_seed(3)
        return loop.start(build(name, 4), recipe)

    def steps(run: loop.ClassifierLearner, upto: int) -> list[float]:
        steps = loop.train(run, iter([patterns()] * 4), replace(recipe, steps=upto))
        return [float(step.loss) for step in steps]

    expected = steps(begun(), 4)
    first, second = begun(), begun()
    torch.manual_seed(9)  # which decides nothing
    found = steps(first, 2)
    checkpoint.restore(second, checkpoint.training_state(first), first.step)
    assert found + steps(second, 4) == expected
