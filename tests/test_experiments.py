"""What is trained for tables and figures, under which names, and how `reproduce` does it."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from made_boxes import draw_voc
from PIL import Image
from test_detect_command import SMALL

from residual.models.registry import model_spec
from residual.reproduction import experiments, paper
from residual.reproduction.catalog import CATALOG
from residual.reproduction.experiments import (
    Experiment,
    Request,
    finished_run,
    recipes,
    slug,
    with_splits,
)
from residual.reproduction.results import read_results
from residual.reproduction.tables import TABLE_6_BASELINES
from residual.tasks.classification.recipe import from_json
from residual.tasks.classification.train import recipe_for
from residual.tasks.detection.recipe import MULTISCALE, multiscale_sizes
from residual.tasks.detection.recipe import Testing as Way
from residual.tasks.detection.recipe import from_json as detector_from_json

ON_DATA = {"data": "CIFAR-10", "fingerprint": "f" * 64}
ONE = Experiment((recipe_for("resnet20", "cifar10"),), **ON_DATA)
PHOTOS = {"data": "photos", "fingerprint": "f" * 64}


def of(name: str, **request) -> list[Experiment]:
    return CATALOG[name].experiments(Request(**request))


def networks(name: str, **request) -> list[str]:
    return [experiment.recipe.network for experiment in of(name, **request)]


def test_an_experiment_is_named_by_all_that_can_change_its_answer():
    recipe = ONE.recipe
    assert ONE.file == Experiment((replace(recipe),), **ON_DATA).file
    others = {
        replace(ONE, recipes=(replace(recipe, seed=1),)).file,
        replace(ONE, recipes=(replace(recipe, lr=0.2),)).file,
        replace(ONE, fingerprint="a" * 64).file,
        replace(ONE, curve=True).file,
    }
    assert len(others) == 4 and ONE.file not in others
    assert slug("CIFAR-10 (JPEG copy)") == "cifar-10-jpeg-copy"


def test_every_kept_result_lies_under_the_name_of_its_experiment():
    folder = Path(__file__).parents[1] / "results"
    measures = ("ap", "error_top1", "responses", "10crop", "multiscale")
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text())
        measure = next(name for name in measures if name in found)
        recipe = (detector_from_json if measure == "ap" else from_json)(found["recipe"])
        train = found["environment"]["data"] if "environment" in found else found["data"]
        own = Experiment((recipe,), measure, curve=path.stem.endswith("-curve"))
        own = replace(own, data=train["name"], fingerprint=train["fingerprint"])
        if measure != "ap":  # whose result names the data of the test
            assert own.stored(folder) == path and own.file == path.name


def test_a_field_that_a_recipe_gains_renames_no_experiment(monkeypatch):
    changed = replace(ONE, recipes=(replace(ONE.recipe, lr=0.2),))
    before, written = changed.file, experiments.to_json
    monkeypatch.setattr(experiments, "to_json", lambda r: written(r) | {"gained": 1})
    assert changed.file == before


@pytest.mark.parametrize("measure", ["error_top1", "10crop"])
def test_a_result_with_a_curve_serves_where_none_is_asked_for(tmp_path, measure):
    plain = replace(ONE, measure=measure)
    curved = replace(plain, curve=True)
    (tmp_path / plain.file).write_text("{}")
    assert plain.stored(tmp_path)
    assert bool(curved.stored(tmp_path)) == (measure != "error_top1")  # weights are the same
    (tmp_path / plain.file).rename(tmp_path / curved.file)
    assert plain.stored(tmp_path) and curved.stored(tmp_path)
    (tmp_path / curved.runs[0]).mkdir()
    (tmp_path / curved.runs[0] / "result.json").write_text("{}")
    run = tmp_path / curved.runs[0]
    assert {finished_run(tmp_path, e.runs[0]) for e in (plain, curved)} == {run}


def test_what_must_be_trained_is_the_papers_recipe_for_each_network_and_seed():
    wanted = [e.recipe for e in of("table6", data="cifar10", seeds=2)]
    resnets = [f"resnet{d}" for d in (20, 32, 44, 56, 110)]
    assert [r.network for r in wanted[::2]] == [*resnets, *TABLE_6_BASELINES.values()]
    assert {r.seed for r in wanted} == {0, 1} and {r.steps for r in wanted[:10]} == {64_000}
    (dsn,) = recipes(["dsn"], Request("cifar10", 200))
    assert dsn.batch * dsn.steps == 200 * 128
    (full,) = recipes(["dsn"], Request("cifar10", 64_000))
    assert full == recipe_for("dsn", "cifar10")
    (deep,) = recipes(["resnet110"], Request("cifar10", 6_400))
    assert deep.warmup == (40, 0.01)
    assert networks("table6", steps=800, depths=[1202]) == ["resnet1202"]
    assert set(networks("figure7")) == paper.FIGURE_7.keys()
    assert set(networks("figure7", depths=[8])) == {"plain8", "resnet8"}
    assert networks("figure1") == list(paper.FIGURE_1)
    assert set(networks("figure6", depths=[20])) == {"plain20", "resnet20"}


def test_imagenets_tables_share_their_trainings():
    two, three, four, figure = (
        {e.recipe for e in of(name, data="photos")}
        for name in ("table2", "table3", "table4", "figure4")
    )
    alone = {"vgg19", "bn-inception"}  # in Table 4 only
    assert figure == two and {r for r in four if r.network not in alone} <= three
    assert {r.network for r in two & three} == {"plain34", "resnet34-A"}
    ours = [r for r in two | three if model_spec(r.network).family == "imagenet"]
    assert {recipe.steps for recipe in ours} == {600_000}
    assert networks("table3", steps=9, depths=[50, 101]) == ["resnet50", "resnet101"]


def test_an_ensemble_is_six_networks_in_whatever_order_they_are_named():
    (ensemble,) = of("table5", data="photos")
    assert len(set(ensemble.recipes)) == 6 and ensemble.networks.count("resnet152") == 2
    (few,) = of("table5", data="photos", steps=10, depths=[34])
    members = (*few.recipes, replace(few.recipe, seed=1))
    files = {replace(few, recipes=order, **PHOTOS).file for order in permutations(members)}
    assert len(files) == 1 and replace(few, recipes=members[:2], **PHOTOS).file not in files
    assert {replace(few, recipes=members, curve=True, **PHOTOS).file} == files


def test_detectors_that_are_tested_in_several_ways_are_trained_once():
    wanted = [replace(e, **PHOTOS) for e in of("table9", steps=10, depths=[50])]
    files = [e.file for e in wanted]
    assert len(set(files)) == len(files)
    (ensemble,) = (e for e in wanted if len(e.recipes) == 3)
    assert ensemble.file.endswith("-refined-multiscale-3together.json")
    assert [f"seed{n}" in run for n, run in enumerate(ensemble.runs)] == [True] * 3
    assert len({run for e in wanted for run in e.runs}) == 1 + 3  # baseline, and with context


def test_members_of_an_ensemble_keep_different_seeds():
    (ensemble,) = (e for e in of("table9", steps=10, depths=[50]) if len(e.recipes) == 3)
    assert [r.seed for r in ensemble.changed(["seed=5"]).recipes] == [5, 6, 7]
    assert [r.seed for r in ensemble.changed(["lr=0.1"]).recipes] == [0, 1, 2]


def test_on_own_data_detectors_are_trained_on_its_splits_and_scales_are_in_proportion():
    wanted = of("table9", steps=10, depths=[50])
    found = with_splits(wanted, ("train", "trainval", "test"))
    assert {(e.recipe.train_split, e.recipe.test_split) for e in found} == {("trainval", "test")}
    assert {e.recipe.train_split for e in with_splits(wanted, ("train2014",))} == {"train2014"}
    years = with_splits(of("table7", steps=10), ("07trainval", "07test", "12trainval"))
    assert len(years) == 4 and {e.recipe.train_split for e in years} == {"07+12", "07++12"}
    assert multiscale_sizes(600) == MULTISCALE and multiscale_sizes(300) == (
        100,
        200,
        300,
        400,
        500,
    )
    assert any(e.testing.scales == MULTISCALE for e in found)
    assert Way() in [e.testing for e in found]
    smaller = [e.changed(["shorter=300"]) for e in wanted]
    assert any(
        e.testing.scales == multiscale_sizes(300) for e in with_splits(smaller, ("train2014",))
    )


def test_a_detection_table_trains_what_it_lacks_and_only_that(command, tmp_path):
    folder = draw_voc(tmp_path / "made", n=3)
    words = ("reproduce", "table7", "--data", folder, "--depths", 18, "--steps", 2)
    words += ("--set", "norm=group", "--set", "fixed=0", "--set", "shorter=64")
    words += (*SMALL[4:], "--set", "batch=1", "--set", "drops=")
    first = command(*words, cwd=tmp_path)
    assert first.status == 0, first.err
    (kept,) = (tmp_path / "results").glob("*.json")
    assert kept.name.startswith("made-trainval-detector-resnet18-2steps-seed0-")
    assert "ResNet-18" in first.out and "step 2 of 2" in first.err
    again = command(*words, cwd=tmp_path)
    assert again.status == 0 and again.out == first.out and "step" not in again.err


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Seven classes of two photographs and one for validation, barely larger than a crop."""
    folder, draw = tmp_path_factory.mktemp("data") / "tiny", np.random.default_rng(0)
    for split, n in (("train", 2), ("val", 1)):
        for name in "abcdefg":
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                noise = draw.integers(0, 255, (228, 240, 3)).astype(np.uint8)
                Image.fromarray(noise).save(folder / split / name / f"{i}.jpg")
    return folder


def test_a_table_is_made_from_nothing_and_made_again_from_its_files(command, photographs, tmp_path):
    words = (
        *("reproduce", "table2", "--data", photographs, "--root", tmp_path / "cache"),
        *("--steps", 1, "--set", "batch=2", "--set", "norm_group=2", "--workers", 0),
        *("--set", "true_statistics=2", "--threads", 1, "--precision", "float32"),
        *("--networks", "plain18"),
    )
    made = command(*words, cwd=tmp_path)
    assert made.status == 0, made.err
    assert "table2: tiny (fingerprint" in made.out and "not comparable" in made.out
    (evaluated,) = read_results(tmp_path / "results", "10crop")
    record = evaluated["10crop"]
    assert record["seen"] == 7 and record["views"] == 10 and record["network"] == "plain18"
    assert evaluated["pictures"] == {"train": 14, "val": 7, "classes": 7}
    assert len(read_results(tmp_path / "results")) == 1  # the training
    again = command(*words, cwd=tmp_path)
    assert again.status == 0 and "evaluating" not in again.err and "step" not in again.err
    assert again.out == made.out


def test_all_trains_what_the_pictures_are_for(command, pictures, tmp_path):
    words = ("--steps", 4, "--networks", "resnet8", "plain18", "resnet20", "--depths", 8, 18)
    end = ("--root", tmp_path / "cache", "--threads", 1, "--precision", "float32")
    answer = command("reproduce", "all", "--data", pictures, *words, *end, cwd=tmp_path)
    assert answer.status == 0, answer.err
    networks = {r["recipe"]["network"] for r in read_results(tmp_path / "results")}
    assert networks == {"resnet8"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table2"], "needs photographs; name a folder of them with --data"),
        (["table7"], "needs pictures with boxes; name a folder of them with --data"),
        (["table3", "--data", "d", "--networks", "plain18"], "table3 has no such network"),
        (["table12"], "is not a table or figure that is covered"),
        (["table2", "--networks", "resnet9"], "no network"),
    ],
)
def test_what_cannot_be_meant_is_a_wrong_command_line(command, words, message):
    answer = command("reproduce", *words)
    assert answer.status == 2 and message in " ".join(answer.err.split())


def test_small_pictures_are_refused_in_one_sentence(command):
    answer = command("reproduce", "table2", "--data", "digits", "--steps", 1)
    assert answer.status == 1 and "digits has small pictures" in answer.complaint
