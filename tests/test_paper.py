"""The printed numbers agree with one another and with what the text says of them."""

import pytest

from residual.reproduction import paper


def test_the_residual_net_gains_what_the_text_says_from_depth_and_over_the_plain_one():
    (_, shallow), (plain, deep) = paper.TABLE_2[18], paper.TABLE_2[34]
    assert shallow - deep == pytest.approx(2.8, abs=0.06)
    assert plain - deep == pytest.approx(3.5, abs=0.06)


def test_table_3_repeats_the_34_layer_nets_of_table_2():
    assert paper.TABLE_2[34] == (paper.TABLE_3["plain-34"][0], paper.TABLE_3["ResNet-34 A"][0])


@pytest.mark.parametrize("table", [paper.TABLE_3, paper.TABLE_4])
def test_top_5_errors_lie_below_top_1_errors(table):
    assert all(top_5 < top_1 for top_1, top_5 in table.values() if top_1 is not None)


def test_the_single_152_layer_net_beats_every_earlier_ensemble():
    earlier = [error for name, error in paper.TABLE_5.items() if not name.startswith("ResNet")]
    assert paper.TABLE_4["ResNet-152"][1] < min(earlier)


def test_figure_1_shows_two_curves_of_figure_6():
    assert all(paper.FIGURE_6[name] == ends for name, ends in paper.FIGURE_1.items())


def test_figure_6_ends_where_table_6_says():
    for depth, (error, _) in paper.TABLE_6.items():
        ends = paper.FIGURE_6[f"resnet{depth}"]
        assert ends[0] == pytest.approx(error, abs=paper.READING_ERROR)


def test_five_runs_of_table_6_have_a_mean_above_the_best():
    best = {
        "ResNet-110": paper.TABLE_6[110][0],
        "Highway-19": paper.TABLE_6_BASELINES["Highway-19"][2],
    }
    assert all(mean > best[name] for name, (mean, _) in paper.TABLE_6_FIVE_RUNS.items())
