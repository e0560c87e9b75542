"""Detectors: what Tables 7 to 11 ask to be trained, and which row a result file belongs in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from residual.reproduction.experiments import Result
from residual.reproduction.spread import Spread
from residual.tasks.detection.recipe import (
    RECIPES,
    Recipe,
    Testing,
    from_json,
    parsed,
    scaled,
    with_steps,
)
from residual.training.values import to_json

AP = "ap"  # of a result file: the numbers of detection/precision.py
NETWORKS = ("vgg16", "resnet101")
# Choice: the paper does not say by which of the two measures of PASCAL VOC it counts. On VOC 2007
# we take the eleven points, that year's own; by area, as later years count, stands beside them.
AREA, ELEVEN, TENTHS = "AP50-area", "AP50-11pt", "AP[.5:.95]"
Reader = Callable[[Result], float | None]  # a number in percent, or None for no objects
ELSEWHERE = ("network", "seed", "start", "context", "test_split")  # of a recipe, not in a title


@dataclass(frozen=True)
class System:
    """What stands in one row, or column: a network and its improvements."""

    network: str
    refinement: bool = False
    context: bool = False
    multiscale: bool = False
    before: str = ""
    members: int = 1

    @property
    def baseline(self) -> bool:
        return self == System(self.network)

    @property
    def words(self) -> str:
        has = {
            "box refinement": self.refinement,
            "context": self.context,
            "multi-scale testing": self.multiscale,
            f"trained on {self.before} before": self.before,
            f"{self.members} together": self.members > 1,
        }
        return ", ".join([called(self.network), *(name for name, on in has.items() if on)])


@dataclass(frozen=True)
class Detection:
    """A detector to be trained, and how it is tested."""

    recipe: Recipe
    testing: Testing = field(default_factory=Testing)
    before: str = ""  # the recipe of RECIPES by which its weights were trained first
    members: int = 1  # detectors that answer together, of the seed and those after it

    @property
    def network(self) -> str:
        return self.recipe.network

    @property
    def system(self) -> System:
        testing = self.testing
        return System(
            *(self.network, testing.refinement, self.recipe.context, bool(testing.scales)),
            *(self.before, self.members),
        )

    def varied(self, assignments: Sequence[str]) -> "Detection":
        """With other values in some fields of its recipe. Raises ValueError for unknown ones."""
        return replace(self, recipe=replace(self.recipe, **dict(map(parsed, assignments))))


@dataclass(frozen=True)
class Benchmark:
    """A test set of the paper, known by how much is on it."""

    title: str
    train: str  # the split that the paper's detectors learn on before they are tested on it
    measure: str
    pictures: int
    classes: int
    objects: int | None = None  # that are not difficult; of VOC 2012 they are not public


VOC07 = Benchmark("VOC 2007 test", "07+12", ELEVEN, 4_952, 20, 12_032)
VOC12 = Benchmark("VOC 2012 test", "07++12", AREA, 10_991, 20)
VOC12_VAL = Benchmark("VOC 2012 val", "none of the paper", AREA, 5_823, 20, 13_841)
COCO = Benchmark("COCO val 2014", "train2014", AREA, 40_504, 80)
BENCHMARKS = (VOC07, VOC12, VOC12_VAL, COCO)


def called(network: str) -> str:
    """As the paper writes it: `ResNet-101`, `VGG-16`."""
    return network.replace("resnet", "ResNet-").replace("vgg", "VGG-")


def wanted(
    name: str,
    networks: Sequence[str],
    steps: int | None,
    seeds: int,
    context: bool = False,
) -> list[Recipe]:
    """A recipe of RECIPES for some networks and so many seeds, with its own steps or others."""
    recipe = with_steps(RECIPES[name], steps) if steps else RECIPES[name]
    return [
        replace(recipe, network=network, seed=seed, context=context)
        for network in networks
        for seed in range(seeds)
    ]


def networks_of(depths: Sequence[int]) -> list[str]:
    """Those of the paper, or residual networks of the depths that are asked for."""
    return [f"resnet{depth}" for depth in depths] or list(NETWORKS)


def benchmark(result: Result) -> Benchmark | None:
    """The paper's test set that a result is on, or None where it is on other data."""
    ap = result[AP]
    for each in BENCHMARKS:
        same = ap["pictures"] == each.pictures and len(ap[AREA]["classes"]) == each.classes
        if same and each.objects in (None, ap["objects"]):
            return each
    return None


def is_equal(result: Result) -> bool:
    """Whether a result may be held against the paper's: tested and trained on the same data."""
    own = benchmark(result)
    return own is not None and result["recipe"]["train_split"] == own.train


def system(result: Result) -> System:
    """The row of a result."""
    testing = result["testing"]
    return System(
        network=result["recipe"]["network"],
        refinement=testing["refinement"],
        context=result["recipe"]["context"],
        multiscale=bool(testing["scales"]),
        before=result.get("before", ""),
        members=len(result["networks"]),
    )


def by_system(results: Sequence[Result]) -> dict[System, list[Result]]:
    """The results of each system, one for each seed."""
    found: dict[System, dict[int, Result]] = {}
    for result in results:
        found.setdefault(system(result), {})[result["recipe"]["seed"]] = result
    ordered = sorted(found.items(), key=lambda pair: (len(pair[0].words), pair[0].words))
    return {own: [seeds[seed] for seed in sorted(seeds)] for own, seeds in ordered}


def budgets(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results that may stand in one table: of one data set, one recipe but for the network, one
    number of steps, and one way to test but for the paper's improvements."""
    found: dict[str, list[Result]] = {}
    for result in results:
        recipe = from_json(result["recipe"])
        words = [data_title(result), *recipe_words(recipe), *testing_words(result)]
        found.setdefault(", ".join(words), []).append(result)
    return dict(sorted(found.items()))


def data_title(result: Result) -> str:
    own = benchmark(result)
    short = result["data"]["fingerprint"].removeprefix("quick-")[:8]
    return f"{own.title if own else data_name(result)} (fingerprint {short})"


def data_name(result: Result) -> str:
    """What it was tested on: the data's name and the split."""
    name, split = result["data"]["name"], result["data"].get("split", "")
    return str(name) if name.endswith(split) else f"{name} {split}"


def recipe_words(recipe: Recipe) -> list[str]:
    """The named recipe that it is, or is nearest to, its steps, and what else differs."""
    changed = {
        name: differences(to_json(recipe), to_json(with_steps(usual, recipe.steps)), ELSEWHERE)
        for name, usual in RECIPES.items()
    }
    name = min(changed, key=lambda each: len(changed[each]))
    drawn = [] if recipe.start or name == "scratch" else ["from drawn weights"]
    return [f"recipe {name}", f"{recipe.steps:,} steps", *drawn, *changed[name]]


def testing_words(result: Result) -> list[str]:
    """How it was tested, besides the paper's improvements, where that is not as usual."""
    testing, shorter = result["testing"], result["recipe"]["shorter"]
    odd = () if tuple(testing["scales"]) in ((), scaled(shorter)) else ("scales",)
    usual = to_json(Testing())
    return differences(testing, usual, [key for key in ("refinement", "scales") if key not in odd])


def differences(
    ours: Mapping[str, Any], usual: Mapping[str, Any], besides: Sequence[str]
) -> list[str]:
    """`field value` of each field that is not as usual."""
    return [
        f"{name} {value}"
        for name, value in ours.items()
        if name not in besides and value != usual.get(name)
    ]


def voc(measure: str, name: str = "", difficult: bool = False) -> Reader:
    """Reads the mean over classes, or what one has, by a measure of PASCAL VOC."""

    def read(result: Result) -> float | None:
        own = (result[AP]["difficult counted"] if difficult else result[AP])[measure]
        value: float | None = own["classes"].get(name) if name else own["mean"]
        return value

    return read


def coco(measure: str) -> Reader:
    """Reads one of COCO's own numbers; of data in PASCAL VOC's form, the like of it by area."""
    like = AREA if measure == "AP50" else measure

    def read(result: Result) -> float | None:
        own = result[AP].get("coco")
        value: float | None = own[measure] if own else result[AP][like]["mean"]
        return value

    return read


def coco_or_own(results: Sequence[Result]) -> list[Result]:
    """Of data in the form of COCO, and of data that are none of the paper's."""
    return [r for r in results if r["protocol"] == "coco" or benchmark(r) is None]


def ours(results: Sequence[Result], read: Reader) -> str:
    """A cell: over the seeds of one system."""
    values = [value for result in results if (value := read(result)) is not None]
    return Spread(values).in_words() if values or not results else "no objects"


def beside(results: Sequence[Result], read: Reader, printed: float | None) -> list[str]:
    """Three cells: the paper's number, ours, and how far apart they are where they are equals."""
    values = [value for result in results if (value := read(result)) is not None]
    compared = printed is not None and all(map(is_equal, results))
    verdict = Spread(values).verdict(printed) if compared and printed is not None else ""
    return [percent(printed), ours(results, read), verdict]


def percent(printed: float | None) -> str:
    """As the paper prints it."""
    return "" if printed is None else f"{printed:.1f}"


def own_data(results: Sequence[Result]) -> bool:
    """Whether results, which are of one data set, are on none of the paper's."""
    return bool(results) and benchmark(results[0]) is None


def remark(results: Sequence[Result]) -> str:
    """Below a table: on what ours are, where that is not what the paper's are on."""
    if not results or all(map(is_equal, results)):
        return ""
    first, ap = results[0], results[0][AP]
    what = (
        f"\n\nOurs are on {data_name(first)}, {ap['pictures']:,} pictures with {ap['objects']:,} "
        f"objects of {len(ap[AREA]['classes']):,} classes"
    )
    if seen_in_training(first):
        return f"{what}, on which they were trained, too: they say nothing of other pictures."
    if benchmark(first) in (None, VOC12_VAL):
        return f"{what}: they show that the path works, and are no equals of the paper's."
    return f"{what}, as the paper's; but they were trained on other data, and are no equals."


def seen_in_training(result: Result) -> bool:
    """Whether it was trained on pictures that it is tested on."""
    split = result["recipe"]["train_split"].replace("07++", "07+07test+")
    lists = {f"{term}trainval" if term.isdecimal() else term for term in split.split("+")}
    tested = {VOC07: {"07test"}, VOC12_VAL: {"12val", "12trainval"}}
    own = benchmark(result)
    return own is not None and bool(lists & tested.get(own, set()))
