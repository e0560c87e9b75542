"""A run on one page: what was trained, how wrong it is, and where."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from residual.analysis.confusion import Judgement, balanced_accuracy, draw_confusion, per_class
from residual.analysis.curves import Curve, draw_curves, from_curve, save
from residual.runs.folder import read_log, recipe_of
from residual.storage import read_json, write_whole
from residual.training.values import to_json

WEAKEST = 5  # so many classes are pointed out, at most

CSS = """
:root { color-scheme: light; --ink: #1c1c1c; --soft: #666; --rule: #d9d6cf; --weak: #a8201a; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 46rem; background: #fff;
  color: var(--ink); font: 1.0625rem/1.55 Charter, Georgia, "Times New Roman", serif; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1.25rem; }
h1, h2 { font-weight: 600; line-height: 1.2; overflow-wrap: anywhere; }
h1 { font-size: 2rem; margin: 0; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; }
.headline { display: flex; flex-wrap: wrap; gap: .25rem 1.75rem; align-items: center;
  margin-top: 1.25rem; }
.headline strong { font-size: 3.25rem; line-height: 1.1; font-weight: 600; white-space: nowrap; }
.headline p { flex: 1 1 18rem; margin: 0; }
.notice { border-left: 4px solid var(--weak); padding: .4rem .9rem; margin: 1.25rem 0 0;
  background: #fbf1f0; }
.soft, figcaption { color: var(--soft); font-size: .925rem; overflow-wrap: anywhere; }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .925rem;
  font-variant-numeric: tabular-nums lining-nums;
  border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
th, td { text-align: left; padding: .3rem .6rem; vertical-align: top; overflow-wrap: anywhere; }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid #eeece7; } tbody th { font-weight: 400; }
.facts th { width: 38%; color: var(--soft); }
.classes td, .classes thead th:not(:first-child) { text-align: right; white-space: nowrap; }
.classes tbody th { min-width: 6rem; }
.classes td:last-child, .classes thead th:last-child { text-align: left; white-space: normal; }
.numbers td:last-child, .numbers thead th:last-child { text-align: right; }
.classes .weak > * { background: #fbf1f0; } .weak th { font-weight: 600; color: var(--weak); }
.bar { float: left; width: 5rem; height: .5rem; margin: .45rem .6rem 0 0; background: #e8e5de; }
.bar i { display: block; height: 100%; background: #4878a8; } .weak .bar i { background: #c1272d; }
@media (max-width: 36rem) { body { font-size: 1rem; padding-top: 1.5rem; } .bar { display: none; }
  h1 { font-size: 1.6rem; } th, td { padding: .3rem .4rem; }
  figure > div { overflow-x: auto; } figure svg { min-width: 30rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } tr, figure, .headline
  { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def report(run: Path, matrix: Tensor | None, classes: Sequence[str]) -> Path:
    """Write a run's report/ and return its page, report.html, which needs no other file.

    Beside it lie curves.png and .svg and, for a confusion matrix (C, C), confusion.png and .svg and
    per-class.csv. Raises ValueError where there is no run, and for a damaged file.
    """
    recipe = to_json(recipe_of(run))
    lines = log_of(run)
    result = optional(run / "result.json")
    environment = optional(run / "environment.json")
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    curve = from_curve(recipe["network"], lines or result.get("curve", []))
    sections = [headline(recipe, lines, result, environment, matrix)]
    if curve.training or curve.test:
        split = result.get("data", {}).get("split", "test")
        figure = curves_figure([curve], folder / "curves", split)
        sections.append(section("Curves", figure))
    if matrix is not None:
        rows = per_class(matrix)
        write_whole(folder / "per-class.csv", table_csv(classes, rows))
        sections.append(section("Classes", class_table(classes, rows, matrix)))
        figure = confusion_figure(matrix, classes, folder / "confusion")
        sections.append(section("Confusion matrix", figure))
    sections.append(section("Recipe", facts(recipe)))
    shown_elsewhere = {"recipe", "curve", "setting", "versions", "hardware"}
    about = {key: result[key] for key in result if key not in shown_elsewhere}
    for name, mapping in (("Result", about), ("Environment", environment)):
        if mapping:
            sections.append(section(name, facts(mapping)))
    page = folder / "report.html"
    title = f"{recipe['network']}: report of {run.resolve().name}"
    write_whole(page, document(title, sections).encode(errors="backslashreplace"))
    return page


def overlay(runs: Sequence[Path], out: Path) -> list[Path]:
    """Draw the curves of several runs in one figure, OUT.png and OUT.svg.

    A curve is named by its network, or by its folder where two runs have one network.
    """
    networks = [recipe_of(run).network for run in runs]
    alike = len(set(networks)) < len(networks)
    names = [run.resolve().name for run in runs] if alike else networks
    curves = [
        from_curve(name, log_of(run), colour=None if alike else network)
        for name, run, network in zip(names, runs, networks, strict=True)
    ]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    draw_curves(figure.subplots(), curves)
    return save(figure, out)


def log_of(run: Path) -> list[dict[str, Any]]:
    """What was logged so far; nothing before the first logged step."""
    return read_log(run / "log.jsonl")


def optional(path: Path) -> dict[str, Any]:
    """What a file says that a run may not have yet."""
    written = read_json(path) if path.is_file() else {}
    return {key: value for key, value in written.items() if key != "format"}


def headline(
    recipe: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
    matrix: Tensor | None,
) -> str:
    """The number, and what it is the number of."""
    data = result.get("data", environment.get("data", {}))
    finished = bool(result.get("finished"))
    reached = max((line["step"] for line in lines), default=recipe["steps"] if finished else 0)
    moment = f"after the last step, {reached:,}" if finished else "by the newest checkpoint"
    wrong, seen = counts(result, matrix)
    error = f"{100 * wrong / seen:.2f} %" if seen else "no number yet"
    meaning = (
        f"{wrong:,} of the {seen:,} {escape(str(data.get('split', 'judged')))} images are wrong: "
        f"the network’s first answer is not their label. "
        f"Protocol {escape(str(result.get('protocol', '1crop')))}, {moment}."
        if seen
        else "The images of the headline have not been judged."
    )
    unread = seen - int(matrix.sum()) if matrix is not None else 0
    if unread > 0:
        meaning += f" {unread:,} could not be read; they count as wrong and are in no table below."
    notice = (
        f'<p class="notice">Training has not finished: {reached:,} of {recipe["steps"]:,} steps '
        f"are logged. Nothing on this page is a final number.</p>"
    )
    fingerprint = data.get("fingerprint")
    on = f" on {escape(str(data['name']))}" if data.get("name") else ""
    return (
        f"<header><h1>{escape(str(recipe['network']))}{on}</h1>"
        f'<div class="headline"><strong>{error}</strong><p>{meaning}</p></div>'
        f"{'' if finished else notice}</header>"
        + (f'<p class="soft">Data fingerprint {escape(fingerprint)}</p>' if fingerprint else "")
    )


def counts(result: Mapping[str, Any], matrix: Tensor | None) -> tuple[int, int]:
    """Wrong answers and images seen: the result's, or before there is one the matrix's."""
    if "seen" in result:
        return result["wrong_top1"], result["seen"]
    if matrix is None:
        return 0, 0
    seen = int(matrix.sum())
    return seen - int(matrix.diagonal().sum()), seen


def curves_figure(curves: Sequence[Curve], stem: Path, split: str) -> str:
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    draw_curves(figure.subplots(), curves, split=split)
    _, svg = save(figure, stem)
    caption = "Training error of the batches as they were augmented"
    if any(curve.test for curve in curves):
        caption += f"; error of all {split} images, as they are, in bold"
    return inline(svg, "Error against iterations", caption + ".")


def confusion_figure(matrix: Tensor, classes: Sequence[str], stem: Path) -> str:
    side = 7.2 if len(matrix) > 10 else 6.0
    figure = Figure(figsize=(side, side), layout="constrained")
    draw_confusion(figure.subplots(), matrix, classes)
    _, svg = save(figure, stem)
    caption = (
        f"Rows are the {len(matrix):,} classes in the order of the table, columns the answers. "
        f"Colour is the share of a row: right answers in blue, mistakes in red, on a steeper scale."
    )
    return inline(svg, "Confusion matrix", caption)


def inline(svg: Path, name: str, caption: str) -> str:
    """A figure inside the page. Its ids get its name before them, to be its own."""
    text = svg.read_text()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)  # known to every reader of HTML
    text = re.sub(r'(id="|"#|url\(#)', rf"\g<1>{svg.stem}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)
    return f"<figure><div>{text}</div><figcaption>{escape(caption)}</figcaption></figure>"


def section(name: str, content: str) -> str:
    return f"<section><h2>{escape(name)}</h2>{content}</section>"


def facts(mapping: Mapping[str, Any]) -> str:
    rows = (f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in flat(mapping))
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values in words; what is inside another mapping has both names."""
    for key, value in mapping.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, f"{name} ")
        else:
            yield name, shown(value)


def shown(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(shown, value)) or "none"
    return str(value)


def percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.2f}"


def weakest(rows: Sequence[Judgement]) -> list[int]:
    """The classes of lowest recall, worst first: a third at most, and none without a mistake."""
    known = [(row.recall, i) for i, row in enumerate(rows) if row.recall is not None]
    wrong = sorted((recall, i) for recall, i in known if recall < 1)
    return [i for _, i in wrong[: min(WEAKEST, max(1, len(known) // 3))]]


def class_table(classes: Sequence[str], rows: Sequence[Judgement], matrix: Tensor) -> str:
    """Classes in their order, the weakest marked, each with what it is most often taken for."""
    weak = weakest(rows)
    mistakes = matrix.clone().fill_diagonal_(0)
    most, taken_for = mistakes.max(dim=1)
    body = []
    for i, (name, row) in enumerate(zip(classes, rows, strict=True)):
        bar = f'<span class="bar"><i style="width:{100 * (row.recall or 0):.1f}%"></i></span>'
        often = f"{classes[int(taken_for[i])]} ({int(most[i]):,})" if most[i] else "–"
        mark = ' class="weak"' if i in weak else ""
        body.append(
            f"<tr{mark}><th>{escape(name)}</th>"
            f"<td>{row.count:,}</td><td>{bar}{percent(row.recall)}</td>"
            f"<td>{percent(row.precision)}</td><td>{percent(row.f1)}</td><td>{escape(often)}"
            "</td></tr>"
        )
    names = ", ".join(f"{classes[i]} ({percent(rows[i].recall)} %)" for i in weak)
    balanced = percent(balanced_accuracy(matrix))
    text = f"Balanced accuracy, the mean recall of the classes: {balanced} %."
    if weak:
        text += f" Lowest recall: {names}."
    heads = ("class", "images", "recall %", "precision %", "F1 %", "most often taken for")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<p>{escape(text)}</p><div class="wide"><table class="classes"><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def table_csv(classes: Sequence[str], rows: Iterable[Judgement]) -> bytes:
    """The table of classes for other programs: rates in percent, empty where they would be 0/0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "images", "answered", "right", "recall", "precision", "f1"])
    for name, row in zip(classes, rows, strict=True):
        rates = [percent(r).replace("–", "") for r in (row.recall, row.precision, row.f1)]
        writer.writerow([name, row.count, row.answered, row.right, *rates])
    return text.getvalue().encode()


def document(title: str, sections: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body>{''.join(sections)}</body></html>\n"
    )
