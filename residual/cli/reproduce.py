"""The command `reproduce`: every table and figure again, ours beside the paper's."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import (
    CACHE,
    Data_,
    Deterministic,
    Device,
    Precision,
    Root,
    Threads,
    Workers,
    setting_of,
    wrong_usage,
)
from residual.cli.progress import joined
from residual.cli.workshop import Place, Workshop

if TYPE_CHECKING:
    from residual.reproduction.detections import Detection
    from residual.training.recipe import Recipe

    Wanted = Recipe | Detection

SMALL = ("table6", "figure1", "figure6", "figure7")  # on CIFAR-10
LARGE = ("table2", "table3", "table4", "table5", "figure4")  # on ImageNet
BOXES = ("table7", "table8", "table9", "table10", "table11")  # on PASCAL VOC and COCO
BUILT = ("table1", *LARGE[:4], "table6", *BOXES, "figure1", "figure4", "figure6", "figure7")
GAPS = ("tables 12 to 14",)


def reproduce(
    what: Annotated[list[str], typer.Argument(help=f"{', '.join(BUILT)}, demo or all.")],
    data: Data_ = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many trainings of each network.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Another budget than the paper's.")
    ] = None,
    depths: Annotated[
        list[str] | None, typer.Option(help="Only these depths; 1202 comes only when it is named.")
    ] = None,
    networks: Annotated[
        list[str] | None, typer.Option(help="Only these networks, like resnet18-A plain18.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="field=value: another recipe than the paper's."),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--only-print", help="Train nothing; print what there is.")
    ] = False,
    side_by_side: Annotated[
        int,
        typer.Option(
            min=0,
            help="So many trainings at once; small nets leave a GPU idle. 0: as many as a short "
            "trial on the processor shows to pay.",
        ),
    ] = 0,
    results: Annotated[Path, typer.Option(help="Where results are kept.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/reproduce"),
    weights: Annotated[
        list[Path] | None, typer.Option(help="Files that detectors begin with, one per network.")
    ] = None,
    root: Root = CACHE,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = 2,
    precision: Precision = "auto",
    deterministic: Deterministic = False,
) -> None:
    """Print tables and draw figures of the paper, after training what is missing.

    Example: residual reproduce figure6 --data cifar10 --depths 20 56 --seeds 3
    """
    from residual.reproduction.chapters import chapter_of
    from residual.training.recipe import Recipe

    asked_for = asked(what, depths or [], networks or [])
    modules = {name: chapter_of(name) for name in asked_for.tables}
    name = data or ("digits" if "demo" in what else "cifar10")
    with wrong_usage():
        wanted = {
            each: varied(asked_for.some(module.runs(name, steps, seeds, asked_for.depths)), set_)
            for each, module in modules.items()
            if not ("all" in what and each in BOXES)  # which are printed, then, and not trained
        }
        if not any(wanted.values()) and (asked_for.networks or asked_for.depths):
            raise ValueError(f"{' and '.join(modules)} has no such network")
        if data is None and not only_print and (large := [w for w in what if w in LARGE]):
            raise ValueError(f"{large[0]} is on photographs; name a folder of them with --data")
        if data is None and not only_print and (boxes := [w for w in what if w in BOXES]):
            raise ValueError(
                f"{boxes[0]} is on pictures with boxes; name a folder of them with --data, or "
                f"print what there is with --only-print"
            )
    with joined() as world:
        how = setting_of(device, threads, precision, deterministic)
        place = Place(name, root, how, results, runs, side_by_side, workers)
        used: dict[str, set[str]] = {}
        if not only_print:
            own = {
                each: [r for r in some if isinstance(r, Recipe)] for each, some in wanted.items()
            }
            fresh = made(modules, own, place, "all" in what)
            used = {each: {mark} for each, mark in fresh.items()}
            used |= detected(wanted, place, weights or [])
        if world.rank == 0:
            for each, module in modules.items():
                show(each, module, results, used.get(each, set()), steps)
    if "all" in what:
        print(f"Not built yet: {', '.join(GAPS)}.")


def made(
    modules: dict[str, ModuleType], wanted: "dict[str, list[Recipe]]", place: Place, fitting: bool
) -> dict[str, str]:
    """Train and judge what is missing -> the data's fingerprint, for what was made on it.

    Only what is `fitting`: of `all`, ImageNet's tables are for photographs, CIFAR-10's for others.
    """
    from residual.tasks.classification.train import takes_photographs

    photographs = fitting and place.has_photographs()
    used: dict[str, str] = {}
    for large in (False, True):
        own = {each: recipes for each, recipes in wanted.items() if (each in LARGE) == large}
        if fitting:
            own = {
                each: [r for r in recipes if takes_photographs(r.network) == large == photographs]
                for each, recipes in own.items()
            }
        own = {each: recipes for each, recipes in own.items() if recipes}
        if own:
            shop = Workshop(place, place.data(large))
            curve = any(modules[each].CURVE for each in own)  # one training serves every table
            for each, recipes in own.items():
                shop.supply(recipes, curve, modules[each].KEY)
            used |= dict.fromkeys(own, shop.data.fingerprint)
    return used


def detected(
    wanted: "dict[str, list[Wanted]]", place: Place, weights: list[Path]
) -> dict[str, set[str]]:
    """Train and judge the detectors that are missing -> the data's fingerprints."""
    own = {each: some for each, some in wanted.items() if each in BOXES and some}
    if not own:
        return {}
    from residual.cli.detection_shop import supply

    return {each: supply(some, place, weights) for each, some in own.items()}  # type: ignore[arg-type]


def show(
    what: str, module: ModuleType, results: Path, fingerprints: set[str], steps: int | None
) -> None:
    """Print a table, and the files of a figure, for each data set and budget that is asked for."""
    from residual.reproduction.document import pages
    from residual.reproduction.experiments import steps_of
    from residual.training.recipe import from_json

    def asked_for(result: dict[str, Any]) -> bool:
        fits = not fingerprints or result["data"]["fingerprint"] in fingerprints
        return fits and steps in (None, budget_of(result))

    def budget_of(result: dict[str, Any]) -> int:
        if what in BOXES:
            return int(result["recipe"]["steps"])
        return steps_of(from_json(result["recipe"]), result["data"]["name"])

    there = list(pages(what, results, results / "figures", asked_for))
    for page in there:
        print(f"\n{what}: {page.title}\n\n{page.table}\n")
        for figure in page.figures:
            print(figure)
    if not there:
        print(f"\n{what}\n\n{module.table([])}")


@dataclass(frozen=True)
class Asked:
    """What is to be printed, of which depths and networks; all where none is named."""

    tables: list[str]
    depths: list[int]
    networks: list[str]

    def some(self, recipes: "list[Wanted]") -> "list[Wanted]":
        return [r for r in recipes if not self.networks or r.network in self.networks]


def asked(what: list[str], depths: list[str], networks: list[str]) -> Asked:
    """`--depths 20 56`, `--depths 20,56` or repeated, and so with `--networks`."""
    from residual.models.registry import BASELINES, model_spec
    from residual.models.resnet import NAME

    numbers = [word for word in what if word.isdecimal()]
    numbers += [part for words in depths for part in words.split(",")]
    nets = [word for words in networks for word in words.split(",")]
    nets += [word for word in what if networks and (NAME.fullmatch(word) or word in BASELINES)]
    names = [word for word in what if word not in (*numbers, *nets)]
    for name in names:
        if name not in (*BUILT, "demo", "all"):
            raise typer.BadParameter(
                f"{name} is no table or figure of the paper that is built; there are "
                f"{', '.join(BUILT)}, demo and all"
            )
    if not all(number.isdecimal() for number in numbers):
        raise typer.BadParameter(f"depths are numbers such as 20 56, not {' '.join(numbers)}")
    with wrong_usage():
        chosen = [model_spec(each).name for each in nets]
    tables = list(BUILT) if "all" in names else list(dict.fromkeys(names))
    return Asked(tables, sorted(map(int, numbers)), chosen)


def varied(wanted: "list[Wanted]", assignments: list[str] | None) -> "list[Wanted]":
    """The recipes with other values in some fields. Raises ValueError for unknown ones."""
    from residual.training.recipe import Recipe, parsed

    def one(each: "Wanted") -> "Wanted":
        if isinstance(each, Recipe):
            return replace(each, **dict(map(parsed, assignments or [])))
        return each.varied(assignments or [])

    return [one(each) for each in wanted]
