"""Short trials choose the configuration of a training, and are kept."""

from dataclasses import replace

import pytest
import torch

from residual.device import ComputeConfig
from residual.runs import autotune
from residual.tasks.classification.recipe import RECIPES
from residual.tasks.classification.throughput import seconds_per_step

AUTO = ComputeConfig(threads=1, precision="auto")
STEPS = 2_000
measured: list[ComputeConfig] = []


def bf16_is_twice_as_fast(config: ComputeConfig) -> float:
    measured.append(config)
    return 0.5 if config.precision == "bf16" else 1.0


def tuned(config, file, steps=STEPS, measure=bf16_is_twice_as_fast) -> ComputeConfig:
    measured.clear()
    return autotune.autotune(config, steps, measure, lambda _: "key", file)


def test_a_trial_is_made_once_and_kept(tmp_path):
    for n in (3, 0):
        assert tuned(AUTO, tmp_path / "cache" / "trials.json").precision == "bf16"
        assert len(measured) == n


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_file_of_trials_is_made_again(tmp_path, content):
    (tmp_path / "trials.json").write_text(content)
    for n in (3, 0):
        assert tuned(AUTO, tmp_path / "trials.json").precision == "bf16"
        assert len(measured) == n


def test_a_given_precision_and_a_short_training_have_no_trial(tmp_path):
    config = replace(AUTO, precision="float32")
    assert tuned(config, tmp_path / "trials.json") == config
    assert tuned(AUTO, tmp_path / "trials.json", 40) == replace(AUTO, precision="float32")
    assert not measured


def test_another_configuration_is_chosen_only_where_it_is_a_tenth_faster(tmp_path):
    def measure(config: ComputeConfig) -> float:
        return 0.95 if config.precision == "bf16" else 1.0

    assert tuned(AUTO, tmp_path / "trials.json", measure=measure).precision == "float32"


def test_fewer_threads_are_tried_only_where_none_are_asked_for(tmp_path, monkeypatch):
    def measure(config: ComputeConfig) -> float:
        return float(config.threads)

    monkeypatch.setattr(autotune, "available_cores", lambda: 6)
    file = tmp_path / "trials.json"
    free = tuned(replace(AUTO, threads=0), file, measure=measure)
    assert (free.threads, free.precision) == (1, "float32")
    assert tuned(replace(AUTO, threads=6), file, measure=measure).threads == 6
    assert tuned(replace(AUTO, threads=0), file, 40, measure).threads == 6  # too short


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
    tmp_path, seconds, trainings, n
):
    def at_once(config, steps, measure, file="trials.json") -> int:
        return autotune.trainings_at_once(config, steps, measure, str, tmp_path / file)

    config = replace(AUTO, threads=4)
    for measure in (lambda config: seconds[config.threads], None):  # by a trial, and from the file
        assert at_once(config, [STEPS] * trainings, measure) == n
    many = replace(AUTO, threads=16)
    assert at_once(many, [STEPS] * 20, lambda config: float(config.threads > 4), "x") == 4
    assert at_once(config, [2] * trainings, None) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_tried_and_no_random_number_is_used_up(name):
    recipe = replace(RECIPES[name], network="resnet8", batch=8, norm_group=2, size=32)
    before = torch.random.get_rng_state()
    assert seconds_per_step(ComputeConfig(threads=1), recipe, 10) > 0
    assert torch.equal(torch.random.get_rng_state(), before)
