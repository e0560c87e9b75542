"""The pages of docs/ and the README's results, from result files and claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.build import benchmarks
from docs.build.choices import choices_of, choices_page
from docs.build.claims import CLAIMS
from docs.build.costs import DIGITS, Speeds, budget_costs, entry_costs, training_speeds
from docs.build.readme import between_marks, readme_excerpt
from docs.build.recipes import recipes_page
from docs.build.selection import (
    PAPER_STEPS,
    best,
    demonstration,
    finished_rows,
    network_of_row,
    rest,
    steps_of,
    with_costs,
    without_gaps,
    without_ours,
)
from residual.models.registry import NETWORKS
from residual.reproduction.catalog import BOXES, CATALOG, NOT_COVERED, Page, pages
from residual.reproduction.experiments import slug
from residual.reproduction.results import RESULTS, markdown, read_results
from residual.reproduction.tables import network_cost

Pages = Mapping[str, Sequence[Page]]  # by table or figure
RESULTS_ORDER = (
    *("table2", "table3", "table4", "table5", "figure4"),
    *("table6", "figure1", "figure6", "figure7"),
    *("table7", "table8", "table9", "table10", "table11"),
)
ONLY_COCO = ("table8", "table9")  # results on other data are shown once, by Tables 7 and 10
CHOICES = "choices-and-deviations.md"

GUIDES = {  # page: title and content
    "start.md": ("Start here", "install, the first training, names of networks"),
    "python.md": ("Python", "training, arrays in memory, modules of your own, detectors"),
    "your-data.md": ("Train on your own pictures", "folders, fine-tuning, checks, packed copies"),
    "reproduce.md": ("Reproduce the paper", "digits, CIFAR-10, ImageNet, baselines"),
    "detection.md": ("Detection", "Faster R-CNN on your own boxes, VOC or COCO"),
    "looking-inside.md": ("Look inside a network", "class activation maps, mistakes, comparisons"),
    "export.md": ("Export", "ONNX, safetensors, torchvision"),
    "serving.md": ("Serve", "a page for browsers, HTTP for programs"),
    "recipes.md": ("Recipes", "each with its fields, source, expected error and cost"),
    "several-machines.md": ("Several machines", "torchrun, SLURM"),
    "architecture.md": ("Architecture", "packages, code paths, a new network or task"),
    "results.md": ("Results", "all numbers of ours, and measured speeds"),
}
OTHERS = "shorter, of fewer networks, by another recipe"
LONG_TITLE = 60  # characters that fit into a heading
DEMO_TITLE = "The demo: plain and residual networks on handwritten digits"


def documents(root: Path, figures: Path) -> dict[Path, str]:
    """The content of each generated file. Figures are written to a folder."""
    docs, results, package, readme = root / "docs", root / RESULTS, root / "residual", "README.md"
    data = [result["data"] for result in read_results(results, "data")]
    shown = {one["fingerprint"] for one in data if one["name"] != DIGITS}
    drawn = {name: list(pages(name, results, figures, None, shown)) for name in RESULTS_ORDER}
    for name in ONLY_COCO:
        drawn[name] = [page for page in drawn[name] if page.title.startswith("COCO")]
    demo = list(pages("demo", results, figures))
    speeds = training_speeds(results)
    front = demonstration(drawn["figure6"], demo), finished_rows(drawn["table6"])
    return {
        **{docs / f"{n}.md": entry_page(n, drawn.get(n, []), speeds, package) for n in CLAIMS},
        docs / readme: index(drawn),
        docs / CHOICES: choices_page(package),
        docs / "recipes.md": recipes_page(read_results(results, "recipe"), speeds, package),
        docs / "results.md": results_page(drawn, demo, speeds, results),
        docs / "beginning.md": beginning_page(drawn),
        root / readme: between_marks((root / readme).read_text(), readme_excerpt(*front)),
    }


def entry_page(name: str, drawn: Sequence[Page], speeds: Speeds, package: Path) -> str:
    """The page of a table or figure."""
    claim = CLAIMS[name]
    parts = [f"# {claim.title}", "## The claim", claim.text]
    parts += ["## The command", "```sh\n" + "\n".join(claim.commands) + "\n```"]
    parts += ["## The cost", *entry_costs(name, speeds)]
    parts += ["## Our result", *our_result(name, drawn, speeds)]
    parts += ["## Choices and deviations", choices_of(package, claim.sources)]
    parts += [f"All of the package: [{CHOICES}]({CHOICES})."]
    return "\n\n".join(parts) + "\n"


def our_result(name: str, drawn: Sequence[Page], speeds: Speeds) -> list[str]:
    """The best result, or the statement that nothing was run; and where the others are."""
    claim, page = CLAIMS[name], best(name, drawn)
    if claim.networks:
        rows = []
        for network in claim.networks:
            parameters, products = network_cost(network)
            rows.append([network, f"{parameters:,}", f"{products:,}"])
        return [markdown(["network", "parameters", "multiply-adds"], rows)]
    if name == "table1":
        return [CATALOG[name].table([])]
    if page:
        parts = best_parts(name, page, speeds)
    else:
        parts = ["Not run by us. The paper's numbers:", without_ours(CATALOG[name].table([]))]
    if rest(name, drawn):
        link = f"[How training begins](beginning.md#{slug(claim.title)})"
        parts.append(f"{link} has the others: {OTHERS}, or on other data.")
    return parts


def best_parts(name: str, page: Page, speeds: Speeds) -> list[str]:
    """A page with the cost of each network that was not run at this budget."""
    data = page.results[0]["data"]["name"]
    costs = network_costs(name, page.table, data, steps_of(name, page), speeds)
    return page_parts(CLAIMS[name].title, page, with_costs(page.table, costs))


def network_costs(
    name: str, table: str, data: str, steps: int | None, speeds: Speeds
) -> dict[str, str]:
    """The cost of each network that has a row in a table, at a budget; none of detectors."""
    if CATALOG[name].data == BOXES:
        return {}
    labels = {network_of_row(line[1:].split("|")[0].strip()) for line in table.split("\n")}
    networks = sorted(labels & set(NETWORKS))
    return budget_costs(networks, data, steps, speeds)


def short_title(title: str) -> tuple[str, str]:
    """A heading of the data and the steps, and the rest of a long title as a sentence."""
    if len(title) <= LONG_TITLE:
        return title, ""
    data, *others = title.split(", ")
    data, _, fingerprint = data.rstrip(")").partition(" (fingerprint ")
    budget = [part for part in others if part.endswith(" steps")]
    details = ", ".join(part for part in others if part not in budget)
    return ", ".join([data, *budget]), f"Fingerprint {fingerprint}, {details}"


def page_parts(title: str, page: Page, table: str) -> list[str]:
    heading, details = short_title(page.title)
    parts = [f"### {heading}", *[f"{details}."] * bool(details), table]
    if page.figures:
        picture = f"../results/figures/{page.figures[0].name}"
        parts.append(f"![{title}, {page.title}]({picture})")
    return parts


def index(drawn: Pages) -> str:
    """docs/README.md: where to begin, and a line for each table and figure."""
    lines = [
        "# residual",
        "",
        "*Deep Residual Learning for Image Recognition* (He, Zhang, Ren, Sun, 2015) as a Python "
        "library and a command line.",
        "",
        *(f"- [{title}]({file}): {text}" for file, (title, text) in GUIDES.items()),
        "",
        "## Tables and figures of the paper",
        "",
        "Each page has the paper's claim, the command, the cost, our result if we have one, and "
        "our choices and deviations. `make results` generates the pages; no number is typed by "
        "hand.",
        "",
    ]
    for name, claim in CLAIMS.items():
        page = best(name, drawn.get(name, ()))
        state = short_title(page.title)[0] if page else "not run by us"
        if claim.networks or name == "table1":
            state = "computed"
        lines.append(f"- [{claim.title}]({name}.md): {state}")
    lines += ["", f"Not covered: {NOT_COVERED}. "]
    lines[-1] += "Other trainings are in [How training begins](beginning.md)."
    return "\n".join(lines) + "\n"


def results_page(drawn: Pages, demo: Sequence[Page], speeds: Speeds, folder: Path) -> str:
    """docs/results.md: the best results of each table and figure, and all benchmarks."""
    parts = [
        "# Results",
        "`make results` generates this page from `results/`; no number is typed by hand. A table "
        "shows the longest trainings of the networks that it compares, on the paper's data if "
        f"there are any. The paper's numbers on CIFAR-10 are those after {PAPER_STEPS:,} steps; "
        "only results after as many steps are comparable. "
        "[How training begins](beginning.md) has the others: "
        f"{OTHERS}, or on the JPEG copy of CIFAR-10.",
        f"## {CLAIMS['table1'].title}",
        CATALOG["table1"].table([]),
    ]
    for page in demo:
        parts += [f"## {DEMO_TITLE}", *page_parts(DEMO_TITLE, page, page.table)]
    missing = []
    for name, some in drawn.items():
        if longest := best(name, some):
            parts += [f"## {CLAIMS[name].title}", *best_parts(name, longest, speeds)]
        else:
            missing.append(f"- [{CLAIMS[name].title}]({name}.md)")
    if missing:
        text = "Each page has the command and its cost.\n\n" + "\n".join(missing)
        parts += ["## Not run by us", text]
    for title, text in benchmarks.sections(folder):
        parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def beginning_page(drawn: Pages) -> str:
    """docs/beginning.md: all results that are on no page of a table or figure."""
    parts = [
        "# How training begins",
        "Results of short trainings, of trainings with another recipe or of too few networks to "
        "compare, and of those on the JPEG copy of CIFAR-10, whose compression costs accuracy. "
        "They show that the code works and how training begins; they are not comparable to the "
        "paper's. Networks that had learned nothing yet are left out.",
    ]
    for name, some in drawn.items():
        for n, page in enumerate(rest(name, some)):
            parts += [f"## {CLAIMS[name].title}"] if n == 0 else []
            parts += page_parts(CLAIMS[name].title, page, without_gaps(page))
    return "\n\n".join(parts) + "\n"
