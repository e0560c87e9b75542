"""The README's results: one picture, its table, and what they show."""

import re
from collections import Counter
from collections.abc import Callable
from operator import itemgetter

from docs.build.selection import PAPER_STEPS, depths, steps_of, without_gaps
from residual.reproduction import paper
from residual.reproduction.catalog import Page
from residual.reproduction.experiments import ERROR
from residual.reproduction.figures import degradation, last_training_error, mean_and_range
from residual.reproduction.results import Result, markdown, network_of, of_network

MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)
ERRORS: dict[str, Callable[[Result], float]] = {
    "training error %": last_training_error,
    "test error %": itemgetter(ERROR),
}

SENTENCES = {  # whether plain and residual networks degrade with depth
    (True, False): "Plain networks get worse with depth; residual networks do not.",
    (True, True): "Plain and residual networks get worse with depth.",
    (False, False): "Neither plain nor residual networks get worse with depth.",
    (False, True): "Plain networks do not get worse with depth; residual networks do.",
}

BAND = (
    "test errors: mean ± deviation over seeds, and whether the paper's value lies inside the 95 % "
    "prediction interval of one more training"
)


def readme_excerpt(page: Page | None, table6: Page | None = None) -> str:
    """What a page of Figure 6 or of the demo shows: a sentence, the table and the picture. Then the
    rows of Table 6 that were trained at the paper's budget."""
    if page is None:
        return "\nNothing is trained yet.\n\n"
    plain, residual = (degrades(page, prefix) for prefix in ("plain", "resnet"))
    picture = f"![Errors during training](results/figures/{page.figures[0].name})"
    parts = [f"**{SENTENCES[plain, residual]}** {context(page)}", picture, errors_by_depth(page)]
    if table6:
        parts += [errors_of_table6(table6), without_gaps(table6)]
    return "\n" + "\n\n".join(parts) + "\n\n"


def errors_of_table6(page: Page) -> str:
    """What the errors of the table below are of, in a sentence."""
    seeds = Counter(map(network_of, page.results))
    text = BAND if max(seeds.values()) > 1 else "test errors, one training of each network"
    if "norm_group" in page.title:
        text += "; norm_group: the images that share batch-norm statistics"
    return f"**Table 6 at the paper's budget.** {page.title}; {text}."


def degrades(page: Page, prefix: str) -> bool:
    """Whether the training error grows with depth, which is the degradation of Figure 1."""
    shallow, *_, deep = depths(page)
    pair = [
        [last_training_error(r) for r in of_network(page.results, f"{prefix}{depth}")]
        for depth in (shallow, deep)
    ]
    return degradation(*pair) == "seen"


def compared(page: Page) -> list[str]:
    """The networks of the table: plain and residual ones of the same depths."""
    return [f"{prefix}{depth}" for prefix in ("plain", "resnet") for depth in depths(page)]


def context(page: Page) -> str:
    """The data, the steps, what differs from the paper's recipe and the number of trainings."""
    name, budget = page.results[0]["data"]["name"], page.title.split(", ", 1)[1]
    seeds = {len(of_network(page.results, network)) for network in compared(page)}
    data = {"digits": "handwritten digits"}.get(name, name)
    text = f"Trained by `residual reproduce` on {data}, {budget}, "
    text += " to ".join(map(str, sorted({min(seeds), max(seeds)})))
    text += " seed" if max(seeds) == 1 else " seeds"
    if data.startswith("CIFAR-10") and steps_of("figure6", page) != PAPER_STEPS:
        return f"{text}. The paper trained for {PAPER_STEPS:,} steps."
    return f"{text}."


def errors_by_depth(page: Page) -> str:
    """Mean and range of the final errors, beside those of the paper on its data."""
    on_paper_data = page.title.startswith("CIFAR-10")
    rows = []
    for network in compared(page):
        stored = of_network(page.results, network)
        row = [network, *(spread([f(r) for r in stored]) for f in ERRORS.values())]
        printed = [f"~{error:g}" for error in reversed(paper.FIGURE_6.get(network, ()))]
        above = paper.FIGURE_6_NOT_DRAWN.get(network)
        printed = printed or ["", f"above {above:g}" if above else ""]
        rows.append(row + printed if on_paper_data else row)
    header = ["network", *ERRORS] + [f"paper, {name}" for name in ERRORS if on_paper_data]
    return markdown(header, rows)


def spread(errors: list[float]) -> str:
    return mean_and_range(errors) if len(errors) > 1 else f"{errors[0]:.2f}"


def between_marks(text: str, excerpt: str) -> str:
    """The README with a new excerpt between its two marks."""
    return MARKS.sub(lambda marks: f"{marks[1]}{excerpt}{marks[2]}", text)
