"""Tables 7 to 11 from result files of detectors, made up as training leaves them."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from residual.reproduction import chapters, paper, table7, table8, table9, table10, table11
from residual.reproduction.detections import (
    AP,
    COCO,
    VOC07,
    VOC12,
    VOC12_VAL,
    Benchmark,
    benchmark,
    budgets,
)
from residual.reproduction.document import pages
from residual.tasks.detection.metrics import COCO as COCO_NAMES
from residual.tasks.detection.metrics import MEASURES
from residual.tasks.detection.recipe import MULTISCALE, RECIPES
from residual.tasks.detection.recipe import Testing as Way
from residual.training.values import to_json

TABLES = (table7, table8, table9, table10, table11)
VOC = tuple(table10.LONG.get(short, short) for short in paper.VOC)
CELLS = Benchmark("BCCD test", "trainval", "AP50-area", 72, 3, 1_000)
PLACES = {VOC07: "VOC2007 test", VOC12: "VOC2012 test", VOC12_VAL: "VOC2012 val",
          COCO: "coco val2014", CELLS: "BCCD test"}  # fmt: skip
ALL = Way(refinement=True, scales=MULTISCALE)


def result(
    network: str,
    on: Benchmark,
    value: float,
    recipe: str = "voc07+12",
    testing: Way = Way(),  # noqa: B008, RUF100
    **more: Any,
) -> dict[str, Any]:
    """A finished detector as its file has it, as far as tables read it: each measure a little
    other than the value by eleven points, each class of its own."""
    names = VOC if on.classes == 20 else [f"class {n}" for n in range(on.classes)]

    def measured(shift: float) -> dict[str, Any]:
        answer = {}
        for i, name in enumerate(("AP50-11pt", "AP50-area", "AP[.5:.95]")):
            own = value + shift + i
            middle = (len(names) - 1) / 2
            by_class = {each: own + n - middle for n, each in enumerate(names)}
            answer[name] = {"mean": own, "classes": by_class}
        return answer

    ap = {"pictures": on.pictures, "objects": on.objects or 99_999, "difficult": 5}
    ap |= measured(0) | {"difficult counted": measured(-10)}
    sort = "coco" if on is COCO else "voc"
    if sort == "coco":
        ap["coco"] = {name: value - 20 * (name == "AP[.5:.95]") for name in COCO_NAMES}
    changes = {key: more.pop(key) for key in list(more) if key in to_json(RECIPES[recipe])}
    made = replace(RECIPES[recipe], network=network, **{"start": "a" * 64} | changes)
    return {
        "format": 1,
        "task": "detection",
        "recipe": to_json(made),
        "testing": to_json(testing),
        "data": {"name": PLACES[on], "fingerprint": "0123456789", "split": PLACES[on].split()[-1]},
        "protocol": sort,
        "ap": ap,
        "networks": [network],
        **more,
    }


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def cells(table: str, *first: str) -> list[str]:
    """What follows in the row that begins so."""
    return next(row[len(first) :] for row in rows(table) if tuple(row[: len(first)]) == first)


def test_the_measures_are_those_that_are_kept():
    assert set(MEASURES) == {"AP50-11pt", "AP50-area", "AP[.5:.95]"}


@pytest.mark.parametrize("table", [paper.TABLE_10, paper.TABLE_11])
def test_the_classes_of_each_printed_system_have_its_mean(table):
    for printed, each in table.values():
        assert len(each) == len(paper.VOC) == 20
        assert mean(each) == pytest.approx(printed, abs=0.1)


def test_the_printed_tables_repeat_one_another():
    by_class = [paper.TABLE_10, paper.TABLE_11]
    for network, printed in paper.TABLE_7.items():
        assert printed == tuple(table[f"baseline, {network}"][0] for table in by_class)
        assert paper.TABLE_9[f"baseline {network}"][:2] == paper.TABLE_8[network]


def test_the_printed_gains_are_those_of_the_text():
    vgg, res = paper.TABLE_8["VGG-16"], paper.TABLE_8["ResNet-101"]
    assert res[0] - vgg[0] == pytest.approx(6.9) and res[1] - vgg[1] == pytest.approx(6.0)
    assert round(100 * (res[1] / vgg[1] - 1)) == 28


@pytest.mark.parametrize("module", TABLES)
def test_what_was_not_run_says_so_beside_the_papers_number(module):
    for row in rows(module.table([]))[2:]:
        assert "not run" in row and any(cell.replace(".", "").isdecimal() for cell in row)


def test_table_7_has_ours_beside_the_papers_and_counted_in_every_way():
    some = [result("resnet101", VOC07, 77.0), result("resnet101", VOC07, 76.0, seed=1)]
    table = table7.table(some)
    own = cells(table, "VOC 2007 test", "ResNet-101")
    assert own[:2] == ["76.4", "76.50 ± 0.71 (2 seeds)"] and own[2].startswith("+0.10, inside")
    ways = [cell.split()[0] for cell in own[3:]]
    assert ways == ["76.50", "77.50", "78.50", "66.50"]
    assert cells(table, "VOC 2007 test", "VGG-16")[:2] == ["73.2", "not run"]
    assert cells(table, "VOC 2012 test", "ResNet-101")[:2] == ["73.8", "not run"]
    assert "no equals" not in table


def test_voc_2012_is_counted_by_area():
    table = table7.table([result("vgg16", VOC12, 70.0, "voc07++12")])
    assert cells(table, "VOC 2012 test", "VGG-16")[:3] == ["70.4", "71.00 (1 seed)", "+0.60"]
    assert cells(table, "VOC 2007 test", "VGG-16")[:2] == ["73.2", "not run"]


def test_a_detector_that_learned_on_less_is_shown_and_not_compared():
    table = table7.table([result("resnet101", VOC07, 70.0, "voc07")])
    assert cells(table, "VOC 2007 test", "ResNet-101")[:3] == ["76.4", "70.00 (1 seed)", ""]
    assert "trained on other data" in table


def test_other_data_has_rows_of_its_own_and_is_never_called_voc():
    some = [result("resnet50", CELLS, 80.0, "scratch", start="")]
    table = table7.table(some)
    assert cells(table, "BCCD test", "ResNet-50")[:3] == ["", "81.00 (1 seed)", ""]
    assert "VOC" not in table and "76.4" not in table
    assert "BCCD test, 72 pictures with 1,000 objects of 3 classes" in table
    assert "no equals" in table
    by_class = table10.table(some)
    assert cells(by_class, "class 0") == ["80.00 (1 seed)"] and "76.4" not in by_class
    assert "VOC" not in by_class and not table11.shown(some)


@pytest.mark.parametrize("short", [{"pictures": 4_951}, {"objects": 12_031}])
def test_a_picture_or_an_object_less_is_another_test_set(short):
    whole = result("resnet101", VOC07, 70.0)
    assert benchmark(whole) is VOC07
    assert benchmark(whole | {AP: whole[AP] | short}) is None


def test_table_8_has_both_measures_of_coco():
    table = table8.table([result("resnet101", COCO, 47.4, "coco")])
    own = cells(table, "ResNet-101")
    assert own == ["48.4", "47.40 (1 seed)", "-1.00", "27.2", "27.40 (1 seed)", "+0.20"]
    assert cells(table, "VGG-16")[1] == "not run"


def test_table_9_tells_the_improvements_apart():
    refined, both = Way(refinement=True), {"context": True}
    some = [
        result("resnet101", COCO, 48.0, "coco"),
        result("resnet101", COCO, 50.0, "coco", refined),
        result("resnet101", COCO, 51.0, "coco", refined, **both),
        result("resnet101", COCO, 54.0, "coco", ALL, **both),
        result("resnet101", COCO, 56.0, "coco", ALL, **both, networks=["resnet101"] * 3),
        result("resnet50", COCO, 45.0, "coco"),
        result("resnet101", COCO, 49.0, "coco", **both),
    ]
    table = table9.table(some)
    for name, value, difference in (
        ("baseline ResNet-101", 48.0, "-0.40"),
        ("+ box refinement", 50.0, "+0.10"),
        ("+ context", 51.0, "-0.10"),
        ("+ multi-scale testing", 54.0, "+0.20"),
        ("ensemble", 56.0, ""),
        ("ResNet-50", 45.0, ""),
        ("ResNet-101, context", 49.0, ""),
    ):
        assert cells(table, name)[1:3] == [f"{value:.2f} (1 seed)", difference]
    assert cells(table, "baseline VGG-16")[1] == "not run"
    assert cells(table, "ensemble")[6:] == ["59.0", "37.4"]
    assert "test-dev" in table and len(table8.shown(some)) == 2


def test_table_10_is_by_class_and_its_best_began_from_coco():
    some = [
        result("resnet101", VOC07, 76.0),
        result("resnet101", VOC07, 84.0, testing=ALL, context=True, before="coco"),
        result("resnet101", VOC07, 80.0, testing=ALL, context=True),
    ]
    table = table10.table(some)
    head = rows(table)[0]
    own, best = (head.index(f"{name}: paper") for name in list(table10.SYSTEMS)[1:])
    average, first, last = (["", *cells(table, name)] for name in ("mAP", "aero", "tv"))
    assert average[own : own + 3] == ["76.4", "76.00 (1 seed)", "-0.40"]
    assert first[own : own + 3] == ["79.8", "66.50 (1 seed)", "-13.30"]
    assert last[best : best + 3] == ["86.8", "93.50 (1 seed)", "+6.70"]
    assert head[-1] == "ResNet-101, box refinement, context, multi-scale testing: ours"
    assert average[-1] == "80.00 (1 seed)" and average[2] == "not run"
    counted = ["", *cells(table, "mAP by 11 points, difficult counted")]
    assert counted[own : own + 3] == ["", "66.00 (1 seed)", ""]


def test_table_11_says_where_the_boxes_are_and_which_pictures_were_seen():
    seen = [result("resnet101", VOC12_VAL, 90.0, "voc07++12")]
    assert table11.shown(seen) == seen and table10.shown(seen) == []
    assert "on which they were trained, too" in table11.table(seen)
    clean = [result("resnet101", VOC12_VAL, 70.0, train_split="07+07test+12train")]
    table = table11.table(clean)
    assert "no equals" in table and "with a server" in table
    assert cells(table, "mAP") == ["71.00 (1 seed)"]  # by area, in a column of ours alone


def test_the_printed_classes_are_in_the_order_of_the_data():
    assert sorted(VOC) == list(VOC) and len(set(VOC)) == 20


def test_results_of_another_recipe_data_or_way_to_test_are_in_another_table():
    some = [
        result("resnet101", VOC07, 76.0),
        result("vgg16", VOC07, 73.0, seed=1),
        result("resnet101", VOC07, 78.0, testing=ALL, context=True),
        result("resnet101", VOC07, 70.0, "voc07"),
        result("resnet101", VOC07, 75.0, pooling="align"),
        result("resnet101", VOC07, 74.0, testing=Way(proposals=1_000)),
        result("resnet101", VOC07, 74.0, testing=replace(ALL, scales=(400, 800))),
        result("resnet50", CELLS, 80.0, "scratch", start=""),
    ]
    data = "VOC 2007 test (fingerprint 01234567)"
    assert {title: len(own) for title, own in budgets(some).items()} == {
        f"{data}, recipe voc07+12, 231,000 steps": 3,
        f"{data}, recipe voc07, 70,000 steps": 1,
        f"{data}, recipe voc07+12, 231,000 steps, pooling align": 1,
        f"{data}, recipe voc07+12, 231,000 steps, proposals 1000": 1,
        f"{data}, recipe voc07+12, 231,000 steps, scales [400, 800]": 1,
        "BCCD test (fingerprint 01234567), recipe scratch, 6,000 steps": 1,
    }


def test_what_must_be_trained_is_the_papers_and_each_system_has_its_row():
    splits = {each.recipe.train_split for each in table7.runs("", None, 1, [])}
    assert splits == {VOC07.train, VOC12.train}
    assert {each.recipe.train_split for each in table9.runs("", None, 1, [])} == {COCO.train}
    for module in (table9, table10, table11):
        assert [each.system for each in module.runs("", None, 1, [])] == list(
            module.SYSTEMS.values() if module is not table11 else table10.SYSTEMS.values()
        )
    few = table8.runs("", 1_000, 2, [50])
    assert [(e.network, e.recipe.steps, e.recipe.seed) for e in few] == [
        ("resnet50", 1_000, 0),
        ("resnet50", 1_000, 1),
    ]
    assert {each.varied(["lr=0.5"]).recipe.lr for each in few} == {0.5}


def test_a_page_is_drawn_from_files_and_tells_what_is_trained(tmp_path):
    for name, own in (("a", result("resnet101", VOC07, 76.0)), ("b", {"error_top1": 9.0})):
        (tmp_path / f"{name}.json").write_text(json.dumps(own))
    (page,) = pages("table7", tmp_path, tmp_path)
    assert page.title.startswith("VOC 2007 test") and "76.00 (1 seed)" in page.table
    package = Path(__file__).parents[1] / "residual"
    text = chapters.chapter("table9", [], {}, package)
    assert "Not run by us" in text and "residual reproduce table9 --data COCO" in text
    assert text.count("| train2014  |") == 4  # box refinement trains nothing
    assert f"{320_000 * 8:,}" in text and f"{3 * 320_000 * 8:,}" in text


def test_the_command_prints_what_there_is_and_says_what_was_not_run(command, tmp_path):
    (tmp_path / "results").mkdir()
    own = json.dumps(result("resnet101", VOC07, 76.0))
    (tmp_path / "results" / "one.json").write_text(own)
    made = command("reproduce", "table7", "table8", "--only-print", cwd=tmp_path)
    assert made.status == 0, made.err
    assert "table7: VOC 2007 test" in made.out and "76.00 (1 seed)" in made.out
    assert cells(made.out.split("table8")[1], "VGG-16")[:2] == ["41.5", "not run"]
