"""Each image is judged exactly once on any number of processes, whatever the micro-batch."""

from pathlib import Path

import pytest
import torch
from conftest import FORK, draw_pictures
from torch import Tensor, nn

from residual.data.datasets import ImageSet, ImageTensors
from residual.data.folder import open_folder
from residual.data.preprocessing import Preprocessing
from residual.device import ComputeConfig
from residual.distributed import World
from residual.tasks.classification.inference import NO_ANSWER, InferenceOptions, Member, answers
from residual.tasks.classification.metrics import count
from residual.tasks.classification.protocols import Protocol, get_protocol

MICRO_BATCHES = (1, 13, 256)


def network(size: int, shorter: int | None) -> Member:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8))
    mean = torch.full((3, 1, 1), 0.5)
    return Member(net, Preprocessing(mean, torch.ones(3, 1, 1), (size, size), shorter))


def share(
    rank: int, world: World, place: Path, net: Member, images: ImageSet, asked: Protocol
) -> None:
    """In a process of its own: the answers at each micro-batch, as this process has them."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=world.size
    )
    found = [
        answers([net], images, asked, InferenceOptions(ComputeConfig(), 0, n))
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
    assert expected.seen == 10_007
    for found in together(size, tmp_path / "place", net, images, get_protocol("1crop")):
        assert [count(one, images.labels) for one in found] == [expected] * 3


def test_photographs_have_the_same_answers_on_two_processes(tmp_path):
    folder = draw_pictures(tmp_path / "pets", 5, ("cat", "dog", "eel"))
    (folder / "test" / "dog" / "3.png").write_bytes(b"torn")
    images = open_folder(folder, tmp_path / "root").test
    net, asked = network(24, 28), get_protocol("multiscale", sides=[24, 31])
    alone = answers([net], images, asked, InferenceOptions(ComputeConfig(), 0, 2))
    assert (alone[:, 0] == NO_ANSWER).nonzero().flatten().tolist() == [8]
    for found in together(2, tmp_path / "place", net, images, asked):
        assert all(torch.equal(one, alone) for one in found)


def test_there_may_be_more_processes_than_images(tmp_path):
    images = ImageTensors(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(2).long())
    net = network(2, None)
    alone = answers([net], images, get_protocol("1crop"), InferenceOptions(ComputeConfig()))
    for found in together(3, tmp_path / "place", net, images, get_protocol("1crop")):
        assert torch.equal(found[0], alone)
