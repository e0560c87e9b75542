"""Tables 2 to 5 and Fig. 4 from result files, and the way there on a few photographs."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from residual.models.registry import model_spec
from residual.reproduction import figure4, figure6, paper, table2, table3, table4, table5, table6
from residual.reproduction.evaluations import ENSEMBLE, MODELS, TOGETHER, ensemble_file
from residual.reproduction.experiments import IMAGENET, Experiment, budgets, kept
from residual.tasks.classification.protocols import PROTOCOLS
from residual.tasks.classification.train import recipe_for
from residual.training.recipe import with_steps
from residual.training.values import to_json

FEW = {"train": 150, "val": 50, "classes": 10}


def result(
    network: str, key: str, top_1: float, top_5: float | None, own: dict[str, int] = IMAGENET
) -> dict[str, Any]:
    """An evaluation as its file has it, as far as tables read it."""
    record = {"network": network, "networks": [network], "error_top1": top_1, "error_top5": top_5}
    return {
        key: record,
        "recipe": to_json(recipe_for(network, "photos")),
        "data": {"name": "photos", "fingerprint": "quick-0123456789", "split": "val"},
        "pictures": own,
    }


def trained(network: str, error: float, own: dict[str, int] = IMAGENET) -> dict[str, Any]:
    """A training as its file has it, with a curve."""
    recipe = with_steps(recipe_for(network, "photos"), 640)
    curve = [
        {"step": step, "wrong": 1_280 - step, "seen": 1_280, "train_error": 100 - step / 12.8}
        | {"test_error": error + 640 - step}
        for step in range(10, 650, 10)
    ]
    return {
        "recipe": to_json(recipe),
        "data": {"name": "photos", "fingerprint": "0123456789", "split": "val"},
        "pictures": own,
        "error_top1": error,
        "curve": curve,
    }


def cells(table: str, first: str) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return next(row for row in rows if row[0] == first)


def test_table_2_lays_plain_and_residual_beside_the_papers():
    some = [result("plain18", "10crop", 28.0, 9.0), result("resnet18-A", "10crop", 27.9, 9.0)]
    table = table2.table(some)
    assert cells(table, "18")[1:4] == ["27.94", "28.00 (1 seed)", "+0.06"]
    assert cells(table, "18")[4:] == ["27.88", "27.90 (1 seed)", "+0.02"]
    assert cells(table, "34") == ["34", "28.54", "not run", "", "25.03", "not run", ""]


def test_table_3_has_both_errors_and_says_which_rows_were_not_run():
    table = table3.table([result("resnet34", "10crop", 24.62, 7.46)])
    row = cells(table, "ResNet-34 B")
    assert row[1:] == ["24.52", "24.62 (1 seed)", "+0.10", "7.46", "7.46 (1 seed)", "+0.00"]
    assert cells(table, "GoogLeNet") == ["GoogLeNet", "", "not run", "", "9.15", "not run", ""]


def test_every_network_of_tables_3_and_4_is_one_that_we_have():
    for printed in (paper.TABLE_3, paper.TABLE_4):
        own = [model for model in printed if model.startswith(("ResNet", "plain"))]
        assert own and all(model in MODELS for model in own)
        assert all(model_spec(MODELS[model]).name == MODELS[model] for model in own)


def test_other_data_than_imagenet_is_no_equal_and_its_table_says_so():
    some = [result("resnet34", "multiscale", 90.0, 50.0, FEW)]
    table = table4.table(some)
    assert cells(table, "ResNet-34 B")[2:4] == ["90.00 (1 seed)", ""]
    assert "val set of photos, 50 photographs of 10 classes" in table and "no equals" in table
    assert "no equals" not in table4.table([result("resnet34", "multiscale", 22.0, 6.0)])
    assert list(budgets(some)) == ["photos (fingerprint 01234567), 600,000 steps"]
    equal = budgets([result("resnet34", "multiscale", 22.0, 6.0)])
    assert list(equal) == ["ImageNet (fingerprint 01234567), 600,000 steps"]


@pytest.mark.parametrize("short", [{"train": 1_281_166}, {"val": 49_999}, {"classes": 999}])
def test_a_picture_less_than_imagenet_is_not_imagenet(short):
    (title,) = budgets([result("resnet34", "10crop", 22.0, 6.0, IMAGENET | short)])
    assert title.startswith("photos")


def test_two_folders_of_one_name_are_in_two_tables():
    some = [result("resnet34", "10crop", error, 9.0, FEW) for error in (80.0, 90.0)]
    some[1]["data"] = some[1]["data"] | {"fingerprint": "quick-fedcba9876"}
    assert len(budgets(some)) == 2


def test_five_classes_have_no_top_5_error_and_the_cell_says_so():
    few = FEW | {"classes": 5}
    table = table3.table([result("resnet50", "10crop", 60.0, None, few)])
    assert cells(table, "ResNet-50")[5] == "none: 5 classes"
    assert "none: 5 classes" in table5.table([result("resnet50", ENSEMBLE, 60.0, None, few)])


def test_table_5_names_the_networks_and_says_that_its_set_is_another_than_the_papers():
    some = result("resnet50", ENSEMBLE, 20.0, 4.25)
    some[ENSEMBLE]["networks"] = ["resnet50", "resnet152"]
    table = table5.table([some])
    assert cells(table, "ours: resnet50 + resnet152")[1:] == ["", "4.25"]
    assert cells(table, "ResNet (ILSVRC'15)")[1:] == ["3.57", ""]
    assert "server is closed" in table and "not run" in table5.table([])


def test_an_ensemble_is_six_networks_of_which_two_have_152_layers():
    members = table5.runs("photos", None, 1, [])
    assert len(members) == 6 and len(set(members)) == 6
    assert [m.network for m in members].count("resnet152") == 2


def test_an_ensemble_is_one_experiment_in_whatever_order_it_is_named(tmp_path):
    members = [
        Experiment(recipe, "photos", "f" * 64) for recipe in table5.runs("photos", 10, 1, [34])
    ]
    members.append(replace(members[0], recipe=replace(members[0].recipe, seed=1)))
    files = {ensemble_file(order, tmp_path) for order in permutations(members)}
    assert len(files) == 1 and ensemble_file(members[:2], tmp_path) not in files
    curved = [replace(member, curve=True) for member in members]
    assert {ensemble_file(curved, tmp_path)} == files


def test_the_tables_share_their_trainings():
    two, three, four = (m.runs("photos", None, 1, []) for m in (table2, table3, table4))
    figure = figure4.runs("photos", None, 1, [])
    alone = {"vgg19", "bn-inception"}  # in Table 4 only
    assert figure == two and {r for r in four if r.network not in alone} <= set(three)
    assert {r.network for r in set(two) & set(three)} == {"plain34", "resnet34-A"}
    ours = [r for r in (*two, *three) if model_spec(r.network).family == "imagenet"]
    assert {recipe.steps for recipe in ours} == {600_000}
    assert {r.network for r in table3.runs("photos", 9, 1, [50, 101])} == {"resnet50", "resnet101"}


def test_each_tables_protocol_is_one_that_there_is():
    assert {table2.KEY, table3.KEY, table4.KEY, TOGETHER} == {"10crop", "multiscale"}
    assert {table2.KEY, TOGETHER} <= PROTOCOLS.keys()


def test_imagenets_networks_are_in_none_of_cifars_tables_nor_cifars_in_theirs():
    large, small = trained("resnet34-A", 30.0), trained("resnet20", 9.0)
    assert figure4.shown([large, small]) == [large]
    assert figure6.shown([large, small]) == table6.shown([large, small]) == [small]


def test_figure_4_is_drawn_with_the_papers_ends_beside_ours(tmp_path):
    some = [trained("plain18", 33.0), trained("resnet18-A", 31.0)]
    table = figure4.table(some)
    assert cells(table, "plain18")[1:3] == ["~31.4", "33.00 (1 seed)"]
    assert "validation" in table.splitlines()[0]
    drawn = figure4.figure(some, tmp_path / "figure4")
    assert [path.suffix for path in drawn] == [".png", ".svg"]


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
    assert "table2: tiny (fingerprint" in made.out and "no equals" in made.out
    (evaluated,) = kept(tmp_path / "results", "10crop")
    record = evaluated["10crop"]
    assert record["seen"] == 7 and record["views"] == 10 and record["network"] == "plain18"
    assert evaluated["pictures"] == {"train": 14, "val": 7, "classes": 7}
    assert len(kept(tmp_path / "results")) == 1  # the training
    again = command(*words, cwd=tmp_path)
    assert again.status == 0 and "evaluating" not in again.err and "step" not in again.err
    assert again.out == made.out


def test_all_trains_what_the_pictures_are_for(command, pictures, tmp_path):
    words = ("--steps", 4, "--networks", "resnet8", "plain18", "resnet20", "--depths", 8, 18)
    end = ("--root", tmp_path / "cache", "--threads", 1, "--precision", "float32")
    answer = command("reproduce", "all", "--data", pictures, *words, *end, cwd=tmp_path)
    assert answer.status == 0, answer.err
    networks = {r["recipe"]["network"] for r in kept(tmp_path / "results")}
    assert networks == {"resnet8"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table2"], "is on photographs; name a folder of them with --data"),
        (["table3", "--data", "d", "--networks", "plain18"], "table3 has no such network"),
        (["table12"], "no table or figure of the paper that is built"),
        (["table2", "--networks", "resnet9"], "no network"),
    ],
)
def test_what_cannot_be_meant_is_a_wrong_command_line(command, words, said):
    answer = command("reproduce", *words)
    assert answer.status == 2 and said in " ".join(answer.err.split())


def test_small_pictures_are_refused_in_one_sentence(command):
    answer = command("reproduce", "table2", "--data", "digits", "--steps", 1)
    assert answer.status == 1 and "digits has small pictures" in answer.complaint


def test_a_measurement_is_found_whether_or_not_its_training_had_a_curve(tmp_path):
    plain = Experiment(recipe_for("plain18", "photos"), "photos", "f" * 64)
    curved = replace(plain, curve=True)
    plain.measurement(tmp_path, "10crop").write_text(json.dumps({}))
    assert curved.there(tmp_path, "10crop") and not curved.there(tmp_path, "multiscale")
    (tmp_path / curved.name).mkdir()
    (tmp_path / curved.name / "result.json").write_text("{}")
    assert plain.trained(tmp_path) == curved.trained(tmp_path) == tmp_path / curved.name
