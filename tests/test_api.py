"""The Python API, as its users meet it."""

import copy
import doctest
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from made_boxes import draw_voc
from made_detectors import detector, picture, run_of
from PIL import Image
from torch import nn

import residual
from benchmarks.shipped_weights import ship
from residual.data.sources import digits
from residual.device import torch_settings
from residual.runs.session import Session
from residual.training.events import Event
from residual.weights import published

ROOT = Path(__file__).parents[1]
ONE = {"threads": 1, "precision": "float32"}


class Small(nn.Module):
    """A network of the user's."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.last = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(images))


class Wide(Small):
    """One whose class alone does not say what it is."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor


class Named(Small):
    """One with an attribute that `load` would set."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.classes = num_classes

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        return self(images).softmax(dim=1)


def colours(n: int = 40) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Red and blue images with noise, their labels and their classes."""
    draw, labels = np.random.default_rng(0), np.arange(n) % 2
    images = draw.integers(0, 60, (n, 12, 12, 3), dtype=np.uint8)
    images[labels == 0, :, :, 0] += 150
    images[labels == 1, :, :, 2] += 150
    return images, labels, ["red", "blue"]


@pytest.fixture(scope="module")
def net(finished):
    return residual.load(finished)


# ---- the names ----------------------------------------------------------------------------------


def test_dir_shows_the_public_names_and_importing_them_is_cheap():
    code = "import residual, sys; print(dir(residual)); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(residual.__all__) < set(eval(shown.stdout))
    for name in residual.__all__:
        assert inspect.getdoc(getattr(residual, name)), name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        residual.trian  # noqa: B018


@pytest.mark.parametrize("module", ["models", "train", "evaluate"])
def test_the_examples_in_docstrings_are_true(module, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {name: getattr(residual, name) for name in residual.__all__}
    extra = names | {"run": finished, "folder": tmp_path, "torch": torch}
    __import__(f"residual.api.{module}")
    results = doctest.testmod(sys.modules[f"residual.api.{module}"], extraglobs=extra)
    assert results.attempted and not results.failed


def test_models_are_listed_by_pattern_and_made_with_other_classes():
    assert "resnet20" in residual.list_models() and residual.list_models("vgg*") == [
        "vgg16",
        "vgg19",
    ]
    net = residual.create_model("resnet20", num_classes=3)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3) and net.network == "resnet20"
    with pytest.raises(ValueError, match="num_classes is at least 1, not 0"):
        residual.create_model("resnet20", num_classes=0)
    with pytest.raises(ValueError, match="no network 'resnet21'"):
        residual.create_model("resnet21")
    with pytest.raises(
        ValueError, match="no public weights of that name; there are .*resnet50.IMAGE"
    ):
        residual.create_model("resnet20", pretrained="cifar99")
    with pytest.raises(
        ValueError, match="IMAGENET1K_V2 are those of resnet50-v1.5, not of resnet5"
    ):
        residual.create_model("resnet50", pretrained="IMAGENET1K_V2")
    with pytest.raises(ValueError, match="there are no public weights of plain20"):
        residual.create_model("plain20", pretrained=True)


# ---- a trained network --------------------------------------------------------------------------


def test_a_loaded_network_is_a_module_with_classes_transform_and_recipe(net, finished):
    assert isinstance(net, nn.Module) and not net.training
    assert net.classes == digits().classes and net.recipe.steps == net.step == 60
    images = [np.zeros((30, 20, 3), np.uint8), torch.zeros(3, 9, 7, dtype=torch.uint8)]
    for image in (*images, Image.new("L", (40, 8))):
        assert net.transform(image).shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"8-bit values \(uint8\), and not float32"):
        net.transform(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="there is no file nowhere, and no public weights"):
        residual.load("nowhere")


def test_copies_pickles_exports_and_other_types_of_numbers_work(net):
    image = np.zeros((8, 8, 3), np.uint8)
    expected = net.predict(image)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.predict(image) == expected
        with torch.no_grad():
            twin.fc.bias += 100 * torch.arange(10.0)
        assert twin.predict(image, top=1)[0]["labels"][0]["label"] == "9"
    assert net.predict(image) == expected
    exported = torch.export.export(net, (torch.zeros(1, 3, 8, 8),)).module()
    inputs = net.transform(image)[None]
    assert torch.allclose(exported(inputs), net(inputs), atol=1e-5)
    best, wrong = expected[0]["labels"][0]["label"], residual.evaluate(net, "digits").wrong_top1
    for twin in (copy.deepcopy(net).double(), copy.deepcopy(net).half(), torch.compile(net)):
        assert residual.predict(twin, image, 1)[0]["labels"][0]["label"] == best
        assert twin.explain(image).label == best
        assert abs(residual.evaluate(twin, "digits").wrong_top1 - wrong) <= 2


def test_a_module_that_is_used_keeps_the_mode_of_each_part_and_torch_its_random_numbers(
    net, finished
):
    twin, image = copy.deepcopy(net).train(), np.zeros((8, 8, 3), np.uint8)
    twin.conv1.eval()  # as one does for statistics that stay
    modes, state = [part.training for part in twin.modules()], torch.get_rng_state()
    for use in (twin.predict, twin.explain, lambda _: residual.evaluate(twin, "digits")):
        use(image)
        assert [part.training for part in twin.modules()] == modes
    residual.evaluate(finished)
    assert torch.equal(torch.get_rng_state(), state)


def test_predictions_of_a_generator_come_one_by_one_and_of_a_module_as_of_its_run(net, finished):
    images = digits().test.pixels[:40]
    from_run, from_net = residual.predict(finished, images), net.predict(images)
    labels = [[row["labels"][0]["label"] for row in rows] for rows in (from_run, from_net)]
    assert labels[0] == labels[1]
    stream = net.predict(iter(images))
    assert next(stream) == from_net[0] and list(stream) == from_net[1:]
    net.train()
    assert net.predict(images) == from_net and net.training
    net.eval()
    with pytest.raises(ValueError, match="top is at least 1, not 0"):
        net.predict(images, top=0)
    for wrong in (3, None, [object()]):
        with pytest.raises(ValueError, match="is no picture"):
            residual.predict(net, wrong)
    with pytest.raises(ValueError, match="has no preprocessing: give what residual.load"):
        residual.predict(nn.Linear(1, 1), images)


# ---- training -----------------------------------------------------------------------------------


def test_arrays_are_learned_and_evaluated(tmp_path):
    images, labels, classes = colours()
    changes = {"batch": 8, "norm_group": 8, "steps": 20, "mirror": False, **ONE}
    *_, last = residual.train("resnet8", (images, labels, classes), out=tmp_path / "run", **changes)
    assert last.result["seen"] == 8 and last.run == tmp_path / "run"
    net = residual.load(last.run)
    assert net.classes == ("red", "blue")
    result = residual.evaluate(net, (images, labels, classes))
    assert result.seen == 40 and result.wrong_top1 == last.result["wrong_top1"] == 0
    assert {name: count.images for name, count in result.per_class.items()} == {
        "red": 20,
        "blue": 20,
    }
    with pytest.raises(FrozenInstanceError):
        result.seen = 1
    test = images[:4], labels[:4]
    data = images, labels, classes, test
    *_, last = residual.train("resnet8", data, out=tmp_path / "b", **changes)
    assert last.result["seen"] == 4
    pictures = [Image.fromarray(image[..., ::-1]) for image in images]
    assert residual.evaluate(net, (pictures, labels, ["blue", "red"])).wrong_top1 == 0
    assert residual.evaluate(net, (images[..., ::-1], labels, classes)).wrong_top1 == 40


def test_a_training_that_is_closed_goes_on_to_the_same_weights(tmp_path):
    data = colours()
    changes = {"batch": 8, "norm_group": 8, "steps": 10, **ONE}
    mine = torch_settings()
    *_, whole = residual.train("resnet8", data, out=tmp_path / "whole", **changes)
    events = residual.train("resnet8", data, out=tmp_path / "left", **changes)
    for event in events:
        if event.step == 4:
            break
    events.close()
    assert torch_settings() == mine
    for use in (lambda run: list(residual.resume(run)), residual.evaluate):
        with pytest.raises(ValueError, match="left was trained on arrays in memory: give them"):
            use(tmp_path / "left")
    with pytest.raises(ValueError, match="other data"):
        list(residual.resume(tmp_path / "left", (*data[:2], ["a", "b"])))
    rest = list(residual.resume(tmp_path / "left", data))
    assert rest[0].step == 5 and rest[0].run == tmp_path / "left"
    assert rest[-1].result["weights_sha256"] == whole.result["weights_sha256"]


def one_notice(session: Session) -> Iterator[Event]:
    yield Event(session.task.learner.step, notice="a picture is damaged")


def test_a_training_that_is_closed_at_a_notice_is_saved_with_its_last_step(tmp_path, monkeypatch):
    changes = {"batch": 8, "norm_group": 8, "steps": 10, **ONE}
    with monkeypatch.context() as patched:
        patched.setattr(Session, "notices", one_notice)
        events = residual.train("resnet8", colours(), out=tmp_path / "run", **changes)
        next(event for event in events if event.step == 4)
        events.close()
    assert next(residual.resume(tmp_path / "run", colours())).step == 5


def test_a_training_that_is_closed_after_a_loss_that_is_not_finite_is_not_saved(tmp_path):
    changes = {"batch": 8, "norm_group": 8, "steps": 1_000, "lr": 1e30, **ONE}
    events = residual.train("resnet8", colours(), out=tmp_path / "run", **changes)
    for event in events:
        if event.step == 4:  # the log tells of it at the fifth step
            break
    events.close()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_module_of_ones_own_is_the_beginning_and_is_rebuilt_by_its_class(tmp_path):
    torch.manual_seed(0)
    mine, data = Small(2), colours()
    state = copy.deepcopy(mine.state_dict())
    changes = {"batch": 8, "norm_group": 8, "lr": 0.0, "weight_decay": 0.0, "steps": 2, **ONE}
    *_, last = residual.train(mine, data, out=tmp_path / "run", **changes)
    assert all(torch.equal(state[name], tensor) for name, tensor in mine.state_dict().items())
    assert last.result["recipe"]["network"] == f"{Small.__module__}:Small"
    net = residual.load(last.run)
    assert isinstance(net, Small) and torch.equal(net.last.weight, mine.last.weight)
    assert residual.evaluate(last.run, data).seen == 40
    assert len(residual.predict(last.run, data[0][:3])) == 3
    for wrong, reason in (
        (Wide(2), "missing 1 required positional argument: 'factor'"),
        (Small(7), "size mismatch for last.weight"),
        (Named(2), "load sets 'classes': rename that attribute of Named"),
        (nn.Sequential(nn.Flatten(), nn.Linear(432, 2)), "Unexpected key"),
    ):
        with pytest.raises(ValueError, match="cannot be rebuilt by its class") as e:
            next(residual.train(wrong, data, out=tmp_path / "no", **changes))
        assert reason in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "no").exists()


def test_a_network_of_ours_may_be_the_beginning(net, tmp_path):
    changes = {"batch": 8, "norm_group": 8, "lr": 0.0, "weight_decay": 0.0, **ONE}
    *_, last = residual.train(net, "digits", steps=1, out=tmp_path / "on", **changes)
    assert torch.equal(residual.load(last.run).fc.weight, net.fc.weight)
    fresh = residual.create_model("resnet8", num_classes=2)
    *_, last = residual.train(fresh, colours(), steps=1, out=tmp_path / "fresh", **changes)
    assert torch.equal(residual.load(last.run).fc.weight, fresh.fc.weight)
    *_, last = residual.train(net, colours(), steps=1, out=tmp_path / "new", **changes)
    assert residual.load(last.run).fc.out_features == 2  # a new last layer


# ---- detectors ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return draw_voc(tmp_path_factory.mktemp("boxes") / "made", n=4)


def test_a_detector_is_trained_and_evaluated(boxes, finished, tmp_path):
    small = {"shorter": 64, "bins": 3, "scales": [16, 32], "smallest": 4, "candidates": 300}
    small |= {"proposals": 50, "regions": 8, "anchors": 16, "lr": 0.005}
    options = {"recipe": "scratch", "steps": 2, "out": tmp_path / "run", "threads": 1}
    *_, last = residual.train("fasterrcnn-resnet18", boxes, **options, **small)
    net = residual.load(last.run)
    assert net.classes == ("bar", "square")
    for model in (net, last.run):
        result = residual.evaluate(model, boxes)
        assert result.seen == 4 and result.per_class.keys() == {"bar", "square"}
        assert result.ap["AP50-area"] == last.result["ap"]["AP50-area"]["mean"]
    with pytest.raises(ValueError, match="classifiers or detectors, not both"):
        residual.evaluate([net, finished], boxes)
    with pytest.raises(ValueError, match="holds boxes around objects: name a detector"):
        next(residual.train("resnet18", boxes))
    with pytest.raises(ValueError, match="a detector is trained on a folder"):
        next(residual.train("fasterrcnn-resnet18", colours(), recipe="scratch"))


def test_a_classifier_does_not_begin_with_the_weights_of_a_detector(tmp_path):
    run = run_of(detector(), tmp_path / "run")
    for weights in (run, residual.load(run)):
        with pytest.raises(ValueError, match="the weights are those of a detector"):
            next(residual.train("resnet18", colours(), weights=weights, out=tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_objects_are_found_on_pictures_in_memory_as_in_files(finished, tmp_path):
    run = run_of(detector(), tmp_path / "run")
    net, image = residual.load(run), picture((90, 70))
    image.save(tmp_path / "a.png")
    state, types = copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    (first,) = residual.predict(run, tmp_path / "a.png", min_score=0.1)
    (second,) = net.predict(image, min_score=0.1)
    assert first["objects"] == second["objects"] and first["objects"]
    assert second["image"] == "image 0"
    assert net.transform(image).shape == (3, 64, 82)
    assert net.predict(np.asarray(image), min_score=0.1) == [second]
    assert [type(m) for m in net.modules()] == types
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert net.predict(image, min_score=0.1, refine=True)[0]["objects"]
    with pytest.raises(ValueError, match="for detectors"):
        residual.predict(finished, image, refine=True)


# ---- weights that come with the package ---------------------------------------------------------


@pytest.fixture
def shipped(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "PRETRAINED", tmp_path)
    return ship(finished, "digits", tmp_path)


def test_our_weights_are_written_with_a_card_and_loaded_by_their_name(shipped, finished):
    assert shipped.name == "resnet8.digits.safetensors"
    net = residual.load("resnet8.digits")
    assert net.card["seen"] == 360 and net.card["data"]["name"] == "digits"
    assert residual.evaluate(net, "digits").wrong_top1 == net.card["wrong_top1"]
    for pretrained in ("digits", True, "resnet8.digits"):
        twin = residual.create_model("resnet8", pretrained=pretrained)
        assert torch.equal(twin.fc.weight, net.fc.weight) and twin.classes == digits().classes
    other = residual.create_model("resnet8", pretrained="digits", num_classes=4)
    assert other.fc.out_features == 4 and torch.equal(
        other.conv1[0][0].weight, net.conv1[0][0].weight
    )
    assert other.classes is None and other.transform(np.zeros((9, 9), np.uint8)).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="the weights are those of resnet8, not of resnet14"):
        residual.create_model("resnet14", pretrained="resnet8.digits")
