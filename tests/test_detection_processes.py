"""Detectors learn on two processes as on one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from made_boxes import draw_voc
from test_faster_rcnn import SMALL, made
from test_processes import free_port, place_of, started

from residual.distributed import World
from residual.tasks.detection import datasets, loader
from residual.tasks.detection import loop as learning
from residual.tasks.detection.losses import Sample
from residual.training.loop import StepOptions

RECIPE = replace(SMALL, steps=3, batch=4, bins=3, regions=8)


def exact(batches: Iterator[list[Sample]]) -> Iterator[list[Sample]]:
    for samples in batches:
        yield [replace(s, image=s.image.double(), boxes=s.boxes.double()) for s in samples]


def trained(folder: Path, world: World) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    """Three steps in float64 on this process's part of each batch, and their losses."""
    data, before = datasets.load(folder, "trainval"), loader.imagenet_preprocessing(64)
    feed = loader.TrainingLoader(data, RECIPE, before, torch.device("cpu"), world)
    learner = learning.start(made(RECIPE).double(), RECIPE)
    way = StepOptions(world=world)
    steps = learning.train(learner, exact(feed.batches()), RECIPE, way)
    losses = [step.parts.tolist() for step in steps]
    return learner.net.state_dict(), losses


def part(folder: str, place: str) -> None:
    """In a process of its own, among others."""
    from residual.distributed import join, leave

    world = join()
    torch.save(trained(Path(folder), world), f"{place}/{world.rank}.pt")
    leave()


def test_three_steps_of_a_detector_on_two_processes_equal_those_on_one_to_1e_9(tmp_path):
    folder, port = draw_voc(tmp_path / "made", n=4), free_port()
    places = [place_of(rank, 2, port) for rank in range(2)]
    assert started(part, places, [str(folder)] * 2, [str(tmp_path)] * 2) == [0, 0]
    state, losses = trained(folder, World())
    for rank in range(2):
        other, found = torch.load(tmp_path / f"{rank}.pt")
        assert torch.allclose(torch.tensor(found), torch.tensor(losses), rtol=1e-6)
        for name, tensor in state.items():
            assert (tensor - other[name]).abs().max() <= 1e-9, name
