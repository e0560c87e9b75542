"""Ensemble inference: each image once, in bounded memory; of equal scores the lowest class wins."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FORK, draw_pictures
from PIL import Image
from torch import Tensor, nn

from residual.data.datasets import ImageSet, ImageTensors
from residual.data.folder import open_folder
from residual.data.normalization import Preprocessing
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.distributed import World
from residual.export import predict
from residual.export.engine import engine, installed
from residual.runs.load import Trained
from residual.tasks.classification.evaluate import evaluate_ensemble, evaluate_member
from residual.tasks.classification.inference import (
    NO_ANSWER,
    Ensemble,
    InferenceOptions,
    Member,
    answers,
    evaluation_mode,
    sum_views,
)
from residual.tasks.classification.load import load
from residual.tasks.classification.metrics import count, top_k
from residual.tasks.classification.protocols import PROTOCOLS, Protocol, get_protocol

CPU = torch.device("cpu")
SCORES = Protocol("1crop", average="scores")


class Room(nn.Module):
    """A network on a device whose memory holds so many images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.passed: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passed.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean(dim=(2, 3))


def test_where_memory_is_short_the_micro_batch_is_halved_for_good():
    net, pixels = Room(3), torch.randint(0, 256, (21, 3, 8, 8), dtype=torch.uint8)
    panel = Ensemble([Member(net, Tensor.float)], SCORES, CPU, limit=16 * 64)
    assert torch.equal(panel(pixels), pixels.float().mean(dim=(2, 3)).double())
    assert net.passed == [16, 8, 4, *[2] * 10, 1]
    panel(pixels)
    assert max(net.passed[14:]) == 2


def test_where_not_even_one_view_fits_it_is_said_in_a_sentence():
    panel = Ensemble([Member(Room(0), Tensor.float)], SCORES, CPU, limit=1)
    with pytest.raises(RuntimeError, match="a single picture of 8x9 pixels does not fit into"):
        panel(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))


def test_views_are_summed_for_the_pictures_they_are_of():
    panel = Ensemble([Member(Room(99), Tensor.float)], SCORES, CPU, limit=1)
    other = Ensemble([Member(Room(99), lambda x: 1000 + x.float())], SCORES, CPU, limit=1)
    draw = torch.Generator().manual_seed(0)

    def array(views: int, height: int) -> Tensor:
        return torch.randint(0, 256, (views, height, 4, 3), generator=draw, dtype=torch.uint8)

    pictures = [[array(2, 4), array(1, 5)], [array(2, 5), array(3, 5)]]
    sums = sum_views([panel, other], pictures)
    for found, (first, second) in zip(sums, pictures, strict=True):
        expected = first.double().mean(dim=(1, 2)).sum(dim=0)
        expected += (1000 + second.double()).mean(dim=(1, 2)).sum(dim=0)
        assert torch.allclose(found, expected, rtol=1e-6)


def test_networks_are_in_evaluation_mode_only_while_they_judge():
    nets = [nn.Dropout().train(), nn.Dropout().eval()]
    with evaluation_mode(nets):
        assert [net.training for net in nets] == [False, False]
        assert torch.is_inference_mode_enabled()
    assert [net.training for net in nets] == [True, False]
    assert not torch.is_inference_mode_enabled()


MICRO_BATCHES = (1, 13, 256)


def network(size: int, shorter: int | None) -> Member:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8))
    mean = torch.full((3, 1, 1), 0.5)
    return Member(net, Preprocessing(mean, torch.ones(3, 1, 1), (size, size), shorter))


def share(
    rank: int, world: World, place: Path, net: Member, images: ImageSet, protocol: Protocol
) -> None:
    """In a process of its own: the answers at each micro-batch, as this process has them."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=world.size
    )
    found = [
        answers([net], images, protocol, InferenceOptions(ComputeConfig(), 0, n))
        for n in MICRO_BATCHES
    ]
    torch.save(found, place / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def together(size: int, place: Path, *what: object) -> list[list[Tensor]]:
    """The answers that each of several processes has."""
    place.mkdir()
    processes = [
        FORK.Process(target=share, args=(rank, World(rank, size), place, *what))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    return [torch.load(place / f"{rank}.pt") for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_10007_images_have_the_same_counts_on_any_number_of_processes(tmp_path, size):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10_007, 3, 2, 2), generator=draw, dtype=torch.uint8)
    images = ImageTensors(pixels, torch.randint(0, 8, (10_007,), generator=draw))
    net = network(2, None)
    x = net.preprocessing(pixels)
    expected = count(net.net(x).topk(5).indices, images.labels)
    assert expected.images == 10_007
    for found in together(size, tmp_path / "place", net, images, get_protocol("1crop")):
        assert [count(one, images.labels) for one in found] == [expected] * 3


def test_photographs_have_the_same_answers_on_two_processes(tmp_path):
    folder = draw_pictures(tmp_path / "pets", 5, ("cat", "dog", "eel"))
    (folder / "test" / "dog" / "3.png").write_bytes(b"torn")
    images = open_folder(folder, tmp_path / "root").test
    net, protocol = network(24, 28), get_protocol("multiscale", sides=[24, 31])
    alone = answers([net], images, protocol, InferenceOptions(ComputeConfig(), 0, 2))
    assert (alone[:, 0] == NO_ANSWER).nonzero().flatten().tolist() == [8]
    for found in together(2, tmp_path / "place", net, images, protocol):
        assert all(torch.equal(one, alone) for one in found)


def test_there_may_be_more_processes_than_images(tmp_path):
    images = ImageTensors(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(2).long())
    net = network(2, None)
    alone = answers([net], images, get_protocol("1crop"), InferenceOptions(ComputeConfig()))
    for found in together(3, tmp_path / "place", net, images, get_protocol("1crop")):
        assert torch.equal(found[0], alone)


WORK = InferenceOptions(ComputeConfig())


def slowly(scores: torch.Tensor, k: int) -> list[list[int]]:
    """One picture after another, one class after another."""
    rows = []
    for row in scores.tolist():
        left, found = list(range(len(row))), []
        for _ in range(min(k, len(row))):
            first = left[0]
            for place in left:
                if row[place] > row[first]:
                    first = place
            found.append(first)
            left.remove(first)
        rows.append(found)
    return rows


@pytest.mark.parametrize("classes", [1, 3, 10, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 5])
def test_the_best_are_those_that_a_slow_look_finds(classes, dtype, k):
    draw = torch.Generator().manual_seed(classes)
    scores = torch.randint(0, 4, (40, classes), generator=draw).to(dtype) / 3
    assert top_k(scores, k).tolist() == slowly(scores, k)


@pytest.fixture
def undecided(finished) -> Trained:
    """A network to which all classes look alike."""
    trained = load(finished)
    with torch.no_grad():
        trained.net.fc.weight.zero_()
        trained.net.fc.bias.zero_()
    return trained


def test_counts_confusion_and_ensembles_take_the_lowest_class(undecided):
    data, own = digits(), Member(undecided.net, undecided.preprocessing)
    labels = data.test.labels
    for nets in ([own], [own, own]):
        found = answers(nets, data.test, PROTOCOLS["1crop"], WORK)
        assert (found == torch.arange(5)).all()
    record, *_ = evaluate_ensemble([undecided, undecided], data, None, PROTOCOLS["1crop"], WORK)
    assert record["wrong_top1"] == int((labels != 0).sum())
    assert record["wrong_top5"] == int((labels > 4).sum())
    total, matrix, _ = evaluate_member(own, data.test, 10, WORK)
    assert total.wrong_top1 == record["wrong_top1"]
    assert int(matrix[:, 0].sum()) == len(labels)


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_predictions_take_the_lowest_class_too(undecided, tmp_path: Path, name):
    if name == "onnxruntime" and not installed():
        pytest.skip("ONNX Runtime is not installed")
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(tmp_path / "a.png")
    images = ImageTensors(torch.full((1, 3, 8, 8), 99, dtype=torch.uint8), torch.zeros(1).long())
    model = predict.classifier(undecided, lambda net: engine(net, name))
    rows = list(predict.answers(model, [tmp_path / "a.png"], 5))
    counted = answers(
        [Member(undecided.net, undecided.preprocessing)],
        images,
        PROTOCOLS["1crop"],
        WORK,
    )
    labels = [label["label"] for label in rows[0]["labels"]]
    assert labels == [undecided.classes[i] for i in counted[0].tolist()] == list("01234")
