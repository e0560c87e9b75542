"""`make results`: docs/ and the README's table, drawn from result files and comments by code."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from residual.reproduction import beside, detections
from residual.reproduction.chapters import Page, chapter, chapter_of, index, measured
from residual.reproduction.claims import CLAIMS
from residual.reproduction.experiments import RESULTS, Result, budgets, kept, slug
from residual.reproduction.liberties import liberties
from residual.storage import write_atomic

DRAWN = (  # what is drawn from results
    *("table2", "table3", "table4", "table5", "figure4"),
    *("table6", "figure1", "figure6", "figure7"),
    *("table7", "table8", "table9", "table10", "table11"),
)
EARLY = (
    " how training begins, not how it ends. The paper's numbers are on CIFAR-10 after 64,000 steps,"
    " and a deep network has hardly begun to learn in so few."
)
MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)


def pages(
    what: str, folder: Path, figures: Path, chosen: Callable[[Result], bool] | None = None
) -> Iterator[Page]:
    """A table or figure of the paper, drawn anew from the results in a folder."""
    module = chapter_of(what)
    keys = dict.fromkeys(getattr(module, "KEYS", (module.KEY,)))
    there = [result for key in keys for result in kept(folder, key)]
    found = [r for r in module.shown(there) if chosen is None or chosen(r)]
    # A picture of the paper's own numbers stands by itself, too.
    alone: dict[str, list[Result]] = {module.ALONE: []} if hasattr(module, "ALONE") else {}
    titled = detections.budgets if module.KEY == detections.AP else budgets
    for title, some in (titled(found) or alone).items():
        drawn: list[Path] = []
        if hasattr(module, "figure"):
            figures.mkdir(parents=True, exist_ok=True)
            drawn = module.figure(some, figures / f"{what}-{slug(title)}")
        yield Page(title, module.table(some), drawn)


def results_page(found: dict[str, list[Page]], folder: Path) -> str:
    """docs/results.md: for each data set and budget the tables and figures that there are."""
    lines = [
        "# Results",
        "",
        "Drawn from `results/` by `make results`; no number here was typed. A result on the JPEG "
        "copy of CIFAR-10 is none on CIFAR-10: the compression costs accuracy. The paper's own "
        "numbers are on CIFAR-10 after 64,000 steps, and only results after as many are their "
        "equals.",
        "",
        f"## {CLAIMS['table1'].title}",
        "",
        chapter_of("table1").table([]),
    ]
    for what, some in found.items():
        title = CLAIMS[what].title
        lines += ["", f"## {title}"]
        if not some:
            lines += ["", f"Not run by us; [{what}.md]({what}.md) has the command and its cost."]
        for page in some:
            lines += ["", f"### {page.title}", "", page.table]
            if page.figures:
                lines += [
                    "",
                    f"![{title}, {page.title}](../results/figures/{page.figures[0].name})",
                ]
    lines += ["", "## Beside the usual loop", "", beside.errors(folder), "", beside.speed(folder)]
    lines += ["", "## Training beside other work", "", beside.shared(folder)]
    lines += ["", "## Interrupted jobs", "", beside.endurance(folder)]
    lines += ["", "## Compared networks fit a few pictures", "", beside.fitting(folder)]
    lines += ["", "## Photographs, beside other libraries", "", beside.photographs(folder)]
    lines += ["", "## Detectors, beside torchvision's", "", beside.detectors(folder)]
    return "\n".join(lines) + "\n"


def excerpt(drawn: Sequence[Page]) -> str:
    """The README's table and figure: Fig. 6 on CIFAR-10, with the most steps that there are."""
    found = [page for page in drawn if page.title.startswith("CIFAR-10")]
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
    path, folder, docs = root / "README.md", root / RESULTS, root / "docs"
    package = root / "residual"
    found = {what: list(pages(what, folder, figures)) for what in DRAWN}
    speeds = measured(folder)
    return {
        **{
            docs / f"{what}.md": chapter(what, found.get(what, []), speeds, package)
            for what in CLAIMS
        },
        docs / "README.md": index(found, docs),
        docs / "liberties.md": liberties(package),
        docs / "results.md": results_page(found, folder),
        path: readme(
            path.read_text(), excerpt(found["figure6"]) + beside.endurance_in_words(folder)
        ),
    }


if __name__ == "__main__":
    for file, content in documents(Path.cwd(), RESULTS / "figures").items():
        write_atomic(file, content.encode())
