"""Figures 1, 4, 6 and 7 and the demo, from result files."""

import json

import pytest
from made_results import cells, photograph_training, training

from residual.reproduction import figures
from residual.reproduction.catalog import CATALOG, pages
from residual.reproduction.figures import demo_table, figure4_table, figure6_table, figure7_table


def test_figure_6_has_every_network_of_the_paper_and_whatever_else_was_run():
    table = figure6_table([training("plain20", 9.0), training("resnet14", 9.5)])
    assert cells(table, "plain20") == ["~9.7", "9.00 (1 seed)", "~1.4", "51.17 (1 seed)"]
    assert cells(table, "resnet14")[:2] == ["", "9.50 (1 seed)"]
    assert cells(table, "plain110")[:2] == ["above 60", "not run"]


def test_the_last_training_error_is_over_the_last_twentieth_of_the_steps():
    wrong = sum(1_280 - step for step in (610, 620, 630, 640))  # more than 608 of 640
    error = figures.last_training_error(training("plain20", 9.0))
    assert error == pytest.approx(100 * wrong / (4 * 1_280))


def test_a_result_without_a_test_curve_is_in_no_figure_but_in_the_table():
    bare = training("resnet20", 9.0)
    for line in bare["curve"]:
        line.pop("test_error", None)
    assert not CATALOG["figure6"].shows(bare) and CATALOG["table6"].shows(bare)
    figure1 = CATALOG["figure1"].shows
    assert figure1(training("plain20", 9.0)) and not figure1(training("resnet20", 9.0))


def test_figures_are_drawn_from_result_files_alone(tmp_path):
    for network, error in (("plain20", 10.0), ("plain56", 13.0), ("resnet20", 9.0)):
        (tmp_path / f"{network}.json").write_text(json.dumps(training(network, error)))
    for name in ("figure1", "figure6"):
        (page,) = pages(name, tmp_path, tmp_path / "figures")
        assert page.title == "CIFAR-10, 640 steps"
        assert [path.suffix for path in page.figures] == [".png", ".svg"]
        assert all(path.stat().st_size > 1_000 for path in page.figures)


def test_figure_4_is_drawn_with_the_papers_ends_beside_ours(tmp_path):
    some = [photograph_training("plain18", 33.0), photograph_training("resnet18-A", 31.0)]
    table = figure4_table(some)
    assert cells(table, "plain18")[:2] == ["~31.4", "33.00 (1 seed)"]
    assert "validation" in table.splitlines()[0]
    drawn = CATALOG["figure4"].figure(some, tmp_path / "figure4")
    assert [path.suffix for path in drawn] == [".png", ".svg"]


def test_figure_7_has_the_mean_the_first_and_the_last_response():
    some = [{"recipe": {"network": "plain20", "seed": s}, "responses": [1 + s, 3]} for s in (0, 1)]
    row = cells(figure7_table(some), "plain20")
    assert row[0] == "19" and [cell[:4] for cell in row[2:]] == ["2.25", "1.50", "3.00"]
    assert cells(figure7_table(some), "resnet20")[2:] == ["not run", "", ""]


def test_the_demo_says_seen_only_where_the_ranges_are_apart():
    assert figures.degradation([1.0, 2.0], [2.1, 3.0]) == "seen"
    assert figures.degradation([1.0, 2.0], [2.0, 3.0]) == "not seen"
    assert figures.degradation([], [2.0]) == ""
    results = [training("plain20", 1.0, 0), training("plain20", 2.0, 1), training("plain32", 4.5)]
    row = ["test", "1.50 (1.00 to 2.00)", "4.50 (4.50 to 4.50)", "seen"]
    assert row in [cells(line, "plain") for line in demo_table(results).splitlines()[3:4]]
