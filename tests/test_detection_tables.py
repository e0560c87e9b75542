"""Tables 7 to 11, from result files of detectors."""

import json
from dataclasses import replace
from statistics import mean

import pytest
from made_results import CELLS, VOC, cells, detector, rows

from residual.reproduction import detection_tables as boxes
from residual.reproduction import paper
from residual.reproduction.catalog import CATALOG
from residual.reproduction.detection_tables import (
    ALL,
    COCO,
    VOC07,
    VOC12,
    VOC12_VAL,
    benchmark,
)
from residual.reproduction.experiments import AP, Request
from residual.reproduction.results import grouped
from residual.tasks.detection.metrics import MEASURES
from residual.tasks.detection.recipe import Testing as Way


def shown(name, results):
    return [result for result in results if CATALOG[name].shows(result)]


def test_the_measures_are_those_that_are_kept():
    assert set(MEASURES) == {"AP50-11pt", "AP50-area", "AP[.5:.95]"}


@pytest.mark.parametrize("table", [paper.TABLE_10, paper.TABLE_11])
def test_the_classes_of_each_printed_system_have_its_mean(table):
    for printed, *classes in table.values():
        assert len(classes) == len(paper.VOC) == 20
        assert mean(classes) == pytest.approx(printed, abs=0.1)


def test_the_printed_tables_repeat_one_another():
    by_class = [paper.TABLE_10, paper.TABLE_11]
    for network, printed in paper.TABLE_7.items():
        assert printed == tuple(table[f"baseline, {network}"][0] for table in by_class)
        assert paper.TABLE_9[f"baseline {network}"][:2] == paper.TABLE_8[network]


def test_the_printed_gains_are_those_of_the_text():
    vgg, res = paper.TABLE_8["VGG-16"], paper.TABLE_8["ResNet-101"]
    assert res[0] - vgg[0] == pytest.approx(6.9) and res[1] - vgg[1] == pytest.approx(6.0)
    assert round(100 * (res[1] / vgg[1] - 1)) == 28


@pytest.mark.parametrize("name", [f"table{n}" for n in range(7, 12)])
def test_what_was_not_run_says_so_beside_the_papers_number(name):
    for row in rows(CATALOG[name].table([]))[2:]:
        assert "not run" in row and any(cell.replace(".", "").isdecimal() for cell in row)


def test_table_7_has_ours_beside_the_papers_and_counted_in_every_way():
    some = [detector("resnet101", VOC07, 77.0), detector("resnet101", VOC07, 76.0, seed=1)]
    table = boxes.table7(some)
    own = cells(table, "VOC 2007 test", "ResNet-101")
    assert own[:2] == ["76.4", "76.50 ± 0.71 (2 seeds)"] and own[2].startswith("+0.10, inside")
    ways = [cell.split()[0] for cell in own[3:]]
    assert ways == ["76.50", "77.50", "78.50", "66.50"]
    assert cells(table, "VOC 2007 test", "VGG-16")[:2] == ["73.2", "not run"]
    assert cells(table, "VOC 2012 test", "ResNet-101")[:2] == ["73.8", "not run"]
    assert "not comparable" not in table


def test_voc_2012_is_counted_by_area():
    table = boxes.table7([detector("vgg16", VOC12, 70.0, "voc07++12")])
    assert cells(table, "VOC 2012 test", "VGG-16")[:3] == ["70.4", "71.00 (1 seed)", "+0.60"]
    assert cells(table, "VOC 2007 test", "VGG-16")[:2] == ["73.2", "not run"]


def test_a_detector_that_learned_on_less_is_shown_and_not_compared():
    table = boxes.table7([detector("resnet101", VOC07, 70.0, "voc07")])
    assert cells(table, "VOC 2007 test", "ResNet-101")[:3] == ["76.4", "70.00 (1 seed)", ""]
    assert "trained on other data" in table


def test_a_detector_that_was_trained_for_fewer_steps_is_shown_and_not_compared():
    table = boxes.table7([detector("resnet101", VOC07, 70.0, steps=2_310, drops=(1_650,))])
    assert cells(table, "VOC 2007 test", "ResNet-101")[:3] == ["76.4", "70.00 (1 seed)", ""]


def test_other_data_has_rows_of_its_own_and_is_never_called_voc():
    some = [detector("resnet50", CELLS, 80.0, "scratch", start="")]
    table = boxes.table7(some)
    assert cells(table, "BCCD test", "ResNet-50")[:3] == ["", "81.00 (1 seed)", ""]
    assert "VOC" not in table and "76.4" not in table
    assert "BCCD test, 72 pictures with 1,000 objects of 3 classes" in table
    assert "not comparable" in table
    by_class = boxes.table10(some)
    assert cells(by_class, "class 0") == ["80.00 (1 seed)"] and "76.4" not in by_class
    assert "VOC" not in by_class and not shown("table11", some)


@pytest.mark.parametrize("short", [{"pictures": 4_951}, {"objects": 12_031}])
def test_a_picture_or_an_object_less_is_another_test_set(short):
    whole = detector("resnet101", VOC07, 70.0)
    assert benchmark(whole) is VOC07
    assert benchmark(whole | {AP: whole[AP] | short}) is None


def test_table_8_has_both_measures_of_coco():
    table = boxes.table8([detector("resnet101", COCO, 47.4, "coco")])
    own = cells(table, "ResNet-101")
    assert own == ["48.4", "47.40 (1 seed)", "-1.00", "27.2", "27.40 (1 seed)", "+0.20"]
    assert cells(table, "VGG-16")[1] == "not run"


def test_table_9_tells_the_improvements_apart():
    refined, both = Way(refinement=True), {"context": True}
    some = [
        detector("resnet101", COCO, 48.0, "coco"),
        detector("resnet101", COCO, 50.0, "coco", refined),
        detector("resnet101", COCO, 51.0, "coco", refined, **both),
        detector("resnet101", COCO, 54.0, "coco", ALL, **both),
        detector("resnet101", COCO, 56.0, "coco", ALL, **both, networks=["resnet101"] * 3),
        detector("resnet50", COCO, 45.0, "coco"),
        detector("resnet101", COCO, 49.0, "coco", **both),
    ]
    table = boxes.table9(some)
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
    assert "test-dev" in table and len(shown("table8", some)) == 2


def test_table_10_is_by_class_and_its_best_began_from_coco():
    some = [
        detector("resnet101", VOC07, 76.0),
        detector("resnet101", VOC07, 84.0, testing=ALL, context=True, before="coco"),
        detector("resnet101", VOC07, 80.0, testing=ALL, context=True),
    ]
    table = boxes.table10(some)
    head = rows(table)[0]
    own, best = (head.index(f"{name}: paper") for name in list(boxes.SYSTEMS_10)[1:])
    average, first, last = (["", *cells(table, name)] for name in ("mAP", "aero", "tv"))
    assert average[own : own + 3] == ["76.4", "76.00 (1 seed)", "-0.40"]
    assert first[own : own + 3] == ["79.8", "66.50 (1 seed)", "-13.30"]
    assert last[best : best + 3] == ["86.8", "93.50 (1 seed)", "+6.70"]
    assert head[-1] == "ResNet-101, box refinement, context, multi-scale testing: ours"
    assert average[-1] == "80.00 (1 seed)" and average[2] == "not run"
    counted = ["", *cells(table, "mAP by 11 points, difficult counted")]
    assert counted[own : own + 3] == ["", "66.00 (1 seed)", ""]


def test_table_11_says_where_the_boxes_are_and_which_pictures_were_seen():
    seen = [detector("resnet101", VOC12_VAL, 90.0, "voc07++12")]
    assert shown("table11", seen) == seen and shown("table10", seen) == []
    assert "on the same pictures" in boxes.table11(seen)
    clean = [detector("resnet101", VOC12_VAL, 70.0, train_split="07+07test+12train")]
    table = boxes.table11(clean)
    assert "not comparable" in table and "are not public" in table
    assert cells(table, "mAP") == ["71.00 (1 seed)"]  # by area, in a column of ours alone


def test_the_printed_classes_are_in_the_order_of_the_data():
    assert sorted(VOC) == list(VOC) and len(set(VOC)) == 20


def test_results_of_another_recipe_data_or_way_to_test_are_in_another_table():
    some = [
        detector("resnet101", VOC07, 76.0),
        detector("vgg16", VOC07, 73.0, seed=1),
        detector("resnet101", VOC07, 78.0, testing=ALL, context=True),
        detector("resnet101", VOC07, 70.0, "voc07"),
        detector("resnet101", VOC07, 75.0, pooling="align"),
        detector("resnet101", VOC07, 74.0, testing=Way(proposals=1_000)),
        detector("resnet101", VOC07, 74.0, testing=replace(ALL, scales=(400, 800))),
        detector("resnet50", CELLS, 80.0, "scratch", start=""),
    ]
    data = "VOC 2007 test (fingerprint 01234567)"
    assert {title: len(own) for title, own in grouped(some, boxes.title).items()} == {
        f"{data}, recipe voc07+12, 231,000 steps": 3,
        f"{data}, recipe voc07, 70,000 steps": 1,
        f"{data}, recipe voc07+12, 231,000 steps, pooling align": 1,
        f"{data}, recipe voc07+12, 231,000 steps, proposals 1000": 1,
        f"{data}, recipe voc07+12, 231,000 steps, scales [400, 800]": 1,
        "BCCD test (fingerprint 01234567), recipe scratch, 6,000 steps": 1,
    }


def of(name, **request):
    return CATALOG[name].experiments(Request(**request))


def test_what_must_be_trained_is_the_papers_and_each_system_has_its_row():
    assert {e.recipe.train_split for e in of("table7")} == {VOC07.train, VOC12.train}
    assert {e.recipe.train_split for e in of("table9")} == {COCO.train}
    assert [e.system for e in of("table9")] == list(boxes.SYSTEMS_9.values())
    for name in ("table10", "table11"):
        assert [e.system for e in of(name)] == list(boxes.SYSTEMS_10.values())
    few = of("table8", steps=1_000, seeds=2, depths=[50])
    assert [(e.networks, e.recipe.steps, e.recipe.seed) for e in few] == [
        (("resnet50",), 1_000, 0),
        (("resnet50",), 1_000, 1),
    ]
    assert {e.changed(["lr=0.5"]).recipe.lr for e in few} == {0.5}


def test_the_command_prints_what_there_is_and_says_what_was_not_run(command, tmp_path):
    (tmp_path / "results").mkdir()
    own = json.dumps(detector("resnet101", VOC07, 76.0))
    (tmp_path / "results" / "one.json").write_text(own)
    made = command("reproduce", "table7", "table8", "--only-print", cwd=tmp_path)
    assert made.status == 0, made.err
    assert "table7: VOC 2007 test" in made.out and "76.00 (1 seed)" in made.out
    assert cells(made.out.split("table8")[1], "VGG-16")[:2] == ["41.5", "not run"]
