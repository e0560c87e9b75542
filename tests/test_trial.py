"""What runs/trial.py claims: what pays on this machine is found out once, and kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from residual.device import ComputeConfig
from residual.tasks.classification import autotune
from residual.tasks.classification.recipe import DIGITS, RECIPES

AUTO = ComputeConfig(threads=1, precision="auto")
LONG = replace(DIGITS, network="resnet8", batch=8, norm_group=4, steps=2_000)


@pytest.fixture
def tried(monkeypatch) -> list[ComputeConfig]:
    """Each setting that was given a trial; bf16 is twice as fast."""
    found: list[ComputeConfig] = []

    def seconds(how: ComputeConfig, *_: object) -> float:
        found.append(how)
        return 0.5 if how.precision == "bf16" else 1.0

    monkeypatch.setattr(autotune, "seconds_per_step", seconds)
    return found


def settled(how: ComputeConfig, file: Path, steps: int = 2_000) -> ComputeConfig:
    return autotune.settled(how, replace(LONG, steps=steps), 10, file)


def test_a_trial_is_made_once_and_kept(tmp_path, tried):
    for _ in range(2):
        assert settled(AUTO, tmp_path / "cache" / "trials.json").precision == "bf16"
        assert len(tried) == 3


def test_a_precision_that_was_asked_for_is_taken_without_a_trial(tmp_path, tried):
    how = replace(AUTO, precision="float32")
    assert settled(how, tmp_path / "trials.json") == how
    assert not tried


def test_a_short_training_is_not_worth_a_trial(tmp_path, tried):
    assert settled(AUTO, tmp_path / "trials.json", 40) == replace(AUTO, precision="float32")
    assert not tried


def test_another_setting_is_taken_only_where_it_is_a_tenth_faster(tmp_path, monkeypatch):
    monkeypatch.setattr(
        autotune, "seconds_per_step", lambda how, *_: 0.95 if how.precision == "bf16" else 1.0
    )
    assert settled(AUTO, tmp_path / "trials.json").precision == "float32"


def test_fewer_threads_are_tried_only_where_none_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(autotune, "seconds_per_step", lambda how, *_: float(how.threads))
    monkeypatch.setattr(autotune, "available_cores", lambda: 6)
    free = settled(replace(AUTO, threads=0), tmp_path / "trials.json")
    assert (free.threads, free.precision) == (1, "float32")
    assert settled(replace(AUTO, threads=6), tmp_path / "trials.json").threads == 6
    assert settled(replace(AUTO, threads=0), tmp_path / "trials.json", 40).threads == 6  # too short


@pytest.mark.parametrize(
    ("seconds", "trainings", "n"),  # of a step on 1, 2 and 4 threads
    [
        ({4: 1.0, 2: 2.1, 1: 4.2}, 12, 1),
        ({4: 1.0, 2: 1.4, 1: 2.0}, 12, 4),
        ({4: 1.0, 2: 1.4, 1: 2.0}, 3, 2),  # there are no four to go on at once
        ({4: 1.0, 2: 1.2, 1: 3.9}, 12, 2),
        ({4: 1.0, 2: 1.9, 1: 3.7}, 12, 1),  # less than a tenth is not worth it
    ],
)
def test_so_many_trainings_go_on_at_once_as_make_the_most_steps_together(
    tmp_path, monkeypatch, seconds, trainings, n
):
    monkeypatch.setattr(autotune, "seconds_per_step", lambda how, *_: seconds[how.threads])
    how, recipes = replace(AUTO, threads=4), [LONG] * trainings
    for _ in range(2):  # by a trial, and from the file
        assert autotune.side_by_side(how, recipes, 10, tmp_path / "trials.json") == n
        monkeypatch.setattr(autotune, "seconds_per_step", None)
    monkeypatch.setattr(autotune, "seconds_per_step", lambda how, *_: float(how.threads > 4))
    assert autotune.side_by_side(replace(AUTO, threads=16), [LONG] * 20, 10, tmp_path / "x") == 4
    short = [replace(LONG, steps=2)] * trainings
    assert autotune.side_by_side(how, short, 10, tmp_path / "trials.json") == 1


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_tried(name):
    own = replace(RECIPES[name], network="resnet8", batch=8, norm_group=2, size=32)
    assert autotune.seconds_per_step(ComputeConfig(threads=1), own, 10) > 0


def test_no_trial_leaves_it_to_chance_which_start_the_network_gets():
    import torch

    before = torch.random.get_rng_state()
    assert autotune.seconds_per_step(replace(AUTO, precision="float32"), LONG, 10) > 0
    assert torch.equal(torch.random.get_rng_state(), before)
