"""Error against cost: the picture of what the paper says in words."""

from residual.reproduction import figure_cost, paper
from residual.reproduction.experiments import cost_of


def test_the_deepest_residual_network_costs_less_than_vgg():
    assert cost_of("resnet152", 224)[1] < cost_of("vgg16", 224)[1] < cost_of("vgg19", 224)[1]


def test_each_row_of_tables_3_and_6_is_drawn_with_its_printed_error():
    assert len(figure_cost.SMALL) == len(paper.TABLE_6) + len(paper.TABLE_6_RIVALS)
    assert len(figure_cost.LARGE) == len(paper.TABLE_3)
    assert figure_cost.LARGE["prelu-net-C"] == paper.TABLE_3["PReLU-net"][1]
    assert figure_cost.SMALL["highway32"] == paper.TABLE_6_RIVALS["Highway-32"][2]


def test_without_results_the_papers_numbers_are_drawn_and_ours_are_said_to_be_missing(tmp_path):
    table = figure_cost.table([])
    assert table.count("not run") == len(figure_cost.SMALL | figure_cost.LARGE)
    drawn = figure_cost.figure([], tmp_path / "cost")
    assert [path.suffix for path in drawn] == [".png", ".svg"]
    words = drawn[1].read_text()
    assert "parameters" in words and "resnet1202" in words


def test_ours_are_the_mean_of_the_seeds():
    some = [
        {"recipe": {"network": "nin", "seed": seed}, "error_top1": error}
        for seed, error in enumerate((10.0, 12.0))
    ]
    assert figure_cost.ours(figure_cost.shown(some)) == {"nin": 11.0}
    (row,) = [line for line in figure_cost.table(some).splitlines() if line.startswith("| nin")]
    assert "11.00" in row
