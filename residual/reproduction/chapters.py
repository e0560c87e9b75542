"""A page of docs/ for each table and figure: the claim, the command, the cost, ours, liberties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from residual.models.registry import model_spec
from residual.reproduction.claims import CLAIMS, Claim
from residual.reproduction.detections import Detection
from residual.reproduction.evaluations import ENSEMBLE, TOGETHER, key_of
from residual.reproduction.experiments import IMAGENET, cost_of, kept
from residual.reproduction.liberties import chosen
from residual.reproduction.spread import markdown
from residual.tasks.classification.protocols import PROTOCOLS
from residual.training.recipe import Recipe

Speeds = dict[str, tuple[float, str]]  # network: images per second, and on what
BACKWARD = 2  # a backward pass costs about as much as so many forward passes


@dataclass(frozen=True)
class Page:
    """A table or figure for one data set and budget."""

    title: str  # the data, the steps, and what else differs from the paper's recipe
    table: str
    figures: list[Path]  # PNG first; none where nothing is drawn


def chapter(what: str, found: Sequence[Page], speeds: Speeds, package: Path) -> str:
    """docs/WHAT.md."""
    claim = CLAIMS[what]
    parts = [f"# {claim.title}", "## The claim", claim.text]
    if claim.printed:
        parts += [claim.printed, "## Our result", "Not built yet: there is no command for it."]
        return "\n\n".join(parts) + "\n"
    commands = "\n".join(claim.commands)
    parts += ["## The command", f"```sh\n{commands}\n```", *costs(what, claim, speeds)]
    parts += ["## Our result", *ours(what, claim, found), "## Liberties"]
    parts += ["\n".join(f"- {text}" for text in chosen(package, claim.sources))]
    parts += ["Those of the whole package: [liberties.md](liberties.md)."]
    return "\n\n".join(parts) + "\n"


def costs(what: str, claim: Claim, speeds: Speeds) -> list[str]:
    """What the paper's budget costs: computed, and hours only from speeds that were measured."""
    wanted = [] if claim.networks else experiments(what)
    if not wanted:
        return ["## The cost", "Seconds on one processor: nothing is trained."]
    if detectors := [each for each in wanted if isinstance(each, Detection)]:
        return ["## The cost", *detection_cost(detectors)]
    recipes = [each for each in wanted if isinstance(each, Recipe)]
    key = chapter_of(what).KEY
    rows = [training_cost(recipe, speeds) for recipe in recipes]
    header = ["network", "for an image", "images", "training, estimate", "hours, estimate"]
    text = (
        "Multiply-adds of the paper's budget. Those of an image are computed; a backward pass is "
        f"taken for {BACKWARD} forward passes. Hours are estimated from a measured speed."
    )
    return ["## The cost", text, markdown(header, rows), *judging_cost(key, recipes)]


def chapter_of(what: str) -> ModuleType:
    """What trains and draws a table or a figure."""
    return import_module(f"residual.reproduction.{what.replace('-', '_')}")


def experiments(what: str) -> list[Recipe | Detection]:
    """What is trained for it, once each."""
    found: list[Recipe | Detection] = chapter_of(what).runs("", None, 1, [])
    return found


def training_cost(recipe: Recipe, speeds: Speeds) -> list[str]:
    """The cells of a row."""
    spec = model_spec(recipe.network)
    _, products = cost_of(spec.name, spec.input_size)
    images = recipe.steps * recipe.batch
    hours = "no speed measured"
    if spec.name in speeds:
        speed, machine = speeds[spec.name]
        hours = f"{images / speed / 3600:,.1f} at {speed:,.0f} images/s ({machine})"
    total = (1 + BACKWARD) * products * images
    name = f"{spec.name}, seed {recipe.seed}" if recipe.seed else spec.name
    return [name, power(products), f"{images:,}", power(total), hours]


def detection_cost(wanted: Sequence[Detection]) -> list[str]:
    """How many pictures detectors are trained on. Testing in another way trains nothing."""
    rows = {}
    for each in wanted:
        own, recipe = replace(each.system, refinement=False, multiscale=False), each.recipe
        pictures = recipe.steps * recipe.batch * each.members
        counts = [f"{recipe.steps:,}", f"{pictures:,}"]
        rows[own, recipe] = [own.words, recipe.train_split, *counts]
    text = "Pictures of each recipe's budget. No speed was measured, so no hours are estimated."
    return [text, markdown(["detector", "trained on", "steps", "pictures"], list(rows.values()))]


def power(number: float) -> str:
    """`1.8e9`."""
    return f"{number:.1e}".replace("e+0", "e").replace("e+", "e")


def judging_cost(key: str, recipes: Sequence[Recipe]) -> list[str]:
    """A sentence on what the protocol costs for ImageNet's validation set."""
    name = TOGETHER if key == ENSEMBLE else key
    if name not in PROTOCOLS:
        return []
    total = 0
    for network in (recipe.network for recipe in recipes):
        protocol = PROTOCOLS[key_of(name, network)]
        sizes = protocol.sides if protocol.whole else (model_spec(network).input_size,)
        views = protocol.views // len(sizes)  # of each size
        total += views * sum(cost_of(network, size)[1] for size in sizes)
    square = " as if all were square" if PROTOCOLS[name].whole else ""
    others = " (the compared networks with those of their own)" if name == TOGETHER == key else ""
    return [
        f"Judging them on {IMAGENET['val']:,} photographs, with {PROTOCOLS[name].views} views of "
        f"each{others}, takes {power(total * IMAGENET['val'])} multiply-adds, computed{square}."
    ]


def ours(what: str, claim: Claim, found: Sequence[Page]) -> list[str]:
    """Tables and figures, or what is missing."""
    if claim.networks:
        rows = []
        for network in claim.networks:
            parameters, products = cost_of(network, model_spec(network).input_size)
            rows.append([network, f"{parameters:,}", f"{products:,}"])
        return [markdown(["network", "parameters", "multiply-adds"], rows)]
    empty: str = chapter_of(what).table([])
    if not found:
        return [empty] if what == "table1" else ["Not run by us: nothing is claimed.", empty]
    parts = []
    for page in found:
        parts += [f"### {page.title}", page.table]
        if page.figures:
            picture = f"../results/figures/{page.figures[0].name}"
            parts.append(f"![{claim.title}, {page.title}]({picture})")
    return parts


def measured(folder: Path) -> Speeds:
    """The highest training speed of each network that is in the results, and on what."""
    found: Speeds = {}

    def add(network: str, speed: float | None, machine: str) -> None:
        if speed and speed > found.get(network, (0.0, ""))[0]:
            found[network] = speed, machine

    for result in kept(folder):
        add(result["recipe"]["network"], result["images_per_second"], result["hardware"])
    for each in kept(folder / "benchmarks", "networks"):
        for network, sides in each["networks"].items():
            add(network, sides.get("ours", {}).get("images_per_second"), each["hardware"])
    return found


def index(found: Mapping[str, Sequence[Page]], docs: Path) -> str:
    """docs/README.md: every page, and how far each table and figure is."""
    lines = [
        "# The paper, page by page",
        "",
        "Each page has the claim, the command, the cost, our result or an honest gap, and the "
        "liberties that we took. `make results` draws them; no number here was typed.",
        "",
    ]
    for what, claim in CLAIMS.items():
        if claim.printed:
            state = "not built yet"
        elif claim.networks or what == "table1":
            state = "computed"
        else:
            state = "; ".join(page.title for page in found.get(what, ())) or "not run by us"
        lines.append(f"- [{claim.title}]({what}.md): {state}")
    lines += ["", "Besides:", ""]
    for path in sorted({*docs.glob("*.md"), docs / "liberties.md", docs / "results.md"}):
        if path.stem not in (*CLAIMS, "README"):
            lines.append(f"- [{path.stem}]({path.name})")
    return "\n".join(lines) + "\n"
