"""What distributed.py claims: many processes train as one would, or name who is missing."""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import typer
from conftest import EXACT, FORK, Answer, call_in_child
from torch import Tensor, nn

from residual.data.loader import training_batches
from residual.data.normalization import per_pixel_mean
from residual.data.sampler import DataConfig
from residual.data.sources import digits
from residual.distributed import World
from residual.models.registry import build
from residual.tasks.classification.load import load
from residual.tasks.classification.loop import start, train
from residual.tasks.classification.recipe import CIFAR
from residual.training.loop import StepOptions

RECIPE = replace(
    CIFAR, network="resnet8", batch=16, norm_group=4, steps=5, drops=(3,), padding=1, smoothing=0.1
)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def place_of(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def among(target: Callable[..., None], environment: dict[str, str], *args: object) -> None:
    """In a process of its own."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*args)


def started(target: Callable[..., None], environments: list[dict[str, str]], *args: list) -> list:
    """Processes, each with its environment and its arguments; the exit status of each."""
    processes = [
        FORK.Process(target=among, args=(target, environment, *own))
        for environment, *own in zip(environments, *args, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def side_by_side(place: Path, size: int, *words: object) -> list[Answer]:
    """A command in so many processes, as torchrun would start it."""
    place.mkdir(exist_ok=True)
    outs = [str(place / f"out{rank}") for rank in range(size)]
    errs = [str(place / f"err{rank}") for rank in range(size)]
    port = free_port()
    codes = started(
        call_in_child,
        [place_of(rank, size, port) for rank in range(size)],
        *([list(map(str, words))] * size, [str(place)] * size, outs, errs),
    )
    return [
        Answer(code, Path(out).read_text(), Path(err).read_text())
        for code, out, err in zip(codes, outs, errs, strict=True)
    ]


def trained(world: World) -> tuple[nn.Module, list[float]]:
    """Five steps in float64 on this process's part of the batches, and their losses."""
    torch.manual_seed(0)
    run = start(build("resnet8").double(), RECIPE)
    images, how = digits().train, DataConfig(batch=16, seed=0, norm_group=4, padding=1)
    batches = (
        (x.double(), y)
        for x, y in training_batches(images, per_pixel_mean(images), how, world=world)
    )
    steps = list(train(run, batches, RECIPE, StepOptions(world=world)))
    return run.net, [float(step.loss) for step in steps] + [float(step.wrong) for step in steps]


def part(place: str) -> None:
    """In a process of its own, among others."""
    from residual.distributed import join, leave

    world = join()
    net, found = trained(world)
    torch.save((net.state_dict(), found), f"{place}/{world.rank}.pt")
    leave()


def test_five_steps_on_many_processes_equal_those_on_one_to_1e_9(tmp_path):
    port, size = free_port(), 4
    places = [place_of(rank, size, port) for rank in range(size)]
    assert started(part, places, [str(tmp_path)] * size) == [0] * size
    alone, found = trained(World())
    for rank in range(size):
        state, losses = torch.load(tmp_path / f"{rank}.pt")
        assert losses == pytest.approx(found, abs=1e-9)
        for name, tensor in alone.state_dict().items():
            assert (state[name] - tensor).abs().max() < 1e-9, name


TRAIN = ("train", "resnet8", "--set", "norm_group=64", "--json", *EXACT)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[Answer]]:
    """A run of four steps on two processes, and what they said."""
    place = tmp_path_factory.mktemp("two")
    run = place / "run"
    answers = side_by_side(place, 2, *TRAIN, "--steps", 4, "--out", run, "--root", place)
    assert [answer.status for answer in answers] == [0, 0], answers
    return run, answers


def test_the_command_trains_on_two_processes_as_on_one(command, two, tmp_path):
    run, (first, second) = two
    alone = command(*TRAIN, "--steps", 4, "--out", tmp_path / "run", "--root", tmp_path)
    assert alone.status == 0, alone.err
    assert first.json["seen"] == alone.json["seen"]
    assert not second.out  # the first alone speaks
    state, other = (load(each).net.state_dict() for each in (tmp_path / "run", run))
    for name, tensor in state.items():
        assert torch.allclose(other[name].double(), tensor.double(), atol=1e-6), name
    assert json.loads((run / "environment.json").read_text())["setting"]["processes"] == 2


def test_evaluate_counts_the_same_on_two_processes(command, two, tmp_path):
    run, _ = two
    words = ("evaluate", run, "--data", "digits", "--json", *EXACT[:2])
    alone = command(*words)
    first, second = side_by_side(tmp_path / "two", 2, *words)
    assert (first.status, second.status, second.out) == (0, 0, "")
    for key in ("seen", "wrong_top1", "wrong_top5"):
        assert first.json[key] == alone.json[key]


def test_groups_that_cannot_be_shared_are_one_sentence(tmp_path):
    words = (*TRAIN, "--steps", 4, "--out", tmp_path / "run", "--root", tmp_path)
    answers = side_by_side(tmp_path / "three", 3, *words)
    sentence = "3 processes cannot share 2 norm groups of 64 images equally; start 2 instead"
    for answer in answers:
        assert answer.status == 1
        assert answer.complaint == f"residual: {sentence}"
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_first_process_ends_all_of_them(two, tmp_path):
    run, _ = two
    answers = side_by_side(tmp_path / "again", 2, *TRAIN, "--steps", 4, "--out", run)
    assert [answer.status for answer in answers] == [1, 1]
    assert all("holds a run already" in answer.complaint for answer in answers)


@pytest.mark.parametrize(("rank", "size"), [(1, 2), (0, 3)])
def test_a_process_that_waits_for_others_in_vain_says_where(tmp_path, rank, size):
    environment = place_of(rank, size, free_port()) | {"RESIDUAL_PATIENCE_SECONDS": "1"}
    files = [str(tmp_path / "out")], [str(tmp_path / "err")]
    codes = started(call_in_child, [environment], [["train", "resnet8"]], [str(tmp_path)], *files)
    assert codes == [1]
    said = Answer(1, "", (tmp_path / "err").read_text()).complaint
    assert said.startswith(f"residual: process {rank} of {size} on ")
    assert "could not join the others at 127.0.0.1:" in said


def raised(kind: str) -> object:
    """What the first process alone does."""

    class Odd(Exception):
        def __init__(self, *, word: str) -> None:
            super().__init__(word)

    errors = {
        "KeyError": KeyError("classes"), "RuntimeError": RuntimeError("torch"),
        "KeyboardInterrupt": KeyboardInterrupt(), "Exit": typer.Exit(3), "Odd": Odd(word="no"),
    }  # fmt: skip
    if kind in errors:
        raise errors[kind]
    return (lambda: 1) if kind == "unpicklable" else kind


def report_outcome(kind: str, place: str) -> None:
    """In a process of its own, among others: what it hears of the first one's act."""
    from residual.distributed import join, leave

    world = join()
    try:
        heard = f"result {world.on_first(lambda: raised(kind))}"
    except BaseException as error:
        heard = f"{type(error).__name__} {error}"
    Path(f"{place}/{world.rank}").write_text(heard)
    leave()


@pytest.mark.parametrize(
    ("kind", "heard"),
    [
        ("KeyError", "KeyError 'classes'"),
        ("RuntimeError", "RuntimeError torch"),
        ("KeyboardInterrupt", "KeyboardInterrupt "),
        ("Exit", "Exit 3"),
        ("Odd", "RuntimeError Odd: no"),  # cannot be pickled
        ("unpicklable", "Error"),
        ("fine", "result fine"),
    ],
)
def test_whatever_ends_the_first_process_is_told_to_the_others(tmp_path, kind, heard):
    port = free_port()
    places = [place_of(rank, 2, port) for rank in range(2)]
    assert started(report_outcome, places, [kind] * 2, [str(tmp_path)] * 2) == [0, 0]
    first, second = ((tmp_path / str(rank)).read_text() for rank in range(2))
    assert heard in second
    assert second == first or kind == "Odd"


# Shares


def test_each_thing_is_in_one_share():
    for size in (1, 2, 3, 7):
        parts = [i for rank in range(size) for i in World(rank, size).shard(20)]
        assert sorted(parts) == list(range(20))


def test_groups_are_shared_equally_or_not_at_all():
    assert World(0, 4).local_batch(128, 32) == 32
    with pytest.raises(ValueError, match="5 processes cannot share 4 norm groups of 32.*start 4"):
        World(0, 5).local_batch(128, 32)
    with pytest.raises(ValueError, match="start 2 instead"):
        World(0, 3).local_batch(64, 32)


def test_batches_of_two_processes_are_the_whole_batch():
    images, how = digits().train, DataConfig(batch=16, seed=0, padding=1)
    mean = per_pixel_mean(images)

    def taken(world: World) -> list[Tensor]:
        return [x for x, _ in islice(training_batches(images, mean, how, world=world), 3)]

    parts = zip(taken(World(0, 2)), taken(World(1, 2)), strict=True)
    assert all(
        torch.equal(torch.cat(each), whole)
        for each, whole in zip(parts, taken(World()), strict=True)
    )
