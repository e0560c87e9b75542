"""A run on one page."""

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from residual.analysis.report import overlay, report

RECIPE = {"format": 1, "network": "resnet20", "batch": 128, "steps": 800, "drops": [400, 600]}
DATA = {"name": "cifar10", "fingerprint": "9f8a" * 16, "split": "test"}
RESULT = {
    "format": 1,
    "recipe": RECIPE,
    "data": DATA,
    "protocol": "1crop",
    "seen": 10_000,
    "wrong_top1": 875,
    "error_top1": 8.75,
    "finished": "2025-01-01T00:00:00+00:00",
    "curve": [{"step": 800, "train_error": 3.0, "test_error": 8.75}],
}
MATRIX = [[8, 2, 0], [1, 9, 0], [0, 0, 0]]
CLASSES = ["cat", "<b>", "--><script>alert('x')</script>"]


def a_run(folder: Path, **changes: Any) -> Path:
    """A run folder as training leaves it. A file that is None is left out."""
    lines = [
        {"step": step, "wrong": 40, "seen": 1280, "train_error": 3.125, "loss": 1.0}
        for step in range(100, 801, 100)
    ]
    files = {
        "recipe": RECIPE,
        "result": RESULT,
        "confusion": MATRIX,
        "classes": CLASSES,
        "environment": {"format": 1, "data": DATA, "threads": 2, "versions": {"torch": "2.14"}},
    } | changes
    folder.mkdir()
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    log = [*lines, {"step": 800, "test_wrong": 900, "test_seen": 10_000, "test_error": 9.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


class Page(HTMLParser):
    """The words of a page, its elements, and what they point to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.links = "", [], []
        self.open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " ".join(data.split()) + " "


def test_a_report_is_a_page_two_figures_in_two_forms_and_a_table(tmp_path):
    run = a_run(tmp_path / "run")
    assert report(run) == run / "report" / "report.html"
    assert sorted(path.name for path in (run / "report").iterdir()) == [
        *("confusion.png", "confusion.svg", "curves.png", "curves.svg"),
        *("per-class.csv", "report.html"),
    ]


def test_the_headline_is_the_result_and_says_what_it_means(tmp_path):
    page = Page(report(a_run(tmp_path / "run")))
    assert "resnet20 on cifar10" in page.text and "8.75 %" in page.text
    assert "875 of the 10,000 test images are wrong" in page.text
    assert "Protocol 1crop, after the last step, 800." in page.text
    assert DATA["fingerprint"] in page.text and "400, 600" in page.text
    assert "not finished" not in page.text


def test_pictures_that_could_not_be_read_are_in_no_table(tmp_path):
    run = a_run(tmp_path / "run", result=RESULT | {"seen": 22, "wrong_top1": 5})
    assert "2 could not be read; they count as wrong" in Page(report(run)).text
    run = a_run(tmp_path / "whole", result=RESULT | {"seen": 20, "wrong_top1": 3})
    assert "could not be read" not in Page(report(run)).text


def test_an_unfinished_run_says_so_and_has_no_number(tmp_path):
    page = Page(report(a_run(tmp_path / "run", result=None, environment=None)))
    assert "Training has not finished: 800 of 800 steps are logged" in page.text
    assert "no number yet" in page.text and "Balanced accuracy" not in page.text
    (tmp_path / "run" / "log.jsonl").unlink()
    assert "0 of 800 steps" in Page(report(tmp_path / "run")).text


def test_the_page_needs_no_other_file_and_runs_no_script(tmp_path):
    page = Page(report(a_run(tmp_path / "run")))
    assert "script" not in page.tags and not page.open
    assert len(page.links) == page.tags.count("img") == 2
    for link in page.links:
        kind, _, content = link.partition(";base64,")
        assert kind == "data:image/svg+xml"
        links = re.findall(r'href="(.*?)"', base64.b64decode(content).decode())
        assert all(each.startswith(("#", "data:image/png;base64,")) for each in links)


def test_names_of_folders_and_classes_are_escaped(tmp_path):
    data = DATA | {"name": "<i>data</i>", "split": "<u>"}
    run = a_run(tmp_path / "<s>run", result=RESULT | {"data": data, "protocol": "<q>"})
    page = Page(report(run))
    assert not {"b", "u", "s", "q", "script"} & set(page.tags)
    assert "resnet20 on <i>data</i>" in page.text and CLASSES[2] in page.text


def test_the_table_has_each_class_and_what_it_is_mistaken_for(tmp_path):
    run = a_run(tmp_path / "run")
    page = Page(report(run))
    assert "Lowest recall: cat (80.00 %)." in page.text and "<b> (2)" in page.text
    assert "Balanced accuracy, the mean recall of the classes: 85.00 %." in page.text
    rows = list(csv.DictReader((run / "report" / "per-class.csv").open()))
    assert [row["class"] for row in rows] == CLASSES
    assert (rows[0]["images"], rows[0]["recall"], rows[0]["precision"]) == ("10", "80.00", "88.89")
    assert rows[2]["recall"] == "" and "–" in page.text


def test_a_run_of_which_no_test_image_could_be_read_has_a_page_without_class_table(tmp_path):
    run = a_run(tmp_path / "run", confusion=[[0] * 3] * 3)
    assert "Balanced accuracy" not in Page(report(run)).text


def test_a_report_written_twice_has_the_same_bytes(tmp_path):
    run = a_run(tmp_path / "run")
    first = report(run).read_bytes()
    assert report(run).read_bytes() == first


def test_a_folder_without_a_run_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: it has no recipe\.json"):
        report(tmp_path)
    run = a_run(tmp_path / "run")
    (run / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        report(run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe", RECIPE | {"batch": "many"}),
        ("recipe", {"task": "detection", "network": 3}),
        ("recipe", {"steps": 5}),
        ("confusion", [[1, 2], [3]]),
        ("confusion", [[1, 2]]),
        ("confusion", {"a": 1}),
        ("classes", 5),
        ("classes", CLASSES[:2]),
    ],
)
def test_a_file_with_other_content_than_a_run_has_is_named(tmp_path, name, content):
    run = a_run(tmp_path / "run", **{name: content})
    with pytest.raises(ValueError, match=rf"{name}\.json"):
        report(run)
    if name == "recipe":
        with pytest.raises(ValueError, match=r"recipe\.json|is the run of a detector"):
            overlay([run, run], tmp_path / "both")


def test_a_result_without_counts_has_no_number_and_the_recipe_shows_defaults_in_its_order(tmp_path):
    result = {k: v for k, v in RESULT.items() if k not in ("seen", "wrong_top1")}
    recipe = dict(reversed(RECIPE.items()))
    page = Page(report(a_run(tmp_path / "run", result=result, recipe=recipe)))
    assert "no number yet" in page.text and "Balanced accuracy" in page.text
    rows = [page.text.index(f" {name} ") for name in ("start", "batch", "drops", "weight decay")]
    assert rows == sorted(rows) and " momentum 0.9 " in page.text


def test_mappings_inside_lists_show_their_values(tmp_path):
    environment = {"data": DATA, "devices": [{"name": "H200", "memory": 139}]}
    page = Page(report(a_run(tmp_path / "run", environment=environment)))
    assert "name H200, memory 139" in page.text


def test_several_runs_are_drawn_in_one_figure(tmp_path):
    plain = a_run(tmp_path / "one", recipe=RECIPE | {"network": "plain20"})
    residual = a_run(tmp_path / "two")
    png, svg = overlay([plain, residual], tmp_path / "both")
    assert png.name == "both.png" and svg.read_text().count("<!-- plain20 -->") == 1
    _, svg = overlay([residual, a_run(tmp_path / "three")], tmp_path / "seeds")
    assert "<!-- two -->" in svg.read_text() and "<!-- three -->" in svg.read_text()
