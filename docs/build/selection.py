"""Which results a page shows: the largest budget on the best data that has the networks to compare.
The rest is in an appendix."""

from collections.abc import Callable, Mapping, Sequence
from itertools import compress

from residual.models.registry import model_spec
from residual.reproduction import paper
from residual.reproduction.catalog import CATALOG, Page
from residual.reproduction.experiments import ERROR
from residual.reproduction.figures import DEMO_DEPTHS
from residual.reproduction.results import NOT_RUN, Result, markdown, network_of
from residual.reproduction.tables import MODELS, TABLE_6_BASELINES
from residual.tasks.classification.recipe import CIFAR

JPEG_COPY = "CIFAR-10 (JPEG copy)"  # never on the page of a table or figure
PAPER_DATA = ("imagenet", "cifar-10", "voc 2007", "voc 2012", "coco")  # how its titles begin
PAPER_STEPS = CIFAR.steps  # Sec. 4.2
# Less than a quarter of the budget shows only how training begins: after a tenth of it our deep
# residual network is still behind the shallow one (docs/figure6.md).
BEGINNING = PAPER_STEPS // 4  # steps
CHANCE = 1.0  # percentage points: an error so close to that of guessing is one of guessing
LABELS = MODELS | TABLE_6_BASELINES  # first cell of a row: network


def steps_of(name: str, page: Page) -> int:
    return CATALOG[name].steps(page.results[0])


def best(name: str, drawn: Sequence[Page]) -> Page | None:
    """The page of the paper's data, else of other data; of these one that compares the networks of
    the claim, then the one with the most steps, then the one with the fewest changed fields."""

    def key(page: Page) -> tuple[bool, bool, int, int]:
        on_paper_data = page.title.lower().startswith(PAPER_DATA)
        fields = page.title.count(", ")
        return on_paper_data, compares(name, page), steps_of(name, page), -fields

    return max((p for p in drawn if not p.title.startswith(JPEG_COPY)), key=key, default=None)


def rest(name: str, drawn: Sequence[Page]) -> list[Page]:
    """All pages but the best, those with the most steps first."""
    others = [page for page in drawn if page is not best(name, drawn)]
    return sorted(others, key=lambda page: -steps_of(name, page))


def is_chance(result: Result) -> bool:
    """Whether a classifier has learned nothing yet."""
    classes = result.get("pictures", {}).get("classes", 10)
    return ERROR in result and bool(result[ERROR] >= 100 * (1 - 1 / classes) - CHANCE)


def network_of_row(label: str) -> str:
    """The network that a row is about: `resnet20` for `ResNet-20` and for itself."""
    return LABELS.get(label, label.lower().replace("resnet-", "resnet"))


def edited(table: str, edit: Callable[[list[str]], list[str] | None]) -> str:
    """A Markdown table, and the text below it, with each row edited; a row of None is dropped, and
    so is a column without a value."""
    lines = table.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    header, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[:end]]
    kept = [row for row in map(edit, rows) if row is not None]
    used = [any(row[i] for row in kept) or not kept for i in range(len(header))]
    header, *kept = [list(compress(row, used)) for row in (header, *kept)]
    return "\n".join([markdown(header, kept), *lines[end:]])


def without_gaps(page: Page) -> str:
    """The table of a page with the networks that were trained and are past chance."""
    learned = {network_of(r) for r in page.results if not is_chance(r)}
    networks = {network_of(r) for r in page.results}

    def edit(row: list[str]) -> list[str] | None:
        at_chance = network_of_row(row[0]) in networks - learned
        return None if at_chance or NOT_RUN in row else row

    return edited(page.table, edit)


def without_ours(table: str) -> str:
    """The table of what was not run: the paper's numbers alone."""

    def edit(row: list[str]) -> list[str] | None:
        cells = ["" if cell == NOT_RUN else cell for cell in row]
        return cells if any(cells[1:]) else None

    return edited(table, edit)


def with_costs(table: str, costs: Mapping[str, str]) -> str:
    """A table in which the row of a network that was not run says what it costs."""

    def edit(row: list[str]) -> list[str]:
        network = network_of_row(row[0])
        cost = f"{NOT_RUN}; {costs[network]}" if network in costs else NOT_RUN
        return [cost if cell == NOT_RUN else cell for cell in row]

    return edited(table, edit)


def depths(page: Page) -> list[int]:
    """The depths of which a page has the plain and the residual network."""
    kinds: dict[bool, set[int]] = {True: set(), False: set()}
    for spec in map(model_spec, map(network_of, page.results)):
        kinds[spec.option == "plain"].add(spec.depth)
    return sorted(kinds[True] & kinds[False])


def compares(name: str, page: Page) -> bool:
    """Whether a page of Figure 1 has its two networks, and one of Figure 6 or 7 both kinds of the
    same depths; true of others."""
    match name:
        case "figure1":
            return {*paper.FIGURE_1} <= {*map(network_of, page.results)}
        case "figure6" | "figure7":
            return {model_spec(network).depth for network in paper.FIGURE_1} <= {*depths(page)}
    return True


def demonstration(figure6: Sequence[Page], demo: Sequence[Page]) -> Page | None:
    """The page of Figure 6 that the README shows: on CIFAR-10 rather than on its JPEG copy, with
    the most steps, then the fewest changed fields (bf16 counts as one), if it compares the depths
    of Figure 1 and is more than the beginning of a training. Else the demo."""
    data = {"CIFAR-10": 1, JPEG_COPY: 0}
    candidates = {
        (data[name], steps, -page.title.count(", ")): page
        for page in figure6
        for name, steps in [(page.title.split(", ")[0], steps_of("figure6", page))]
        if name in data and steps >= BEGINNING and compares("figure6", page)
    }
    demos = [page for page in demo if {*DEMO_DEPTHS} <= {*depths(page)}]
    return candidates[max(candidates)] if candidates else best("demo", demos)


def finished_rows(table6: Sequence[Page]) -> Page | None:
    """The page of Table 6 on CIFAR-10 at the paper's budget with the fewest changed fields."""
    title = f"CIFAR-10, {PAPER_STEPS:,} steps"
    finished = [page for page in table6 if f"{page.title},".startswith(f"{title},")]
    return min(finished, key=lambda page: page.title.count(", "), default=None)
