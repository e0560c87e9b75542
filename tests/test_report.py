"""A run on one page."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

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
MATRIX = torch.tensor([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
CLASSES = ["cat", "<b>", "empty"]


def a_run(folder: Path, **changes: Any) -> Path:
    """A run folder as training leaves it. A file that is None is left out."""
    lines = [
        {"step": step, "wrong": 40, "seen": 1280, "train_error": 3.125, "loss": 1.0}
        for step in range(100, 801, 100)
    ]
    files = {
        "recipe": RECIPE,
        "result": RESULT,
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
    """The words of a page, its elements, and whatever they point to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.links, self.ids = "", [], [], []
        self.open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "br", "image"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br", "image"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "


def test_a_report_is_a_page_two_figures_in_two_forms_and_a_table(tmp_path):
    run = a_run(tmp_path / "run")
    assert report(run, MATRIX, CLASSES) == run / "report" / "report.html"
    assert sorted(path.name for path in (run / "report").iterdir()) == [
        *("confusion.png", "confusion.svg", "curves.png", "curves.svg"),
        *("per-class.csv", "report.html"),
    ]


def test_the_headline_is_the_result_and_says_what_it_means(tmp_path):
    page = Page(report(a_run(tmp_path / "run"), MATRIX, CLASSES))
    assert "resnet20 on cifar10" in page.text and "8.75 %" in page.text
    assert "875 of the 10,000 test images are wrong" in page.text
    assert "Protocol 1crop, after the last step, 800." in page.text
    assert DATA["fingerprint"] in page.text and "400, 600" in page.text
    assert "not finished" not in page.text


def test_pictures_that_could_not_be_read_are_in_no_table(tmp_path):
    run = a_run(tmp_path / "run", result=RESULT | {"seen": 22, "wrong_top1": 5})
    assert "2 could not be read; they count as wrong" in Page(report(run, MATRIX, CLASSES)).text
    run = a_run(tmp_path / "whole", result=RESULT | {"seen": 20, "wrong_top1": 3})
    assert "could not be read" not in Page(report(run, MATRIX, CLASSES)).text


def test_training_that_is_not_finished_is_said_to_be_so(tmp_path):
    page = Page(report(a_run(tmp_path / "run", result=None, environment=None), None, CLASSES))
    assert "Training has not finished: 800 of 800 steps are logged" in page.text
    assert "no number yet" in page.text
    judged = Page(report(a_run(tmp_path / "other", result=None), MATRIX, CLASSES))
    assert "15.00 %" in judged.text and "by the newest checkpoint" in judged.text


def test_the_page_needs_no_other_file_and_runs_no_script(tmp_path):
    path = report(a_run(tmp_path / "run"), MATRIX, CLASSES)
    page = Page(path)
    assert "http" not in path.read_text() and "script" not in page.tags and not page.open
    assert page.tags.count("svg") == 2
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_names_of_folders_and_classes_are_escaped(tmp_path):
    data = DATA | {"name": "<i>data</i>", "split": "<u>"}
    run = a_run(tmp_path / "<s>run", result=RESULT | {"data": data, "protocol": "<q>"})
    page = Page(report(run, MATRIX, CLASSES))
    assert not {"b", "u", "s", "q"} & set(page.tags) and "<b>" in page.text
    assert "resnet20 on <i>data</i>" in page.text


def test_the_table_has_each_class_with_what_it_is_taken_for(tmp_path):
    run = a_run(tmp_path / "run")
    page = Page(report(run, MATRIX, CLASSES))
    assert "Lowest recall: cat (80.00 %)." in page.text and "<b> (2)" in page.text
    rows = list(csv.DictReader((run / "report" / "per-class.csv").open()))
    assert [row["class"] for row in rows] == CLASSES
    assert (rows[0]["images"], rows[0]["recall"], rows[0]["precision"]) == ("10", "80.00", "88.89")
    assert rows[2]["recall"] == "" and "–" in page.text


def test_a_run_that_logged_nothing_still_has_a_page(tmp_path):
    run = a_run(tmp_path / "run", result=None)
    (run / "log.jsonl").unlink()
    assert "0 of 800 steps" in Page(report(run, None, CLASSES)).text


def test_a_report_written_twice_has_the_same_bytes(tmp_path):
    run = a_run(tmp_path / "run")
    first = report(run, MATRIX, CLASSES).read_bytes()
    assert report(run, MATRIX, CLASSES).read_bytes() == first


def test_a_folder_without_a_run_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: it has no recipe\.json"):
        report(tmp_path, None, CLASSES)
    run = a_run(tmp_path / "run")
    (run / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        report(run, None, CLASSES)


def test_several_runs_are_drawn_in_one_figure(tmp_path):
    plain = a_run(tmp_path / "one", recipe=RECIPE | {"network": "plain20"})
    residual = a_run(tmp_path / "two")
    png, svg = overlay([plain, residual], tmp_path / "both")
    assert png.name == "both.png" and svg.read_text().count("<!-- plain20 -->") == 1
    _, svg = overlay([residual, a_run(tmp_path / "three")], tmp_path / "seeds")
    assert "<!-- two -->" in svg.read_text() and "<!-- three -->" in svg.read_text()
