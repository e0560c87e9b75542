"""The pages of docs/ and the README's table, as `make results` writes them."""

import json
from pathlib import Path

from made_results import cells, detector, training

from docs.build import benchmarks
from docs.build.claims import CLAIMS
from docs.build.pages import between_marks, documents, entry_page, readme_excerpt
from residual.reproduction.catalog import CATALOG, pages
from residual.reproduction.detection_tables import VOC07
from residual.reproduction.results import Spread

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "residual"


def test_the_documents_are_drawn_from_the_results_as_they_are(tmp_path):
    for path, drawn in documents(ROOT, tmp_path).items():
        assert path.read_text() == drawn, f"{path.name} is out of date: make results"


def test_every_table_and_figure_has_a_page_or_is_named_as_a_gap():
    covered = {f"table{n}" for n in range(1, 12)} | {f"figure{n}" for n in range(1, 8)}
    assert set(CLAIMS) == covered
    assert "Tables 12 to 14" in (ROOT / "docs" / "README.md").read_text()
    assert CATALOG.keys() - CLAIMS.keys() == {"demo"}


def test_the_readme_is_drawn_between_its_two_marks_and_is_short(tmp_path):
    text = "before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n"
    assert between_marks(text, "new\n") == text.replace("old", "new")
    assert (ROOT / "README.md").read_text().count("\n") < 200
    (tmp_path / "one.json").write_text(json.dumps(training("plain56", 13.0)))
    assert "plain56" in readme_excerpt(list(pages("figure6", tmp_path, tmp_path)))


def test_a_page_says_what_was_not_run_and_what_it_would_cost():
    page = entry_page("table2", [], {"plain18": (1_000.0, "a machine")}, PACKAGE)
    assert "Not run by us" in page and "residual reproduce table2" in page
    hours = 600_000 * 256 / 1_000 / 3_600
    assert f"{hours:,.1f} at 1,000 images/s (a machine)" in cells(page, "plain18")[3]
    assert cells(page, "plain34")[3] == "no speed measured"
    assert "three" not in page and "150,000 and 300,000" in page  # the choices of its recipe
    assert "10 views" in page and "1202" not in page


def test_a_page_of_detectors_counts_each_training_once():
    text = entry_page("table9", [], {}, PACKAGE)
    assert "Not run by us" in text and "residual reproduce table9 --data COCO" in text
    assert text.count("| train2014  |") == 4  # box refinement needs no training
    assert f"{320_000 * 8:,}" in text and f"{3 * 320_000 * 8:,}" in text


def test_a_page_shows_the_results(tmp_path):
    for name, result in (
        ("a", detector("resnet101", VOC07, 76.0)),
        ("b", training("resnet20", 9.0)),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    page = entry_page("figure6", list(pages("figure6", tmp_path, tmp_path)), {}, PACKAGE)
    assert "### CIFAR-10, 640 steps" in page and "9.00 (1 seed)" in page and ".png)" in page
    assert "Not run" not in page
    (page,) = pages("table7", tmp_path, tmp_path)
    assert page.title.startswith("VOC 2007 test") and "76.00 (1 seed)" in page.table


def test_ours_and_the_usual_loop_agree_where_the_means_are_within_one_deviation(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for seed, (ours, usual) in enumerate(((36.0, 36.5), (37.0, 37.0))):
        path = tmp_path / f"ours-{seed}.json"
        path.write_text(json.dumps(training("resnet20", ours, seed)))
        theirs = training("resnet20", 0, seed) | {"usual_error_top1": usual}
        del theirs["error_top1"]
        (tmp_path / "benchmarks" / f"{seed}.json").write_text(json.dumps(theirs))
    row = cells(benchmarks.errors(tmp_path), "CIFAR-10, 640 steps")
    assert row[:3] == ["resnet20", "36.50 ± 0.71 (2 seeds)", "36.75 ± 0.35 (2 seeds)"]
    assert row[3] == "0.25 apart, within one deviation"
    assert "not within" in benchmarks.agreement(Spread([36.0, 37.0]), Spread([40.0, 40.1]))


def test_a_network_that_fits_a_few_pictures_is_listed_with_the_number_of_trials(tmp_path):
    one = {"start": "own", "seed": 0, "lr": 5e-4, "steps": 400, "wrong": 4, "size": 32}
    tried = {"nin": [one, one | {"start": "he", "steps": 95, "wrong": 0}], "maxout": [one]}
    tried["dsn"] = [one | {"wrong": None}]
    found = {"format": 1, "tried": tried, "precision": "bf16", "pictures": 32, "hardware": "here"}
    found["data"] = {"name": "CIFAR-10 (JPEG copy)"}
    (tmp_path / "fitting.json").write_text(json.dumps(found))
    page = benchmarks.fitting(tmp_path)
    what = ["32 of CIFAR-10 (JPEG copy), 32 px", "here, bf16", "2", "he start, seed 0, rate 0.0005"]
    assert cells(page, "nin")[:5] == [*what, "95"]
    assert cells(page, "maxout")[4] == "not, 4 wrong"
    assert cells(page, "dsn")[4] == "not, diverged"
