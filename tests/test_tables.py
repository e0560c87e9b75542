"""Tables 1 to 6, from result files."""

import json
from math import sqrt

import pytest
from made_results import SMALL_SIZE, cells, evaluation, photograph_training, training
from scipy.stats import t

from residual.models.registry import model_spec
from residual.reproduction import paper
from residual.reproduction.catalog import CATALOG, pages
from residual.reproduction.results import Spread, grouped, markdown
from residual.reproduction.tables import (
    IMAGENET_SIZE,
    MODELS,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
    title,
)
from residual.tasks.classification.protocols import PROTOCOLS


def test_several_seeds_are_a_mean_a_deviation_and_a_band_for_one_more():
    values = [6.43, 6.61, 6.72, 6.55, 6.80]
    mean = sum(values) / 5
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / 4)
    half = t.ppf(0.975, 4) * deviation * sqrt(1.2)
    spread = Spread(values)
    assert spread.mean == pytest.approx(mean)
    assert spread.deviation == pytest.approx(deviation)
    assert spread.band == pytest.approx((mean - half, mean + half))
    assert str(spread) == f"{mean:.2f} ± {deviation:.2f} (5 seeds)"
    assert "inside" in spread.difference(mean + 0.9 * half)
    assert "outside" in spread.difference(mean + 1.1 * half)


def test_one_seed_has_no_band_and_none_was_not_run():
    assert Spread([8.5]).band is None
    assert str(Spread([8.5])) == "8.50 (1 seed)"
    assert Spread([8.5]).difference(8.75) == "-0.25"
    assert (str(Spread([])), Spread([]).difference(8.75)) == ("not run", "")


def test_a_table_is_as_wide_as_its_widest_cells():
    table = markdown(["a", "bb"], [["ccc", "d"]])
    assert table.splitlines() == ["| a   | bb |", "| --- | -- |", "| ccc | d  |"]


def test_table_1_is_within_a_unit_of_the_last_digit_in_every_row():
    for depth, printed in paper.TABLE_1.items():
        theirs, ours, _ = cells(table1([]), f"ResNet-{depth}")
        assert theirs == f"{printed / 1e9:.1f}e9"
        assert float(ours) == pytest.approx(printed, abs=0.1e9)


def test_table_2_has_plain_and_residual_networks_beside_the_papers():
    some = [
        evaluation("plain18", "10crop", 28.0, 9.0),
        evaluation("resnet18-A", "10crop", 27.9, 9.0),
    ]
    table = table2(some)
    theirs = ["27.94", "28.00 (1 seed)", "+0.06", "27.88", "27.90 (1 seed)", "+0.02"]
    assert cells(table, "18") == theirs
    assert cells(table, "34") == ["28.54", "not run", "", "25.03", "not run", ""]


def test_table_3_has_both_errors_and_says_which_rows_were_not_run():
    table = table3([evaluation("resnet34", "10crop", 24.62, 7.46)])
    row = ["24.52", "24.62 (1 seed)", "+0.10", "7.46", "7.46 (1 seed)", "+0.00"]
    assert cells(table, "ResNet-34 B") == row
    assert cells(table, "GoogLeNet") == ["", "not run", "", "9.15", "not run", ""]


@pytest.mark.parametrize("printed", [paper.TABLE_3, paper.TABLE_4])
def test_every_network_of_tables_3_and_4_is_one_that_we_have(printed):
    ours = [model for model in printed if model.startswith(("ResNet", "plain"))]
    assert ours and all(model_spec(MODELS[model]).name == MODELS[model] for model in ours)


def test_other_data_than_imagenet_is_no_equal_and_its_table_says_so():
    some = [evaluation("resnet34", "multiscale", 90.0, 50.0, SMALL_SIZE)]
    table = table4(some)
    assert cells(table, "ResNet-34 B")[1:3] == ["90.00 (1 seed)", ""]
    assert "val set of photos, 50 photographs of 10 classes" in table and "not comparable" in table
    assert title(some[0]) == "photos (fingerprint 01234567), 600,000 steps"
    equal = evaluation("resnet34", "multiscale", 22.0, 6.0)
    assert "not comparable" not in table4([equal])
    assert title(equal) == "ImageNet (fingerprint 01234567), 600,000 steps"
    assert cells(table4([equal]), "ResNet-34 B")[2]
    equal["recipe"] = equal["recipe"] | {"steps": 60_000}  # a tenth of the paper's budget
    assert cells(table4([equal]), "ResNet-34 B")[1:3] == ["22.00 (1 seed)", ""]


@pytest.mark.parametrize("short", [{"train": 1_281_166}, {"val": 49_999}, {"classes": 999}])
def test_a_picture_less_than_imagenet_is_not_imagenet(short):
    result = evaluation("resnet34", "10crop", 22.0, 6.0, IMAGENET_SIZE | short)
    assert title(result).startswith("photos")


def test_two_folders_of_one_name_are_in_two_tables():
    some = [evaluation("resnet34", "10crop", error, 9.0, SMALL_SIZE) for error in (80.0, 90.0)]
    some[1]["data"] = some[1]["data"] | {"fingerprint": "quick-fedcba9876"}
    assert len(grouped(some, title)) == 2


def test_five_classes_have_no_top_5_error_and_the_cell_says_so():
    few = SMALL_SIZE | {"classes": 5}
    table = table3([evaluation("resnet50", "10crop", 60.0, None, few)])
    assert cells(table, "ResNet-50")[4] == "none: 5 classes"
    assert "none: 5 classes" in table5([evaluation("resnet50", "ensemble", 60.0, None, few)])


def test_table_5_names_the_networks_and_says_that_its_set_is_another_than_the_papers():
    some = evaluation("resnet50", "ensemble", 20.0, 4.25)
    some["ensemble"]["networks"] = ["resnet50", "resnet152"]
    table = table5([some])
    assert cells(table, "ours: resnet50 + resnet152") == ["", "4.25"]
    assert cells(table, "ResNet (ILSVRC'15)") == ["3.57", ""]
    assert "server is closed" in table and "not run" in table5([])


def test_table_6_has_ours_beside_the_papers_and_says_what_was_not_run():
    results = [
        training("resnet110", error, seed, steps=64_000)
        for seed, error in enumerate((6.5, 6.6, 6.7))
    ]
    table = table6([*results, training("resnet20", 8.69, steps=64_000)])
    assert cells(table, "ResNet-20")[2:] == ["8.75", "8.69 (1 seed)", "-0.06"]
    assert cells(table, "ResNet-32")[2:] == ["7.51", "not run", ""]
    row = cells(table, "ResNet-110")
    assert row[2:4] == ["6.43 (6.61 ± 0.16)", "6.60 ± 0.10 (3 seeds)"]
    assert row[4].startswith("-0.01, inside")
    for name, (_, _, error) in paper.TABLE_6_BASELINES.items():
        assert cells(table, name)[2].startswith(f"{error:.2f}")
        assert cells(table, name)[3] == "not run"


@pytest.mark.parametrize(
    "other", [{}, {"steps": 64_000, "data": "CIFAR-10 (JPEG copy)"}], ids=["budget", "data"]
)
def test_a_result_of_another_budget_or_data_is_not_compared_with_the_papers(other):
    table = table6([training("resnet20", error, seed, **other) for seed, error in ((0, 9), (1, 8))])
    assert "inside" not in table and "outside" not in table and "ours - paper" not in table
    assert cells(table, "ResNet-20")[2:] == ["8.75", "8.50 ± 0.71 (2 seeds)"]


def test_results_of_another_budget_data_or_recipe_are_in_another_table():
    found = grouped(
        [
            training("resnet20", 9.0),
            training("resnet110", 7.0, seed=3),  # its warm-up is the paper's own
            training("resnet20", 9.1, norm_group=64),
            training("resnet20", 9.2, split="45k5k"),
            training("resnet20", 18.0, data="CIFAR-10 (JPEG copy)"),
        ],
        title,
    )
    assert {name: len(some) for name, some in found.items()} == {
        "CIFAR-10, 640 steps": 2,
        "CIFAR-10, 640 steps, norm_group 64": 1,
        "CIFAR-10, 640 steps, split 45k5k": 1,
        "CIFAR-10 (JPEG copy), 640 steps": 1,
    }


def test_imagenets_networks_are_in_none_of_cifars_tables_nor_cifars_in_theirs():
    large, small = photograph_training("resnet34-A", 30.0), training("resnet20", 9.0)
    shown = {
        name: [CATALOG[name].shows(result) for result in (large, small)]
        for name in ("figure4", "figure6", "table6")
    }
    assert shown == {
        "figure4": [True, False],
        "figure6": [False, True],
        "table6": [False, True],
    }


@pytest.mark.parametrize("name", ["table2", "table3", "table4"])
def test_each_tables_protocol_is_one_that_there_is(name):
    measures = CATALOG[name].measures
    assert set(measures) <= PROTOCOLS.keys() and len(set(measures)) == len(measures)


def test_a_result_that_a_table_does_not_show_need_not_have_its_fields(tmp_path):
    odd = training("plain20", 9.0) | {"recipe": {"network": "plain20", "other": 1}}
    for name, result in (("odd", odd), ("good", training("resnet20", 9.0))):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    assert len([*pages("table6", tmp_path, tmp_path, steps=640)]) == 1
