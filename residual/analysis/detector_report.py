"""A detector's run on one page: how its losses fell, and how well it finds each class."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from residual.analysis.curves import OTHERS, bare, save
from residual.analysis.report import document, facts, inline, log_of, optional, section
from residual.storage import read_json, write_whole

PARTS = {  # of the log: what they are
    "objectness_loss": "proposals: object or not",
    "anchor_loss": "proposals: where",
    "class_loss": "regions: class",
    "box_loss": "regions: where",
}
POINTS = 100  # of a curve; each is the mean over as many lines of the log as that takes
CAPTION = "The four losses of Faster R-CNN on the training pictures, each as it is added."
HEADS = {
    "AP50-11pt": "AP50, 11 points",
    "AP50-area": "AP50, area",
    "AP[.5:.95]": "AP over .5 to .95",
}


def report(run: Path) -> Path:
    """Write the report/ of a detector's run and return its page, report.html, which needs no other
    file; beside it lie losses.png and .svg."""
    recipe, lines = read_json(run / "recipe.json"), log_of(run)
    result, environment = optional(run / "result.json"), optional(run / "environment.json")
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    sections = [headline(recipe, lines, result, environment)]
    if lines:
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        draw_losses(figure.subplots(), lines)
        _, svg = save(figure, folder / "losses")
        sections.append(section("Losses", inline(svg, "Losses against steps", CAPTION)))
    if "ap" in result:
        sections.append(section("Classes", class_table(result["ap"])))
    sections.append(section("Recipe", facts(recipe)))
    about = {k: v for k, v in result.items() if k not in ("recipe", "curve", "setting", "ap")}
    for name, mapping in (("Result", about), ("Environment", environment)):
        if mapping:
            sections.append(section(name, facts(mapping)))
    page = folder / "report.html"
    title = f"{recipe['network']}: report of {run.resolve().name}"
    write_whole(page, document(title, sections).encode(errors="backslashreplace"))
    return page


def headline(
    recipe: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> str:
    """The number, and what it is the number of."""
    data = result.get("data", environment.get("data", {}))
    name = f"Faster R-CNN on {recipe['network']}, {data.get('name', 'unknown data')}"
    if "ap" in result:
        ap = result["ap"]
        mean = ap["AP50-area"]["mean"]
        number = "no objects" if mean is None else f"{mean:.2f} %"
        meaning = (
            f"is the average precision at an overlap of 0.5, by area, over "
            f"{len(ap['AP50-area']['classes']):,} classes: {ap['pictures']:,} pictures with "
            f"{ap['objects']:,} objects, after the last step, {recipe['steps']:,}."
        )
        notice = ""
    else:
        number, meaning = "no number yet", "The pictures of the headline have not been judged."
        reached = lines[-1]["step"] if lines else 0
        notice = (
            f'<p class="notice">Training has not finished: {reached:,} of {recipe["steps"]:,} '
            f"steps are logged.</p>"
        )
    return (
        f"<header><h1>{escape(name)}</h1>"
        f'<div class="headline"><strong>{number}</strong><p>{escape(meaning)}</p></div>'
        f"{notice}</header>"
    )


def draw_losses(axes: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    """Each of the four, averaged over some lines of the log."""
    width = -(-len(lines) // POINTS)
    bins = [lines[i : i + width] for i in range(0, len(lines), width)]
    for (key, name), colour in zip(PARTS.items(), OTHERS, strict=False):
        steps = [each[-1]["step"] for each in bins]
        heights = [sum(line[key] for line in each) / len(each) for each in bins]
        axes.plot(steps, heights, color=colour, linewidth=1.3, label=name)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    bare(axes)


def class_table(ap: Mapping[str, Any]) -> str:
    """Average precision of each class by each measure, in percent."""
    head = "".join(f"<th>{escape(name)} %</th>" for name in HEADS.values())
    names = [*ap["AP50-area"]["classes"]]
    body = []
    for name in ("mean", *names):
        numbers = [ap[key]["mean"] if name == "mean" else ap[key]["classes"][name] for key in HEADS]
        cells = "".join(f"<td>{'–' if n is None else f'{n:.2f}'}</td>" for n in numbers)
        shown = "mean of the classes" if name == "mean" else name
        body.append(f"<tr><th>{escape(shown)}</th>{cells}</tr>")
    return (
        f'<div class="wide"><table class="classes numbers">'
        f"<thead><tr><th>class</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
