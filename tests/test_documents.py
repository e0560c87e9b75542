"""The pages of docs/ and the README's table, as `make results` writes them."""

import json
from pathlib import Path
from typing import Any

from made_results import cells, detector, training

from docs.build import benchmarks
from docs.build.claims import CLAIMS
from docs.build.costs import training_speeds
from docs.build.pages import beginning_page, documents, entry_page, index, short_title
from docs.build.readme import between_marks, readme_excerpt
from docs.build.recipes import NAMES, recipes_page
from docs.build.selection import best, demonstration, finished_rows, is_chance
from residual.reproduction.catalog import CATALOG, Page, pages
from residual.reproduction.detection_tables import VOC07
from residual.reproduction.results import RESULTS, Spread, network_of, read_results
from residual.tasks.classification import baseline_recipes
from residual.tasks.classification import recipe as classification
from residual.tasks.detection import recipe as detection
from residual.training.recipe import to_json

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


def test_no_stored_result_is_of_a_network_that_has_learned_nothing():
    assert not [network_of(result) for result in read_results(ROOT / RESULTS) if is_chance(result)]


def test_the_readme_is_drawn_between_its_two_marks_and_is_short():
    text = "before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n"
    assert between_marks(text, "new\n") == text.replace("old", "new")
    assert (ROOT / "README.md").read_text().count("\n") <= 200
    assert "Nothing is trained" in readme_excerpt(None)


def drawn_of(folder: Path, name: str, results: list[dict]) -> list[Page]:
    """The pages of a table or figure with these results alone."""
    (folder / "results").mkdir(exist_ok=True)
    for file in (folder / "results").glob("*.json"):
        file.unlink()
    for n, result in enumerate(results):
        (folder / "results" / f"{n}.json").write_text(json.dumps(result))
    return list(pages(name, folder / "results", folder / "figures"))


LONG = {"steps": 16_000}
FOUR = ("plain20", "plain56", "resnet20", "resnet56")


def ended(errors: tuple[float, ...], names: tuple[str, ...] = FOUR, **more: Any) -> list[dict]:
    """Finished trainings, with the counts of their last training errors."""
    some = []
    if steps := more.get("steps"):
        more["drops"] = (steps // 2, steps // 4 * 3)
    for network, error in zip(names, errors, strict=True):
        result = training(network, error, **more)
        wrong = round(12.8 * error)
        result["curve"] += [{"step": result["recipe"]["steps"], "wrong": wrong, "seen": 1_280,
                             "train_error": error, "test_error": error}]  # fmt: skip
        some.append(result)
    return some


def test_the_readme_shows_the_longest_training_on_the_best_data_with_the_depths_of_figure_1(
    tmp_path,
):
    jpeg = ended((9, 12, 9, 7), data="CIFAR-10 (JPEG copy)", **LONG | {"steps": 32_000})
    cifar, short = ended((9, 13, 8, 7), **LONG), ended((9, 13, 8, 7), steps=3_200)
    one_depth = ended((9, 9), ("plain20", "resnet20"), steps=48_000)
    demo = drawn_of(tmp_path, "demo", [
        training(f"{kind}{depth}", 9.0, data="digits")
        for kind in ("plain", "resnet") for depth in (20, 32)
    ])  # fmt: skip

    def chosen(*results: dict) -> Page | None:
        return demonstration(drawn_of(tmp_path, "figure6", list(results)), demo)

    assert chosen(*jpeg, *cifar, *short, *one_depth).title == "CIFAR-10, 16,000 steps"
    assert chosen(*jpeg, *short).title == "CIFAR-10 (JPEG copy), 32,000 steps"
    assert chosen(*short, *one_depth) is demo[0]  # 3,200 steps are the beginning of a training
    text = readme_excerpt(chosen(*cifar))
    assert "**Plain networks get worse with depth; residual networks do not.**" in text
    assert "16,000 steps, 1 seed. The paper trained for 64,000 steps" in text
    assert cells(text, "plain56") == ["12.97", "13.00", "~5.9", "~13.2"]
    worse = readme_excerpt(chosen(*ended((9, 8, 8, 9), **LONG)))
    assert "Plain networks do not get worse with depth; residual networks do.**" in worse


def test_a_training_in_bf16_is_a_page_of_its_own_and_says_so(tmp_path):
    exact = ended((9, 14, 9, 8), **LONG)
    mixed = [result | {"setting": {"precision": "bf16"}} for result in exact]
    drawn = drawn_of(tmp_path, "figure6", exact + mixed)
    titles = ["CIFAR-10, 16,000 steps", "CIFAR-10, 16,000 steps, bf16"]
    assert [page.title for page in drawn] == titles
    assert demonstration(drawn, []).title == titles[0]
    front = demonstration(drawn_of(tmp_path, "figure6", mixed), [])
    assert "16,000 steps, bf16, 1 seed" in readme_excerpt(front)
    groups = [result | {"recipe": result["recipe"] | {"norm_group": 64}} for result in mixed]
    front = demonstration(drawn_of(tmp_path, "figure6", groups), [])
    assert "16,000 steps, norm_group 64, bf16, 1 seed" in readme_excerpt(front)
    assert demonstration(drawn_of(tmp_path, "figure6", groups + mixed), []).title == titles[1]


def test_figure_6_at_a_quarter_of_the_budget_is_on_the_front_beside_finished_rows_of_table_6(
    tmp_path,
):
    """As results come in: more depths and seeds, and at 64,000 steps only residual networks."""
    names = ("plain20", "plain32", "plain56", "resnet20", "resnet32", "resnet56")
    quarter = ended((10, 11, 14, 9.5, 9, 8.5), names, **LONG)
    quarter += ended((10.2, 9.4), ("plain20", "resnet20"), **LONG, seed=1)
    quarter += ended((12,), ("plain44",), **LONG)
    full = []
    for seed, error in enumerate((8.6, 8.7, 8.9)):
        full += ended((error,), ("resnet20",), steps=64_000, seed=seed)
    full += ended((7.6, 9.8), ("resnet32", "plain20"), steps=64_000)
    figure6 = drawn_of(tmp_path, "figure6", quarter + full)
    table6 = drawn_of(tmp_path, "table6", quarter + full)
    front = demonstration(figure6, [])
    assert front.title == best("figure6", figure6).title == "CIFAR-10, 16,000 steps"
    text = readme_excerpt(front, finished_rows(table6))
    assert "**Plain networks get worse with depth; residual networks do not.**" in text
    assert "CIFAR-10, 16,000 steps, 1 to 2 seeds. The paper trained for 64,000 steps." in text
    assert cells(text, "plain20")[1:] == ["10.10 (10.00 to 10.20)", "~1.4", "~9.7"]
    assert cells(text, "plain32")[1:] == ["11.00", "~1.1", "~10.1"] and "plain44" not in text
    assert "figure6-cifar-10-16-000-steps.png" in text
    low, high = Spread([8.6, 8.7, 8.9]).band
    assert cells(text, "ResNet-20")[2:] == [
        "8.75", "8.73 ± 0.15 (3 seeds)", f"-0.02, inside {low:.2f} to {high:.2f}"
    ]  # fmt: skip
    assert cells(text, "ResNet-32")[2:] == ["7.51", "7.60 (1 seed)", "+0.09"]
    assert "ResNet-44" not in text and "not run" not in text
    assert finished_rows(drawn_of(tmp_path, "table6", quarter)) is None
    changed = [result | {"setting": {"precision": "bf16"}} for result in full]
    assert finished_rows(drawn_of(tmp_path, "table6", changed + full)).title == (
        "CIFAR-10, 64,000 steps"
    )
    text = readme_excerpt(front, finished_rows(drawn_of(tmp_path, "table6", changed)))
    assert "CIFAR-10, 64,000 steps, bf16; test errors: mean ± deviation over seeds" in text
    single = [result | {"recipe": result["recipe"] | {"norm_group": 64}} for result in full[:1]]
    text = readme_excerpt(front, finished_rows(drawn_of(tmp_path, "table6", single)))
    assert (
        "64,000 steps, norm_group 64; test errors, one training of each network; norm_group: "
        in (text)
    )


def test_longer_trainings_that_lack_a_side_of_the_comparison_are_not_the_best():
    short = Page("CIFAR-10, 320 steps", "", [], ended((9, 9, 9, 9), steps=320))
    plain = Page("CIFAR-10, 640 steps", "", [], ended((9, 9), ("plain20", "plain56")))
    residual = Page("CIFAR-10, 640 steps", "", [], ended((9, 9), ("resnet20", "resnet56")))
    deep = Page("CIFAR-10, 640 steps", "", [], ended((9, 9), ("plain56", "resnet56")))
    for figure in ("figure6", "figure7"):
        assert best(figure, [short, plain, residual, deep]) is short
    assert best("figure1", [short, plain]) is plain
    assert best("table6", [short, residual]) is residual


def test_a_page_shows_its_best_result_and_the_appendix_the_others(tmp_path):
    results = [
        training("resnet20", 9.0),
        training("resnet20", 19.0, steps=320),
        training("resnet32", 90.0, steps=320),
        training("resnet20", 10.0, data="CIFAR-10 (JPEG copy)"),
    ]
    drawn = drawn_of(tmp_path, "table6", results)
    page = entry_page("table6", drawn, {"resnet32": (100.0, "a machine")}, PACKAGE)
    assert page.count("### CIFAR") == 1 and "### CIFAR-10, 640 steps" in page
    assert cells(page, "ResNet-32")[-1] == f"not run; {640 * 128 / 100 / 3600:.1f} hours"
    assert cells(page, "ResNet-110")[-1].startswith("not run; 6.2e13 multiply-adds")
    assert "](beginning.md#table-6-errors-on-cifar-10)" in page
    appendix = beginning_page({"table6": drawn})
    assert "## Table 6: errors on CIFAR-10" in appendix and "### CIFAR-10, 640" not in appendix
    assert "### CIFAR-10, 320 steps" in appendix and "### CIFAR-10 (JPEG copy), 640" in appendix
    assert "not run" not in appendix and "90.00" not in appendix
    assert "Table 6: errors on CIFAR-10](table6.md): CIFAR-10, 640 steps\n" in index(
        {"table6": drawn}
    )


def test_a_copy_of_the_data_alone_is_on_no_page_of_a_table(tmp_path):
    drawn = drawn_of(tmp_path, "table6", [training("resnet20", 10.0, data="CIFAR-10 (JPEG copy)")])
    page = entry_page("table6", drawn, {}, PACKAGE)
    assert "Not run by us" in page and "JPEG" not in page and "beginning.md" in page
    assert cells(page, "ResNet-20")[-1] == "8.75" and "ours" not in page.split("## Our result")[1]


def test_a_long_title_is_a_short_heading_and_a_sentence():
    title = "BCCD test (fingerprint a96823c0), recipe scratch, 2,000 steps, scales [32, 64], bins 7"
    heading, details = short_title(title)
    assert heading == "BCCD test, 2,000 steps"
    assert details == "Fingerprint a96823c0, recipe scratch, scales [32, 64], bins 7"
    assert short_title("CIFAR-10, 640 steps, bins 7") == ("CIFAR-10, 640 steps, bins 7", "")


def test_every_recipe_and_every_field_is_in_the_table_of_recipes():
    page = recipes_page([training("resnet20", 4.5, data="digits")], {}, PACKAGE)
    for kind in (classification, baseline_recipes, detection):
        for name, recipe in kind.RECIPES.items():
            row = cells(page, f"`{name}`")
            assert f"`steps={recipe.steps}`" in row[0] and row[1]
            assert all(
                f"| `{field}`" in page for field in to_json(recipe).keys() - NAMES - {"teacher"}
            )
    assert "8.75 %" in cells(page, "`cifar`")[2]
    measured = "resnet20: 4.50 (1 seed) % error after 640 steps"
    assert cells(page, "`digits`")[2:] == [measured, "not measured"]
    assert "multi-scale" not in cells(page, "`scales`", "`256,480`")[0]


def test_a_page_says_what_was_not_run_and_what_it_would_cost():
    page = entry_page("table2", [], {"plain18": (1_000.0, "a machine")}, PACKAGE)
    assert "Not run by us" in page and "residual reproduce table2" in page
    hours = 600_000 * 256 / 1_000 / 3_600
    assert f"{hours:,.1f} at 1,000 images/s (a machine)" in cells(page, "plain18")[3]
    assert cells(page, "plain34")[3] == "no speed measured"
    assert "three" not in page and "150,000 and 300,000" in page  # the choices of its recipe
    assert "10 views" in page and "1202" not in page


def test_a_measured_speed_names_the_machine_the_processes_and_the_precision(tmp_path):
    speed = {"images_per_second": 900.0, "hardware": "a machine"}
    several = {"setting": {"precision": "bf16", "processes": 2}}
    for network, more in (("resnet20", several), ("plain20", {})):
        result = training(network, 9.0) | speed | more
        (tmp_path / f"{network}.json").write_text(json.dumps(result))
    assert training_speeds(tmp_path) == {
        "resnet20": (900.0, "a machine, 2 processes, bf16"),
        "plain20": (900.0, "a machine"),
    }


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


def test_the_errors_and_speeds_of_two_precisions_are_compared(tmp_path):
    sides = {
        "bf16": {"error_top1": [30.0, 31.0], "images_per_second": [600, 602]},
        "float32": {"error_top1": [30.5, 31.5], "images_per_second": [400, 402]},
    }
    record = training("resnet20", 0) | {"precisions": sides, "ratio": 1.5, "hardware": "here"}
    (tmp_path / "one.json").write_text(json.dumps(record))
    row = cells(benchmarks.precisions(tmp_path), "CIFAR-10, 640 steps", "resnet20")
    assert row[:3] == ["31.00 ± 0.71 (2 seeds)", "30.50 ± 0.71 (2 seeds)",
                       "0.50 apart, within one deviation"]  # fmt: skip
    assert row[3:] == ["here", "401 images/s", "601 images/s", "1.50"]


def test_a_network_that_fits_a_few_pictures_is_listed_with_the_number_of_trials(tmp_path):
    one = {"start": "own", "seed": 0, "lr": 5e-4, "steps": 400, "wrong": 4, "size": 32}
    tried = {"nin": [one, one | {"start": "he", "steps": 95, "wrong": 0}], "maxout": [one]}
    tried["dsn"] = [one | {"wrong": None}]
    record = {"format": 1, "tried": tried, "precision": "bf16", "pictures": 32, "hardware": "here"}
    record["data"] = {"name": "CIFAR-10 (JPEG copy)"}
    (tmp_path / "fitting.json").write_text(json.dumps(record))
    page = benchmarks.fitting(tmp_path)
    what = ["32 of CIFAR-10 (JPEG copy), 32 px", "here, bf16", "2", "he start, seed 0, rate 0.0005"]
    assert cells(page, "nin")[:5] == [*what, "95"]
    assert cells(page, "maxout")[4] == "not, 4 wrong"
    assert cells(page, "dsn")[4] == "not, diverged"
