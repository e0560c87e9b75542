"""A network that a training has had in hand is a module like any other."""

import copy
import io
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_api import ONE, colours
from torch import Tensor, nn
from torch.nn import functional

import residual
from residual.data.loader import training_batches
from residual.data.normalization import per_pixel_mean
from residual.data.sampler import DataConfig
from residual.data.sources import digits
from residual.models.registry import build
from residual.tasks.classification.loop import start, train
from residual.tasks.classification.recipe import changed
from residual.tasks.classification.train import recipe_for
from residual.training.checkpoint import weights_sha256
from residual.training.loop import Step

SMALL = {"batch": 8, "norm_group": 8, "steps": 6}
CHANGES = {"batch": 8, "norm_group": 8, "steps": 2, **ONE}
NAMES = pytest.mark.parametrize("name", ["resnet8", "nin"])  # batch normalization, and dropout


class Unusual(nn.Module):
    """One whose last registered layer is not its classifier, with normalization without weights."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.last = nn.Linear(8, num_classes)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.first = nn.Conv2d(3, 8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(images)).relu().mean(dim=(2, 3)))


class Deep(Unusual):
    """One whose rates of stochastic depth are read while it is built, and which changes inputs."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.rates = [x.item() for x in torch.linspace(0, 0.1, 4)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.sub_(0.1))


class Forgetful(Unusual):
    """One with dropout of two other kinds, which draw from torch's own generator."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.channels = nn.Dropout2d(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.channels(self.norm(self.first(images)).relu())
        return self.last(functional.dropout(maps, 0.5, self.training).mean(dim=(2, 3)))


class Transformed(Unusual):
    """One with an attribute that `load` sets."""

    transform = None


class Viewed(Unusual):
    """One that flattens with `view`, which no channels_last tensor can."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.first(images)).relu()
        return self.last(maps.view(len(images), 8, -1).mean(dim=2))


def begun(name: str) -> tuple[nn.Module, Iterator[Step]]:
    """A network, and its training on digits, one step at a time."""
    torch.manual_seed(0)
    net, images = build(name, 10), digits().train
    batches = training_batches(images, per_pixel_mean(images), DataConfig(batch=8, seed=0))
    recipe = changed(recipe_for(name, "digits", "digits"), SMALL)
    return net, train(start(net, recipe), batches, recipe)


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def scores(net: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(5)  # of ordinary dropout
    answer: Tensor = net(x)
    return answer


@NAMES
@pytest.mark.parametrize("n", [3, 8])
def test_between_two_steps_it_learns_from_batches_of_any_size_as_a_fresh_one_does(name, n):
    net, steps = begun(name)
    next(steps)
    fresh = build(name, 10)
    fresh.load_state_dict(net.state_dict())
    ours, theirs = copy.deepcopy(net).train(), fresh.train()
    assert torch.equal(scores(ours, images(n)), scores(theirs, images(n)))
    assert weights_sha256(ours.state_dict()) == weights_sha256(theirs.state_dict())


@NAMES
def test_looking_at_it_between_two_steps_changes_no_bit_of_the_training(name):
    (looked_at, steps), (alone, undisturbed) = begun(name), begun(name)
    for _ in steps:
        copy.deepcopy(looked_at).train()(images(3))
        looked_at.eval()(images(2))
    list(undisturbed)
    assert weights_sha256(looked_at.state_dict()) == weights_sha256(alone.state_dict())


@NAMES
def test_it_is_pickled_and_exported_and_its_names_stay(name):
    net, steps = begun(name)
    next(steps)
    net.eval()
    x, file = images(2), io.BytesIO()
    with torch.no_grad():
        expected = net(x)
        torch.save(net, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), expected)
        exported = torch.export.export(net, (x,)).module()
        assert torch.allclose(exported(x), expected, atol=1e-5)
    assert list(net.state_dict()) == list(build(name, 10).state_dict())


def test_hooks_from_before_the_training_are_called():
    net, called = build("resnet8", 10), []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_: called.append(1))
    start(net, changed(recipe_for("resnet8", "digits"), SMALL))
    net(images(8))
    assert len(called) == 7


def test_a_module_may_register_its_layers_in_any_order(tmp_path, monkeypatch):
    data = colours()
    monkeypatch.setenv("HOME", str(tmp_path))
    *_, last = residual.train(Unusual(2), data, out="~/run", **CHANGES)
    assert last.run == tmp_path / "run"
    assert set(residual.evaluate("~/run", data).per_class) == {"red", "blue"}
    assert len(residual.predict("~/run", data[0][:3])) == 3
    *_, again = residual.resume("~/run", data)
    assert again.result["weights_sha256"] == last.result["weights_sha256"]
    with pytest.raises(ValueError, match="arrays"):
        residual.evaluate("~/run")


def test_a_class_may_read_values_while_it_is_built(tmp_path):
    list(residual.train(Deep(2), colours(), out=tmp_path / "run", **CHANGES))
    rates, state = Deep().rates, torch.get_rng_state()
    assert residual.load(tmp_path / "run").rates == rates
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_of_any_kind_is_drawn_by_the_seed_and_the_step(tmp_path):
    digests = set()
    for seed, name in enumerate(("whole", "closed")):
        torch.manual_seed(0)
        net = Forgetful(2)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        events = residual.train(net, colours(), out=tmp_path / name, **CHANGES | {"steps": 4})
        *_, last = itertools.islice(events, 2 if name == "closed" else None)
        assert torch.equal(torch.get_rng_state(), state)
        events.close()
        *_, last = residual.resume(tmp_path / name, colours())
        digests.add(last.result["weights_sha256"])
    assert len(digests) == 1


def test_what_load_cannot_set_and_frozen_weights_are_refused_before_a_training(tmp_path):
    frozen = residual.create_model("resnet8"), Unusual(2)
    for net in frozen:
        next(net.parameters()).requires_grad_(False)
    reasons = "'transform': rename", "requires_grad of conv1", "requires_grad of last"
    for net, reason in zip((Transformed(2), *frozen), reasons, strict=True):
        with pytest.raises(ValueError, match=reason):
            next(residual.train(net, colours(), out=tmp_path / "run", **CHANGES))


def test_a_module_may_flatten_with_view(tmp_path, monkeypatch):
    data, run = colours(), tmp_path / "run"
    list(residual.train(Viewed(2), data, out=run, true_statistics=16, **CHANGES))
    assert residual.evaluate(run, data).seen == 40
    assert residual.load(run).explain(data[0][0]).label in data[2]
    monkeypatch.setattr(Viewed, "input_size", 224, raising=False)
    photographs = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    data, changes = (photographs, [0, 1] * 4, data[2]), {"size": 64, "test_size": 64}
    list(residual.train(Viewed(2), data, out=tmp_path / "224", **CHANGES, **changes))
    assert residual.evaluate(tmp_path / "224", data, protocol="10crop").seen == 8
