"""What runs/ claims: a run is a folder that says all that is needed, and a result is a file."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import residual
from residual.data.datasets import Data
from residual.data.sampler import batch_indices
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.runs import environment, folder
from residual.tasks.classification import loader
from residual.tasks.classification.load import load, read_recipe
from residual.tasks.classification.recipe import DIGITS, ClassificationRecipe
from residual.tasks.classification.train import advance, begin, check, recipe_for
from residual.training import checkpoint, events
from residual.training.events import Event, RunOptions
from residual.training.meter import Diverged
from residual.training.recipe import to_json

HOW = ComputeConfig(threads=1)
WHERE = {"where": "digits", "root": "none"}
SHORT = replace(DIGITS, network="resnet8", batch=8, norm_group=4, steps=6, drops=(4,))
ALWAYS = RunOptions(checkpoint_minutes=0)
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")


def few(n: int = 40) -> Data:
    whole = digits()
    test = whole.test.subset(torch.arange(20))
    return replace(whole, train=whole.train.subset(torch.arange(n)), test=test)


def begun(
    run: Path, recipe: ClassificationRecipe = SHORT, data: Data | None = None, curve: bool = False
) -> Data:
    data = data or few()
    begin(run, recipe, data, WHERE, HOW, test_curve=curve)
    return data


def all_events(
    run: Path, recipe: ClassificationRecipe = SHORT, data: Data | None = None
) -> Iterator[Event]:
    yield from advance(run, begun(run, recipe, data), ALWAYS)


def end(run: Path, recipe: ClassificationRecipe = SHORT, data: Data | None = None) -> dict:
    return list(all_events(run, recipe, data))[-1].result


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_run_says_before_its_first_step_what_can_change_the_answer(tmp_path):
    data = begun(tmp_path / "run")
    assert names(tmp_path / "run") == [
        "checkpoints", "classes.json", "environment.json", "recipe.json"
    ]  # fmt: skip
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert written == {"format": 1} | to_json(SHORT)
    assert read_recipe(tmp_path / "run") == SHORT
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == list(data.classes)
    known = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert known["data"] == WHERE | {"name": "digits", "fingerprint": data.fingerprint}
    assert known["setting"]["threads"] == 1
    assert known["versions"]["torch"] == version("torch")


def test_a_finished_run_has_a_result_with_all_that_others_rely_on(tmp_path):
    given = end(tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result == given
    assert result.keys() >= {
        "format", "recipe", "data", "protocol", "seen", "wrong_top1", "error_top1", "curve",
        "images_per_second", "peak_memory_bytes", "seconds", "versions", "hardware", "finished",
        "weights_sha256", "test_opened",
    }  # fmt: skip
    assert result["recipe"] == to_json(SHORT)
    assert result["seen"] == 20
    assert result["error_top1"] == 100 * result["wrong_top1"] / 20
    assert result["test_opened"] == "once, after training"
    weights = load(tmp_path / "run").net.state_dict()
    assert result["weights_sha256"] == checkpoint.weights_sha256(weights)


def test_a_line_of_the_log_counts_what_was_seen_since_the_line_before(tmp_path):
    steps = list(all_events(tmp_path / "run"))
    lines = folder.read_log(tmp_path / "run" / "log.jsonl")
    assert [event.line for event in steps[:-1]] == lines
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert line["seen"] == 8
        assert line["train_error"] == 100 * line["wrong"] / 8
        assert 0 <= line["waiting"] <= 1
    assert [line["lr"] for line in lines] == pytest.approx([0.1] * 4 + [0.01] * 2)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_a_full_training_is_logged_every_100_steps():
    assert [events.log_interval(n) for n in (1, 40, 600, 3_900, 64_000)] == [1, 1, 3, 19, 100]
    assert events.evaluation_interval(64_000) == 1_000


@pytest.mark.parametrize("steps", [1, 12, 300, 800, 3_900, 10_000, 64_000])
def test_the_test_curve_has_at_least_eight_points_and_each_at_a_logged_step(steps):
    every = events.evaluation_interval(steps)
    assert every % events.log_interval(steps) == 0
    assert steps // every >= min(8, steps)


def test_the_test_set_is_opened_early_only_for_a_curve_and_the_result_says_so(tmp_path):
    data = begun(tmp_path / "run", curve=True)
    result = list(advance(tmp_path / "run", data, ALWAYS))[-1].result
    assert result["test_opened"] == "for the curve, and after training"
    line = result["curve"][-1]
    assert (line["test_wrong"], line["test_seen"]) == (result["wrong_top1"], 20)
    assert line["test_error"] == result["error_top1"]
    plain = end(tmp_path / "plain")
    assert plain["weights_sha256"] == result["weights_sha256"]
    assert not any("test_error" in line for line in plain["curve"])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_training_images_still_trains(tmp_path, n):
    assert end(tmp_path / "run", data=few(n))["seen"] == 20


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    one, again, other = (
        end(tmp_path / name, replace(SHORT, seed=seed))["weights_sha256"]
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    )
    assert one == again
    assert one != other


def test_what_else_draws_random_numbers_changes_nothing(tmp_path):
    torch.manual_seed(1)
    one = end(tmp_path / "one")["weights_sha256"]
    torch.manual_seed(2)
    assert end(tmp_path / "two")["weights_sha256"] == one


def test_a_tenth_of_the_training_images_is_held_out_where_the_recipe_says_so(tmp_path):
    data = begun(tmp_path / "run", replace(SHORT, split="45k5k", steps=1), digits())
    (*_, last) = advance(tmp_path / "run", data, ALWAYS)
    assert last.result["data"]["split"] == "test"
    assert last.result["seen"] == 360


def test_only_the_newest_checkpoints_are_kept_and_no_remnant(tmp_path):
    data = begun(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000009.safetensors.partial").write_text("torn")
    list(advance(tmp_path / "run", data, ALWAYS))
    assert names(tmp_path / "run" / "checkpoints") == [
        f"step-0000000{step}.safetensors" for step in (4, 5, 6)
    ]


def test_a_run_saves_by_the_minute_and_at_its_end(tmp_path):
    list(advance(tmp_path / "run", begun(tmp_path / "run"), RunOptions(checkpoint_minutes=60)))
    assert names(tmp_path / "run" / "checkpoints") == ["step-00000006.safetensors"]


def test_a_folder_that_holds_a_run_is_refused_with_the_command_that_goes_on(tmp_path):
    begun(tmp_path / "run")
    with pytest.raises(ValueError, match=f"holds a run already; .* residual resume {tmp_path}/run"):
        begun(tmp_path / "run")


def test_a_folder_that_holds_no_run_is_told_apart(tmp_path):
    with pytest.raises(folder.NoRun, match=f"no folder {tmp_path}/none"):
        read_recipe(tmp_path / "none")
    with pytest.raises(folder.NoRun, match="holds no run: it has no recipe.json"):
        load(tmp_path)


def test_a_run_without_a_checkpoint_is_sent_to_resume(tmp_path):
    begun(tmp_path / "run")
    with pytest.raises(ValueError, match="no checkpoint yet; go on with: residual resume"):
        load(tmp_path / "run")


def test_a_run_takes_the_first_free_name(tmp_path):
    (tmp_path / "resnet20-2").mkdir()
    made = [folder.make_numbered("resnet20", tmp_path) for _ in range(3)]
    assert [run.name for run in made] == ["resnet20-1", "resnet20-3", "resnet20-4"]
    assert all(run.is_dir() for run in made)


def test_a_torn_last_line_of_the_log_is_left_out_and_another_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    assert folder.read_log(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert folder.read_log(path) == [{"step": 1}, {"step": 2}]
    folder.rewind_log(tmp_path, 1)
    assert path.read_text() == '{"step": 1}\n'
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="log.jsonl: line 2 is damaged"):
        folder.read_log(path)


def test_a_loss_that_is_no_number_stops_before_anything_is_saved(tmp_path):
    recipe = replace(SHORT, lr=1e30, steps=1_000, drops=(1,))  # a line every 5 steps
    data = begun(tmp_path / "run", recipe)
    with pytest.raises(Diverged, match="the loss of step [23] is .*, at rate 1e.29, of the images"
                       ) as stop:  # fmt: skip
        list(advance(tmp_path / "run", data, ALWAYS))
    ids, _ = batch_indices(data.train.labels, loader.drawing(recipe), stop.value.step - 1)
    assert str(stop.value).endswith(", ".join(map(str, ids.tolist())))
    assert names(tmp_path / "run" / "checkpoints") == []
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_loss_that_is_no_number_is_found_at_a_stop_too(tmp_path):
    recipe = replace(SHORT, lr=1e30, steps=64_000)
    data = begun(tmp_path / "run", recipe)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Diverged, match="the loss of step [23] is .*, of the images [0-9]+, "):
        list(advance(tmp_path / "run", data, RunOptions(60, stop=lambda: next(asked))))
    assert names(tmp_path / "run" / "checkpoints") == []


@needs_full
@pytest.mark.parametrize("name", ["checkpoints/step-00000004.safetensors", "result.json"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(tmp_path, name):
    run = tmp_path / "run"
    expected = end(tmp_path / "whole")["weights_sha256"]
    data = begun(run)
    with pytest.raises(OSError, match=f"cannot write {run}/{name}: No space left on device"):
        for event in advance(run, data, ALWAYS):
            last = event.step
            if last == 3:
                (run / f"{name}.partial").symlink_to("/dev/full")
    assert last == (3 if "4" in name else 6)
    assert not list(run.rglob("*.partial"))
    newest, _ = checkpoint.read(folder.checkpoints(run)[-1])
    assert newest
    assert list(advance(run, data, ALWAYS))[-1].result["weights_sha256"] == expected


@needs_full
def test_a_log_that_does_not_fit_on_the_disk_is_named(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/log.jsonl: No space left"):
        folder.append_log(tmp_path, {"step": 1})


def test_data_that_a_network_cannot_be_trained_on_is_refused():
    data = few()
    torn = replace(data, train=replace(data.train, damaged=(("train/3/a.png", 3),)))
    with pytest.raises(ValueError, match="1 training pictures are damaged, .* train/3/a.png"):
        check(SHORT, torn)
    with pytest.raises(ValueError, match="has one class, '3'; training needs two"):
        check(SHORT, replace(data, classes=("3",)))
    with pytest.raises(ValueError, match="resnet50 takes pictures of 224x224 pixels; digits has"):
        check(recipe_for("resnet50", "digits"), data)


def test_deep_networks_warm_up_and_digits_have_their_own_recipe():
    assert recipe_for("resnet110", "cifar10").warmup == (400, 0.01)
    assert recipe_for("resnet1202-B", "cifar10").warmup == (400, 0.01)
    assert recipe_for("resnet20", "cifar10").warmup[0] == 0
    assert recipe_for("resnet20", "digits") == replace(DIGITS, network="resnet20")
    assert recipe_for("resnet20", "digits", "cifar").steps == 64_000
    with pytest.raises(ValueError, match="no recipe 'fast'; there are auto, cifar, cifar-deep"):
        recipe_for("resnet20", "digits", "fast")


def test_the_verb_train_yields_each_step_and_then_the_result(tmp_path):
    steps = list(
        residual.train("resnet8", steps=3, batch=8, norm_group=8, out=tmp_path / "run", config=HOW)
    )
    assert [event.step for event in steps] == [1, 2, 3, 3]
    assert steps[-1].result["seen"] == 360
    assert residual.load(tmp_path / "run").classes == digits().classes


def test_what_makes_going_on_inexact_is_named(tmp_path):
    begun(tmp_path / "run")
    known = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment.differences(known, HOW) == []
    assert environment.differences(known, replace(HOW, precision="bf16")) == [
        "precision was float32 and is bf16"
    ]
    older = known | {"versions": known["versions"] | {"torch": "2.0"}}
    assert environment.differences(older, HOW) == [f"torch was 2.0 and is {version('torch')}"]
    for name in ("torchvision", "scikit-learn", "scipy"):
        other = known | {"versions": known["versions"] | {name: "0.1"}}
        assert environment.differences(other, HOW) == [f"{name} was 0.1 and is {version(name)}"]
    numpy = known | {"versions": known["versions"] | {"numpy": "0.1"}}
    assert environment.differences(numpy, HOW) == []
    old = {k: v for k, v in known["versions"].items() if k not in ("scikit-learn", "scipy")}
    assert environment.differences(known | {"versions": old}, HOW) == []  # it does not tell
    elsewhere = known | {"hardware": "an abacus"}
    assert "the machine was an abacus" in environment.differences(elsewhere, HOW)[0]


def test_a_copy_of_a_run_leaves_it_as_it_is(tmp_path):
    data = begun(tmp_path / "run")
    next(advance(tmp_path / "run", data, ALWAYS))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    copy = environment.copy_run(tmp_path / "run", tmp_path / "copy")
    list(advance(copy, data, ALWAYS))
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(ValueError, match="copy exists already; choose a new folder"):
        environment.copy_run(tmp_path / "run", copy)


def test_weights_that_would_be_mostly_the_start_are_refused_before_a_folder_is_made(tmp_path):
    recipe = replace(SHORT, average=(1, 0.99))
    with pytest.raises(
        ValueError, match="94 % of the averaged weights would be those at the start"
    ):
        begun(tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()
    begun(tmp_path / "run")  # as an older version made one
    written = {"format": 1} | to_json(recipe)
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(written))
    assert list(advance(tmp_path / "run", few(), ALWAYS))[-1].result["steps_taken"] == 6
