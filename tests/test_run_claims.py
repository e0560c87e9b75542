"""What the commands claim of a run's folder: one training claims it, and one writes to it."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import EXACT
from test_runs import SHORT, begun

import residual
from residual.cli.runs import begin_once
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.runs import folder, session
from residual.tasks import task_module
from residual.tasks.classification.train import advance, recipe_for
from residual.training import meter as meters
from residual.training.events import RunOptions
from residual.training.meter import Meter
from residual.training.recipe import to_json

TRAIN = ("train", "resnet8", "--steps", 3, *EXACT, "--json")


def at_once(process, *commands, cwd):
    with ThreadPoolExecutor(len(commands)) as pool:
        return [*pool.map(lambda words: process(*words, cwd=cwd), commands)]


def test_trainings_started_together_each_take_a_folder(process, tmp_path):
    words = [(*TRAIN, "--seed", seed) for seed in range(3)]
    answers = at_once(process, *words, cwd=tmp_path)
    assert [answer.status for answer in answers] == [0, 0, 0], answers
    runs = [answer.json["run"] for answer in answers]
    assert sorted(runs) == [f"runs/resnet8-{n}" for n in (1, 2, 3)]
    for seed, run in enumerate(runs):
        assert json.loads((tmp_path / run / "recipe.json").read_text())["seed"] == seed
        assert json.loads((tmp_path / run / "result.json").read_text())["recipe"]["seed"] == seed


def test_of_two_trainings_into_one_folder_one_is_refused(process, tmp_path):
    words = [(*TRAIN, "--out", "run", "--seed", seed) for seed in (0, 1)]
    answers = at_once(process, *words, cwd=tmp_path)
    assert sorted(answer.status for answer in answers) == [0, 1]
    (refused,) = [answer for answer in answers if answer.status]
    assert "run holds a run already" in refused.complaint or "run is in use by" in refused.complaint
    seed = answers.index(next(answer for answer in answers if not answer.status))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["recipe"]["seed"] == seed


def test_a_run_that_another_command_made_meanwhile_is_not_taken_for_ones_own(finished, monkeypatch):
    data, recipe = digits(), recipe_for("resnet8", "digits")
    values = (finished, recipe, data, {"where": "digits", "root": ""}, ComputeConfig())
    with pytest.raises(ValueError, match="holds a run already"):
        begin_once(task_module("classification"), *values)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert begin_once(task_module("classification"), *values) == finished


@pytest.fixture
def unfinished(tmp_path, finished) -> Path:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "result.json").unlink()
    return run


def test_a_run_that_a_process_works_on_is_refused_to_another(
    command, process, unfinished, tmp_path
):
    shutil.rmtree(unfinished / "report", ignore_errors=True)  # of another test
    before = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    commands = [
        ("resume", unfinished),
        ("resume", unfinished, "--out", tmp_path / "copy"),
        ("train", "resnet8", "--out", unfinished),
    ]
    with folder.writing(unfinished):
        for answer in at_once(process, *commands, cwd=tmp_path):
            assert answer.status == 1
            assert f"{unfinished} is in use by process {os.getpid()} on " in answer.complaint
        assert command("evaluate", unfinished, *EXACT[:2]).status == 0  # which writes nothing
        assert command("report", unfinished).status == 0  # nor this, where a training does
    after = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert not (tmp_path / "copy").exists()
    assert command("resume", unfinished).status == 0
    assert not (unfinished / "lock").exists()


def test_a_finished_run_is_not_locked(finished):
    before = sorted(finished.iterdir())
    with folder.writing(finished), folder.writing(finished):
        assert sorted(finished.iterdir()) == before


def test_a_run_belongs_to_the_iterator_that_takes_its_steps(no_grace, tmp_path):
    run, data = tmp_path / "run", begun(tmp_path / "run")
    first = advance(run, data, RunOptions())
    next(first)
    with pytest.raises(ValueError, match=f"{run} is in use by process {os.getpid()}"):
        next(advance(run, data, RunOptions()))
    first.close()
    *_, last = advance(run, data, RunOptions())
    assert last.result


def test_a_folder_with_the_checkpoints_of_something_else_is_refused(tmp_path):
    run, data = tmp_path / "run", begun(tmp_path / "run")
    next(advance(run, data, RunOptions(checkpoint_minutes=0)))
    (run / "recipe.json").unlink()
    with pytest.raises(ValueError, match="has checkpoints, and no recipe.json"):
        begun(run)


def test_what_starts_again_takes_its_own_run_and_none_that_is_worked_on(no_grace, tmp_path):
    runs = tmp_path / "runs"
    for name in ("finished", "own", "other"):
        begun(runs / name)
    (runs / "finished" / "result.json").write_text("{}")
    os.utime(runs / "finished" / "recipe.json", (2e9, 2e9))  # begun last
    recipe = to_json(SHORT)
    with folder.writing(runs / "other"):
        assert folder.latest(recipe, runs) == runs / "own"
        with folder.writing(runs / "own"):
            assert folder.latest(recipe, runs) == runs / "finished"


def test_the_library_takes_the_next_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        *_, last = residual.train("resnet8", steps=1, batch=8, norm_group=8)
        assert last.result
        assert (tmp_path / "runs" / f"resnet8-{n}" / "result.json").exists()


def test_the_time_until_a_checkpoint_is_restored_does_not_count_as_training():
    meter = Meter("cpu")
    meter._mark -= 1_000  # seconds ago
    meter.restore(Meter("cpu").to_json(), [])
    meter.tick()
    assert meter.seconds < 1_000


def test_the_time_before_a_checkpoint_counts_as_training(tmp_path, monkeypatch):
    now, add = [0.0], Meter.add

    def after_100_seconds(self, step):
        now[0] += 100
        add(self, step)

    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0])
    monkeypatch.setattr(meters, "time", clock)
    monkeypatch.setattr(session, "time", clock)
    monkeypatch.setattr(Meter, "add", after_100_seconds)
    monkeypatch.setattr(session, "log_interval", lambda steps: 3)
    data = begun(tmp_path / "run")
    list(advance(tmp_path / "run", data, RunOptions(checkpoint_minutes=2)))  # every 2 steps
    lines = folder.read_log(tmp_path / "run" / "log.jsonl")
    assert [line["seconds"] for line in lines] == [300, 600]
