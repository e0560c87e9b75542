"""Fig. 1, 4 and 6: curves of the error."""

import json
import random
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from residual.analysis.curves import (
    MAX_POINTS,
    Curve,
    curve_from_log,
    draw_curves,
    palette,
    round_up,
    save_figure,
    spread,
)
from residual.runs.folder import read_log


def log(lines: int, every: int = 100) -> list[dict[str, float]]:
    draw = random.Random(0)
    logged = []
    for i in range(1, lines + 1):
        wrong, seen = draw.randint(0, 128), draw.choice((128, 256))
        logged.append(
            {"step": i * every, "wrong": wrong, "seen": seen, "train_error": 100 * wrong / seen}
        )
    return logged


def drawn(*curves: Curve, **options) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    draw_curves(figure.subplots(), curves, **options)
    return figure


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


SHORT = curve_from_log("20-layer", [*log(5), {"step": 500, "test_error": 9.0}])


def test_a_torn_last_line_of_a_log_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 100, "train_error": 3.0}\n{"step": 200, "train_er')
    assert read_log(path) == [{"step": 100, "train_error": 3.0}]


def test_a_whole_log_is_read_to_its_end(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in log(3)))
    assert read_log(path) == log(3)
    path.write_text("")
    assert read_log(path) == []


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_log(path)


def test_training_and_test_errors_are_told_apart_and_a_later_line_of_a_step_counts():
    curve = curve_from_log(
        "resnet20",
        [
            {"step": 100, "train_error": 50.0, "loss": 1.0},
            {"step": 100, "test_wrong": 900, "test_seen": 10_000, "test_error": 9.0},
            {"step": 200, "train_error": 40.0},
            {"step": 200, "train_error": 30.0, "test_error": 8.0},
        ],
    )
    assert curve.training == [(100, 50.0), (200, 30.0)] and curve.bin_width == 0
    assert curve.test == [(100, 9.0), (200, 8.0)]


def test_many_training_points_are_averaged_from_their_counts():
    lines = log(3 * MAX_POINTS)
    curve = curve_from_log("resnet20", lines)
    slow = []
    for first in range(0, 100 * len(lines), curve.bin_width):
        inside = [line for line in lines if first < line["step"] <= first + curve.bin_width]
        wrong, seen = (sum(line[key] for line in inside) for key in ("wrong", "seen"))
        slow.append((inside[-1]["step"], 100 * wrong / seen))
    assert curve.bin_width == 500 and curve.training == slow


def test_an_averaged_curve_says_so_in_the_figure():
    figure = drawn(curve_from_log("resnet20", log(3 * MAX_POINTS)))
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["training (mean of 500 steps)"]


def test_points_without_counts_are_never_averaged():
    lines = [{k: line[k] for k in ("step", "train_error")} for line in log(3 * MAX_POINTS)]
    curve = curve_from_log("resnet20", lines)
    assert len(curve.training) == 3 * MAX_POINTS and curve.bin_width == 0


def test_bins_have_round_widths():
    assert [round_up(x) for x in (0.1, 1, 1.5, 3, 5.5, 10, 160, 501)] == [
        *(1, 1, 2, 5, 10, 10, 200, 1000)
    ]


def test_training_is_thin_and_test_is_bold_in_one_colour():
    thin, bold = drawn(SHORT).axes[0].lines
    assert thin.get_linewidth() < bold.get_linewidth() and thin.get_color() == bold.get_color()


def test_depths_have_their_colours_unless_two_networks_would_be_alike():
    assert list(palette(["20", "56"]).values()) == list(palette(["resnet20", "plain56"]).values())
    assert len(set(palette(["plain20", "resnet20", "resnet56"]).values())) == 3
    assert len(set(palette(["resnet20", "mine"]).values())) == 2


def test_the_error_axis_ends_at_20_where_the_curves_end_below_it():
    far = Curve("plain-110", [(500, 62.0)], [(500, 61.0)])
    assert drawn(SHORT).axes[0].get_ylim() == (0, 20)
    assert drawn(SHORT, far).axes[0].get_ylim() == (0, 80)
    beyond = drawn(SHORT, far, top=20)
    assert beyond.axes[0].get_ylim() == (0, 20)
    assert labels(beyond) == ["20-layer", "plain-110 ↑"]


def test_iterations_are_in_units_of_10000_where_there_are_many():
    long = Curve("20-layer", [(64_000, 1.0)], [(64_000, 9.0)])
    assert drawn(long).axes[0].get_xlabel() == "iterations (1e4)"
    assert drawn(long).axes[0].get_xlim() == (0, 6.4)
    assert drawn(SHORT).axes[0].get_xlabel() == "iterations"


def test_names_at_the_ends_of_lines_never_overlap():
    draw = random.Random(0)
    for _ in range(100):
        heights = [draw.uniform(0, 30) for _ in range(8)]
        placed = spread(heights, 1.5, 20)
        gaps = [b - a for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)]
        assert min(gaps) > 1.5 - 1e-9 and max(placed) <= 20
        assert sorted(range(8), key=lambda i: placed[i]) == sorted(
            range(8), key=lambda i: heights[i]
        )
    assert spread([5.0, 10.0], 1.5, 20) == [5.0, 10.0]


def test_a_name_may_hold_any_character(tmp_path):
    odd = Curve(r"a $\broken_ name$ <b> 狗", [], [(1, 5.0)])
    assert len(save_figure(drawn(odd), tmp_path / "odd")) == 2


def test_nothing_to_draw_is_an_empty_figure(tmp_path):
    png, svg = save_figure(drawn(), tmp_path / "empty")
    assert png.stat().st_size and svg.stat().st_size


def test_the_same_figure_has_the_same_bytes_and_no_date(tmp_path):
    first = save_figure(drawn(SHORT), tmp_path / "first")
    second = save_figure(drawn(SHORT), tmp_path / "second")
    assert [path.name for path in first] == ["first.png", "first.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert "date" not in first[1].read_text() and b"Software" not in first[0].read_bytes()


def test_drawing_changes_no_setting_of_matplotlib_and_leaves_only_its_files(tmp_path: Path):
    before = dict(matplotlib.rcParams)
    save_figure(drawn(SHORT), tmp_path / "figure")
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "figure.svg"]
