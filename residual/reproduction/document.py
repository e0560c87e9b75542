"""`make results`: docs/ and the README's table, drawn from result files and comments by code."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from residual.files import write_whole
from residual.reproduction import beside
from residual.reproduction.experiments import RESULTS, Result, budgets, kept, slug

SECTIONS = {
    "table6": "Table 6: test errors on CIFAR-10",
    "figure1": "Figure 1: the degradation of plain networks",
    "figure6": "Figure 6: plain and residual networks",
    "figure7": "Figure 7: layer responses",
}
EARLY = (
    " how training begins, not how it ends. The paper's numbers are on CIFAR-10 after 64,000 steps,"
    " and a deep network has hardly begun to learn in so few."
)
MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)


def liberties(package: Path) -> str:
    """docs/liberties.md: every `Choice:` and `Deviation:` comment, where it stands."""
    lines = [
        "# Liberties",
        "",
        "Where the paper is silent we choose; where we differ from it we deviate. Each such place "
        "is a comment in the code, and `make results` draws this list from those comments.",
    ]
    for file in sorted(package.rglob("*.py")):
        found = list(comments(file.read_text()))
        if found:
            lines += ["", f"## {file.relative_to(package.parent).as_posix()}", ""]
            lines += [f"- {text}" for text in found]
    return "\n".join(lines) + "\n"


def comments(source: str) -> Iterator[str]:
    """Each comment that begins with Choice: or Deviation:, its lines joined."""
    gathered: list[str] = []
    for line in [*source.splitlines(), ""]:
        text = line.strip()
        opens = re.match(r"# ((?:Choice|Deviation): .*)", text)
        if gathered and (opens or not text.startswith("#")):
            yield " ".join(gathered)
            gathered = []
        if opens:
            gathered = [f"**{opens[1].split(':')[0]}:**{opens[1].split(':', 1)[1]}"]
        elif gathered:
            gathered.append(text.removeprefix("#").strip())


@dataclass(frozen=True)
class Page:
    """A table or figure for one data set and budget."""

    title: str  # the data, the steps, and what else differs from the paper's recipe
    table: str
    figures: list[Path]  # PNG first; none where nothing is drawn


def pages(
    what: str, folder: Path, figures: Path, chosen: Callable[[Result], bool] | None = None
) -> Iterator[Page]:
    """A table or figure of the paper, drawn anew from the results in a folder."""
    module = import_module(f"residual.reproduction.{what}")
    found = [r for r in module.shown(kept(folder, module.KEY)) if chosen is None or chosen(r)]
    for title, some in budgets(found).items():
        drawn: list[Path] = []
        if hasattr(module, "figure"):
            figures.mkdir(parents=True, exist_ok=True)
            drawn = module.figure(some, figures / f"{what}-{slug(title)}")
        yield Page(title, module.table(some), drawn)


def results_page(folder: Path, figures: Path) -> str:
    """docs/results.md: for each data set and budget the tables and figures that there are."""
    lines = [
        "# Results",
        "",
        "Drawn from `results/` by `make results`; no number here was typed. A result on the JPEG "
        "copy of CIFAR-10 is none on CIFAR-10: the compression costs accuracy. The paper's own "
        "numbers are on CIFAR-10 after 64,000 steps, and only results after as many are their "
        "equals.",
        "",
        "## Table 1: the ImageNet networks",
        "",
        import_module("residual.reproduction.table1").table([]),
    ]
    for what, title in SECTIONS.items():
        lines += ["", f"## {title}"]
        for page in pages(what, folder, figures):
            lines += ["", f"### {page.title}", "", page.table]
            if page.figures:
                lines += [
                    "",
                    f"![{title}, {page.title}](../results/figures/{page.figures[0].name})",
                ]
    lines += ["", "## Beside the usual loop", "", beside.errors(folder), "", beside.speed(folder)]
    return "\n".join(lines) + "\n"


def excerpt(folder: Path, figures: Path) -> str:
    """The README's table and figure: Fig. 6 on CIFAR-10, with the most steps that there are."""
    found = [
        page for page in pages("figure6", folder, figures) if page.title.startswith("CIFAR-10")
    ]
    if not found:
        return "\nNothing has been trained yet.\n\n"
    page = max(found, key=lambda page: int(page.title.split(", ")[1].split()[0].replace(",", "")))
    figure = f"results/figures/{page.figures[0].name}"
    early = "" if "64,000 steps" in page.title else EARLY
    return f"\n{page.title}:{early}\n\n{page.table}\n\n![Figure 6, {page.title}]({figure})\n\n"


def readme(text: str, page: str) -> str:
    """The README with its table and figure drawn anew, between their two marks."""
    return MARKS.sub(lambda marks: f"{marks[1]}{page}{marks[2]}", text)


def documents(root: Path, figures: Path) -> dict[Path, str]:
    """What is drawn in a checkout: each file with its content. Figures are drawn beside it."""
    path, folder = root / "README.md", root / RESULTS
    return {
        root / "docs" / "liberties.md": liberties(root / "residual"),
        root / "docs" / "results.md": results_page(folder, figures),
        path: readme(path.read_text(), excerpt(folder, figures)),
    }


if __name__ == "__main__":
    for file, content in documents(Path.cwd(), RESULTS / "figures").items():
        write_whole(file, content.encode())
