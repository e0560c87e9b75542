"""The pages of docs/ and the README's table, from result files and claims."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from docs.build import benchmarks
from docs.build.choices import choices_of, choices_page
from docs.build.claims import CLAIMS, Claim
from residual.models.registry import model_spec
from residual.reproduction.catalog import BOXES, CATALOG, NOT_COVERED, Page, pages
from residual.reproduction.experiments import ENSEMBLE, MULTISCALE, Experiment, Request, measure_of
from residual.reproduction.results import RESULTS, markdown, network_of, read_results
from residual.reproduction.tables import IMAGENET_SIZE, network_cost
from residual.tasks.classification.protocols import PROTOCOLS
from residual.tasks.classification.recipe import ClassificationRecipe
from residual.tasks.detection.recipe import Testing

Pages = Mapping[str, Sequence[Page]]  # by table or figure
Speeds = dict[str, tuple[float, str]]  # network: images per second, and the hardware
CHOICES = "choices-and-deviations.md"
BACKWARD = 2  # cost of a backward pass in forward passes
RESULTS_ORDER = (
    *("table2", "table3", "table4", "table5", "figure4"),
    *("table6", "figure1", "figure6", "figure7"),
    *("table7", "table8", "table9", "table10", "table11"),
)
EARLY = (
    " only the beginning of training. The paper's numbers are on CIFAR-10 after 64,000 steps; in so"
    " few steps a deep network hardly begins to learn."
)
MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)


def documents(root: Path, figures: Path) -> dict[Path, str]:
    """The content of each generated file. Figures are written to a folder."""
    docs, results, package, readme = root / "docs", root / RESULTS, root / "residual", "README.md"
    drawn = {name: list(pages(name, results, figures)) for name in RESULTS_ORDER}
    speeds = training_speeds(results)
    excerpt = readme_excerpt(drawn["figure6"]) + benchmarks.endurance_sentence(results)
    return {
        **{docs / f"{n}.md": entry_page(n, drawn.get(n, []), speeds, package) for n in CLAIMS},
        docs / readme: index(drawn, docs),
        docs / CHOICES: choices_page(package),
        docs / "results.md": results_page(drawn, results),
        root / readme: between_marks((root / readme).read_text(), excerpt),
    }


def entry_page(name: str, drawn: Sequence[Page], speeds: Speeds, package: Path) -> str:
    """The page of a table or figure."""
    claim = CLAIMS[name]
    parts = [f"# {claim.title}", "## The claim", claim.text]
    parts += ["## The command", "```sh\n" + "\n".join(claim.commands) + "\n```"]
    parts += ["## The cost", *costs(name, claim, speeds)]
    parts += ["## Our result", *our_result(name, claim, drawn)]
    parts += ["## Choices and deviations", choices_of(package, claim.sources)]
    parts += [f"All of the package: [{CHOICES}]({CHOICES})."]
    return "\n\n".join(parts) + "\n"


def costs(name: str, claim: Claim, speeds: Speeds) -> list[str]:
    """The computed cost of the paper's budget; hours only from measured speeds."""
    experiments = [] if claim.networks else CATALOG[name].experiments(Request())
    if not experiments:
        return ["Nothing is trained; it takes seconds on one processor."]
    if CATALOG[name].data == BOXES:
        return detection_cost(experiments)
    rows = [training_cost(r, speeds) for e in experiments for r in e.recipes]
    header = ["network", "one image", "images", "training, estimate", "hours, estimate"]
    text = (
        "Multiply-adds of the paper's budget. Those of one image are computed; a backward pass is "
        f"counted as {BACKWARD} forward passes. Hours are estimated from a measured speed."
    )
    return [text, markdown(header, rows), *evaluation_cost(experiments)]


def training_cost(recipe: ClassificationRecipe, speeds: Speeds) -> list[str]:
    network = recipe.network
    _, products = network_cost(network, model_spec(network).input_size)
    images, hours = recipe.steps * recipe.batch, "no speed measured"
    if network in speeds:
        speed, machine = speeds[network]
        hours = f"{images / speed / 3600:,.1f} at {speed:,.0f} images/s ({machine})"
    name = f"{network}, seed {recipe.seed}" if recipe.seed else network
    total = (1 + BACKWARD) * products * images
    return [name, power(products), f"{images:,}", power(total), hours]


def detection_cost(experiments: Sequence[Experiment]) -> list[str]:
    """The number of training pictures. Another way of testing needs no training."""
    rows = {}
    for e in experiments:
        recipe = e.recipe
        trained = replace(e, testing=Testing())
        pictures = recipe.steps * recipe.batch * len(e.recipes)
        counts = [f"{recipe.steps:,}", f"{pictures:,}"]
        rows[trained] = [trained.system, recipe.train_split, *counts]
    text = "Training pictures of each recipe. No speed was measured, so no hours are estimated."
    return [text, markdown(["detector", "trained on", "steps", "pictures"], list(rows.values()))]


def power(number: float) -> str:
    """For example `1.8e9`."""
    return f"{number:.1e}".replace("e+0", "e").replace("e+", "e")


def evaluation_cost(experiments: Sequence[Experiment]) -> list[str]:
    """A sentence on the cost of the protocol on ImageNet's validation set."""
    measures = {e.measure for e in experiments}
    name = MULTISCALE if measures & {MULTISCALE, ENSEMBLE} else measures.pop()
    if name not in PROTOCOLS:
        return []
    total = 0
    for network in (network for e in experiments for network in e.networks):
        protocol = PROTOCOLS[measure_of(name, network)]
        sizes = (
            protocol.sides if protocol.fully_convolutional else (model_spec(network).input_size,)
        )
        views = protocol.views // len(sizes)  # of each size
        total += views * sum(network_cost(network, size)[1] for size in sizes)
    square = " for square photographs" if PROTOCOLS[name].fully_convolutional else ""
    others = (
        " (baselines by their own protocols)"
        if name == MULTISCALE and ENSEMBLE not in measures
        else ""
    )
    pictures = IMAGENET_SIZE["val"]
    return [
        f"Evaluation on {pictures:,} photographs with {PROTOCOLS[name].views} views "
        f"each{others} takes {power(total * pictures)} multiply-adds, computed{square}."
    ]


def our_result(name: str, claim: Claim, drawn: Sequence[Page]) -> list[str]:
    """Tables and figures, or the statement that nothing was run."""
    if claim.networks:
        rows = []
        for network in claim.networks:
            parameters, products = network_cost(network, model_spec(network).input_size)
            rows.append([network, f"{parameters:,}", f"{products:,}"])
        return [markdown(["network", "parameters", "multiply-adds"], rows)]
    if not drawn:
        empty = CATALOG[name].table([])
        return [empty] if name == "table1" else ["Not run by us, so we claim nothing.", empty]
    return [part for page in drawn for part in page_parts(claim, page)]


def page_parts(claim: Claim, page: Page) -> list[str]:
    parts = [f"### {page.title}", page.table]
    if page.figures:
        picture = f"../results/figures/{page.figures[0].name}"
        parts.append(f"![{claim.title}, {page.title}]({picture})")
    return parts


def training_speeds(folder: Path) -> Speeds:
    """The highest training speed of each network in the results."""
    measured = [
        (network_of(result), result["images_per_second"], result["hardware"])
        for result in read_results(folder)
    ]
    for result in read_results(folder / "benchmarks", "networks"):
        for network, sides in result["networks"].items():
            speed = sides.get("ours", {}).get("images_per_second")
            measured.append((network, speed, result["hardware"]))
    speeds: Speeds = {}
    for network, speed, machine in measured:
        if speed and speed > speeds.get(network, (0.0, ""))[0]:
            speeds[network] = speed, machine
    return speeds


def index(drawn: Pages, docs: Path) -> str:
    """docs/README.md: every page, and what there is of each table and figure."""
    lines = [
        "# Tables and figures of the paper",
        "",
        "Each page has the paper's claim, the command, the cost, our result if we have one, and "
        "our choices and deviations. `make results` generates the pages; no number is typed by "
        "hand.",
        "",
    ]
    for name, claim in CLAIMS.items():
        state = "; ".join(page.title for page in drawn.get(name, ())) or "not run by us"
        if claim.networks or name == "table1":
            state = "computed"
        lines.append(f"- [{claim.title}]({name}.md): {state}")
    lines += ["", f"Not covered: {NOT_COVERED}.", "", "Other pages:", ""]
    others = {*docs.glob("*.md"), docs / CHOICES, docs / "results.md"}
    names = [path.stem for path in sorted(others)]
    lines += [f"- [{n}]({n}.md)" for n in names if n not in (*CLAIMS, "README")]
    return "\n".join(lines) + "\n"


def results_page(drawn: Pages, folder: Path) -> str:
    """docs/results.md: the tables and figures of each data set and budget."""
    parts = [
        "# Results",
        "`make results` generates this page from `results/`; no number is typed by hand. Results "
        "on the JPEG copy of CIFAR-10 are not results on CIFAR-10, because the compression costs "
        "accuracy. The paper's numbers are on CIFAR-10 after 64,000 steps; only results after as "
        "many steps are comparable.",
        f"## {CLAIMS['table1'].title}",
        CATALOG["table1"].table([]),
    ]
    for name, some in drawn.items():
        parts.append(f"## {CLAIMS[name].title}")
        if not some:
            parts.append(f"Not run by us; [{name}.md]({name}.md) has the command and its cost.")
        parts += [part for page in some for part in page_parts(CLAIMS[name], page)]
    for title, text in benchmarks.sections(folder):
        parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def readme_excerpt(drawn: Sequence[Page]) -> str:
    """The README's table and figure: Fig. 6 on CIFAR-10 with the most steps."""
    cifar = [page for page in drawn if page.title.startswith("CIFAR-10")]
    if not cifar:
        return "\nNothing is trained yet.\n\n"
    page = max(cifar, key=lambda p: int(p.title.split(", ")[1].split()[0].replace(",", "")))
    figure = f"results/figures/{page.figures[0].name}"
    early = "" if "64,000 steps" in page.title else EARLY
    return f"\n{page.title}:{early}\n\n{page.table}\n\n![Figure 6, {page.title}]({figure})\n\n"


def between_marks(text: str, excerpt: str) -> str:
    """The README with a new excerpt between its two marks."""
    return MARKS.sub(lambda marks: f"{marks[1]}{excerpt}{marks[2]}", text)
