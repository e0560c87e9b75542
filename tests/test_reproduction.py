"""The paper's tables and figures from result files, and what is trained for them."""

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from residual.reproduction import (
    beside,
    chapters,
    demo,
    experiments,
    figure1,
    figure6,
    figure7,
    paper,
    table1,
    table6,
)
from residual.reproduction.claims import CLAIMS
from residual.reproduction.document import documents, excerpt, pages, readme
from residual.reproduction.experiments import Experiment, budgets, kept, recipes, slug
from residual.reproduction.spread import Spread, markdown
from residual.tasks.classification.train import recipe_for
from residual.training.recipe import from_json, with_steps
from residual.training.values import to_json


def result(network: str, error: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """What a finished run of 640 steps leaves, as far as tables and figures read it."""
    recipe = replace(with_steps(recipe_for(network, "cifar10"), 640), seed=seed, **changes)
    curve = [
        {"step": step, "wrong": 1_280 - step, "seen": 1_280, "train_error": 100 - step / 12.8}
        for step in range(10, 650, 10)
    ]
    for line in curve[9::10]:
        line |= {"test_error": error, "test_wrong": round(100 * error), "test_seen": 10_000}
    return {
        "recipe": to_json(recipe),
        "data": {"name": "CIFAR-10", "fingerprint": "f" * 64, "split": "test"},
        "error_top1": error,
        "curve": curve,
    }


def cells(table: str, first: str) -> list[str]:
    """The row of a table that begins with this cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return next(row for row in rows if row[0] == first)


def test_several_seeds_are_a_mean_a_deviation_and_a_band_for_one_more():
    values = [6.43, 6.61, 6.72, 6.55, 6.80]
    mean = sum(values) / 5
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / 4)
    half = t.ppf(0.975, 4) * deviation * sqrt(1.2)
    spread = Spread(values)
    assert spread.mean == pytest.approx(mean)
    assert spread.deviation == pytest.approx(deviation)
    assert spread.band == pytest.approx((mean - half, mean + half))
    assert spread.in_words() == f"{mean:.2f} ± {deviation:.2f} (5 seeds)"
    assert "inside" in spread.verdict(mean + 0.9 * half)
    assert "outside" in spread.verdict(mean + 1.1 * half)


def test_one_seed_has_no_band_and_none_was_not_run():
    assert Spread([8.5]).band is None
    assert Spread([8.5]).in_words() == "8.50 (1 seed)"
    assert Spread([8.5]).verdict(8.75) == "-0.25"
    assert (Spread([]).in_words(), Spread([]).verdict(8.75)) == ("not run", "")


def test_a_table_is_as_wide_as_its_widest_cells():
    table = markdown(["a", "bb"], [["ccc", "d"]])
    assert table.splitlines() == ["| a   | bb |", "| --- | -- |", "| ccc | d  |"]


def test_table_1_is_within_a_unit_of_the_last_digit_in_every_row():
    for depth, printed in paper.TABLE_1.items():
        _, theirs, ours, _ = cells(table1.table([]), f"ResNet-{depth}")
        assert theirs == f"{printed / 1e9:.1f}e9"
        assert float(ours) == pytest.approx(printed, abs=0.1e9)


def test_table_6_has_ours_beside_the_papers_and_says_what_was_not_run():
    results = [result("resnet110", error, seed) for seed, error in enumerate((6.5, 6.6, 6.7))]
    table = table6.table([*results, result("resnet20", 8.69)])
    assert cells(table, "ResNet-20")[3:] == ["8.75", "8.69 (1 seed)", "-0.06"]
    assert cells(table, "ResNet-32")[3:] == ["7.51", "not run", ""]
    row = cells(table, "ResNet-110")
    assert row[3:5] == ["6.43 (6.61 ± 0.16)", "6.60 ± 0.10 (3 seeds)"]
    assert row[5].startswith("-0.01, inside")
    for name, (_, _, error) in paper.TABLE_6_RIVALS.items():
        assert cells(table, name)[3].startswith(f"{error:.2f}")
        assert cells(table, name)[4] == "not run"


def test_figure_6_has_every_network_of_the_paper_and_whatever_else_was_run():
    table = figure6.table([result("plain20", 9.0), result("resnet14", 9.5)])
    assert cells(table, "plain20") == ["plain20", "~9.7", "9.00 (1 seed)", "~1.4", "51.17 (1 seed)"]
    assert cells(table, "resnet14")[1:3] == ["", "9.50 (1 seed)"]
    assert cells(table, "plain110")[1:3] == ["above 60", "not run"]


def test_the_last_training_error_is_over_the_last_twentieth_of_the_steps():
    steps = [610, 620, 630, 640]  # more than 608 of 640
    wrong = sum(1_280 - step for step in steps)
    error = figure6.last_training_error(result("plain20", 9.0))
    assert error == pytest.approx(100 * wrong / (4 * 1_280))


def test_a_result_without_a_test_curve_is_in_no_figure_but_in_the_table():
    bare = result("resnet20", 9.0)
    for line in bare["curve"]:
        line.pop("test_error", None)
    assert figure6.shown([bare]) == [] and table6.shown([bare]) == [bare]
    assert figure1.shown([result("resnet20", 9.0), result("plain20", 9.0)])[0]["error_top1"] == 9.0


def test_results_of_another_budget_data_or_recipe_are_in_another_table():
    other_data = result("resnet20", 18.0)
    other_data["data"] = {"name": "CIFAR-10 (JPEG copy)", "fingerprint": "a" * 64, "split": "test"}
    found = budgets(
        [
            result("resnet20", 9.0),
            result("resnet110", 7.0, seed=3),  # its warm-up is the paper's own
            result("resnet20", 9.1, norm_group=64),
            result("resnet20", 9.2, split="45k5k"),
            other_data,
        ]
    )
    assert {title: len(some) for title, some in found.items()} == {
        "CIFAR-10, 640 steps": 2,
        "CIFAR-10, 640 steps, norm_group 64": 1,
        "CIFAR-10, 640 steps, split 45k5k": 1,
        "CIFAR-10 (JPEG copy), 640 steps": 1,
    }


def test_an_experiment_is_named_by_all_that_can_change_its_answer():
    recipe = recipe_for("resnet20", "cifar10")
    first = Experiment(recipe, "CIFAR-10", "f" * 64)
    assert first.name == Experiment(recipe, "CIFAR-10", "f" * 64).name
    others = {
        Experiment(replace(recipe, seed=1), "CIFAR-10", "f" * 64).name,
        Experiment(replace(recipe, lr=0.2), "CIFAR-10", "f" * 64).name,
        Experiment(recipe, "CIFAR-10", "a" * 64).name,
        replace(first, curve=True).name,
    }
    assert len(others) == 4 and first.name not in others
    assert slug("CIFAR-10 (JPEG copy)") == "cifar-10-jpeg-copy"


def test_every_kept_result_lies_under_the_name_of_its_experiment():
    folder = Path(__file__).parents[1] / "results"
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text())
        if found.get("task") == "detection":
            continue
        recipe, data = from_json(found["recipe"]), found["data"]
        own = Experiment(recipe, data["name"], data["fingerprint"], path.stem.endswith("-curve"))
        keys = ("error_top1", "responses", "10crop", "multiscale")
        key = next((key for key in keys if key in found), "ensemble")
        if key == "error_top1":
            assert path.stem == own.name and own.result(folder)
        elif key != "ensemble":
            assert own.measurement(folder, key) == path


def test_a_field_that_a_recipe_gains_renames_no_experiment(monkeypatch):
    recipe = replace(recipe_for("resnet20", "cifar10"), lr=0.2)
    before = Experiment(recipe, "CIFAR-10", "f" * 64).name
    written = experiments.to_json
    monkeypatch.setattr(experiments, "to_json", lambda r: written(r) | {"gained": 1})
    assert Experiment(recipe, "CIFAR-10", "f" * 64).name == before


def test_a_result_with_a_curve_serves_where_none_is_asked_for_and_not_the_other_way(tmp_path):
    plain = Experiment(recipe_for("resnet20", "cifar10"), "CIFAR-10", "f" * 64)
    curved = replace(plain, curve=True)
    (tmp_path / f"{plain.name}.json").write_text(json.dumps(result("resnet20", 9.0)))
    assert plain.result(tmp_path) and not curved.result(tmp_path)
    (tmp_path / f"{plain.name}.json").rename(tmp_path / f"{curved.name}.json")
    assert plain.result(tmp_path) and curved.result(tmp_path)


def test_what_must_be_trained_is_the_papers_recipe_for_each_network_and_seed():
    wanted = table6.runs("cifar10", None, 2, [])
    own = [f"resnet{d}" for d in (20, 32, 44, 56, 110)]
    assert [r.network for r in wanted[::2]] == [*own, *table6.BASELINES.values()]
    assert {r.seed for r in wanted} == {0, 1} and {r.steps for r in wanted[:10]} == {64_000}
    dsn = recipes(["dsn"], "cifar10", 200, 1)[0]
    assert dsn.batch * dsn.steps == 200 * 128
    assert [r.network for r in table6.runs("cifar10", 800, 1, [1202])] == ["resnet1202"]
    assert recipes(["resnet110"], "cifar10", 6_400, 1)[0].warmup == (40, 0.01)
    assert {r.network for r in figure7.runs("cifar10", None, 1, [])} == paper.FIGURE_7.keys()
    assert {r.network for r in figure7.runs("cifar10", None, 1, [8])} == {"plain8", "resnet8"}
    assert [r.network for r in figure1.runs("cifar10", None, 1, [])] == list(paper.FIGURE_1)
    assert {r.network for r in figure6.runs("cifar10", None, 1, [20])} == {"plain20", "resnet20"}


def test_the_demo_says_seen_only_where_the_ranges_are_apart():
    assert demo.verdict([1.0, 2.0], [2.1, 3.0]) == "seen"
    assert demo.verdict([1.0, 2.0], [2.0, 3.0]) == "not seen"
    assert demo.verdict([], [2.0]) == ""
    assert demo.in_words([1.0, 2.0, 4.5]) == "2.50 (1.00 to 4.50)"


def test_ours_and_the_usual_loop_agree_where_the_means_are_within_one_deviation(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for seed, (ours, usual) in enumerate(((36.0, 36.5), (37.0, 37.0))):
        path = tmp_path / f"ours-{seed}.json"
        path.write_text(json.dumps(result("resnet20", ours, seed)))
        theirs = result("resnet20", 0, seed) | {"usual_error_top1": usual}
        del theirs["error_top1"]
        (tmp_path / "benchmarks" / f"{seed}.json").write_text(json.dumps(theirs))
    row = cells(beside.errors(tmp_path), "CIFAR-10, 640 steps")
    assert row[1:4] == ["resnet20", "36.50 ± 0.71 (2 seeds)", "36.75 ± 0.35 (2 seeds)"]
    assert row[4] == "0.25 apart, within one deviation"
    assert "not within" in beside.agree(Spread([36.0, 37.0]), Spread([40.0, 40.1]))


def test_a_network_that_fits_a_few_pictures_is_told_with_all_that_was_tried(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    one = {"start": "own", "seed": 0, "lr": 5e-4, "steps": 400, "wrong": 4, "size": 32}
    tried = {"nin": [one, one | {"start": "he", "steps": 95, "wrong": 0}], "maxout": [one]}
    tried["dsn"] = [one | {"wrong": None}]
    found = {"format": 1, "tried": tried, "precision": "bf16", "pictures": 32, "hardware": "here"}
    found["data"] = {"name": "CIFAR-10 (JPEG copy)"}
    (tmp_path / "benchmarks" / "fitting.json").write_text(json.dumps(found))
    page = beside.fitting(tmp_path)
    what = ["32 of CIFAR-10 (JPEG copy), 32 px", "here, bf16", "2", "he start, seed 0, rate 0.0005"]
    assert cells(page, "nin")[1:6] == [*what, "95"]
    assert cells(page, "maxout")[5] == "not, 4 wrong"
    assert cells(page, "dsn")[5] == "not, diverged"


def test_figures_are_drawn_from_result_files_alone(tmp_path):
    for network, error in (("plain20", 10.0), ("plain56", 13.0), ("resnet20", 9.0)):
        (tmp_path / f"{network}.json").write_text(json.dumps(result(network, error)))
    for what in ("figure1", "figure6"):
        (page,) = pages(what, tmp_path, tmp_path / "figures")
        assert page.title == "CIFAR-10, 640 steps"
        assert [path.suffix for path in page.figures] == [".png", ".svg"]
        assert all(path.stat().st_size > 1_000 for path in page.figures)
    assert len(kept(tmp_path)) == 3
    assert "plain56" in excerpt(list(pages("figure6", tmp_path, tmp_path / "figures")))


def test_the_readme_is_drawn_between_its_two_marks_and_is_short():
    text = "before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n"
    assert readme(text, "new\n") == text.replace("old", "new")
    root = Path(__file__).parents[1]
    assert (root / "README.md").read_text().count("\n") < 200


def test_every_table_and_figure_of_the_paper_has_a_page():
    wanted = {f"table{n}" for n in range(1, 15)} | {f"figure{n}" for n in range(1, 8)}
    assert set(CLAIMS) == wanted


def test_a_page_says_what_is_not_built_what_was_not_run_and_what_it_would_cost():
    package = Path(__file__).parents[1] / "residual"
    gap = chapters.chapter("table12", [], {}, package)
    assert "Not built yet" in gap and "58.80" in gap and "## The cost" not in gap
    page = chapters.chapter("table2", [], {"plain18": (1_000.0, "a machine")}, package)
    assert "Not run by us" in page and "residual reproduce table2" in page
    hours = 600_000 * 256 / 1_000 / 3_600
    assert f"{hours:,.1f} at 1,000 images/s (a machine)" in cells(page, "plain18")[4]
    assert cells(page, "plain34")[4] == "no speed measured"
    assert "three" not in page and "150,000 and 300,000" in page  # the liberties of its recipe
    assert "10 views" in page and "1202" not in page


def test_a_page_shows_what_there_is(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(result("resnet20", 9.0)))
    found = list(pages("figure6", tmp_path, tmp_path))
    page = chapters.chapter("figure6", found, {}, Path(__file__).parents[1] / "residual")
    assert "### CIFAR-10, 640 steps" in page and "9.00 (1 seed)" in page and ".png)" in page
    assert "Not run" not in page


def test_the_documents_are_drawn_from_the_results_as_they_are(tmp_path):
    for path, drawn in documents(Path(__file__).parents[1], tmp_path).items():
        assert path.read_text() == drawn, f"{path.name} is out of date: make results"
