"""Tables 7 to 11: our average precision beside the paper's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

from residual.reproduction import paper
from residual.reproduction.experiments import (
    AP,
    Experiment,
    Request,
    detector_networks,
    detectors,
    system_name,
)
from residual.reproduction.results import Result, Spread, by_seed, grouped, markdown
from residual.reproduction.tables import low_precision, percent
from residual.tasks.detection.recipe import (
    MULTISCALE,
    RECIPES,
    DetectionRecipe,
    Testing,
    from_json,
    multiscale_sizes,
    with_steps,
)
from residual.training.recipe import to_json

Metric = Callable[[Result], float | None]  # in percent; None if there are no objects

# Choice: the paper does not say which of PASCAL VOC's two measures it reports. On VOC 2007 we take
# that year's 11-point measure; the area under the curve, the measure since 2010, is beside it.
AREA, ELEVEN, TENTHS = "AP50-area", "AP50-11pt", "AP[.5:.95]"
NOT_IN_TITLE = ("network", "seed", "start", "context", "test_split")  # fields of a recipe
REFINED = Testing(refinement=True)
ALL = Testing(refinement=True, scales=MULTISCALE)
# Choice: the paper does not say which three networks its ensemble has. We take one network
# from three seeds.
MEMBERS = 3
PRETRAINING = "coco"  # of the improved systems of Tables 10 and 11
SYSTEMS_9 = {  # the systems of Table 9 by the names printed there
    "baseline VGG-16": system_name("vgg16"),
    "baseline ResNet-101": system_name("resnet101"),
    "+ box refinement": system_name("resnet101", True),
    "+ context": system_name("resnet101", True, True),
    "+ multi-scale testing": system_name("resnet101", True, True, True),
    "ensemble": system_name("resnet101", True, True, True, members=MEMBERS),
}
SYSTEMS_10 = {  # of Tables 10 and 11
    "baseline, VGG-16": system_name("vgg16"),
    "baseline, ResNet-101": system_name("resnet101"),
    "baseline+++, ResNet-101": system_name("resnet101", True, True, True, PRETRAINING),
}
SYSTEMS = SYSTEMS_9 | SYSTEMS_10
VOC_NAMES = {  # the classes that the tables abbreviate
    "aero": "aeroplane",
    "bike": "bicycle",
    "table": "diningtable",
    "mbike": "motorbike",
    "plant": "pottedplant",
    "tv": "tvmonitor",
}
COCO_METRICS = {"AP50": "mAP % at .5", TENTHS: "mAP % over [.5, .95]"}
TEST_DEV = ("test-dev at .5, paper", "test-dev over [.5, .95], paper")
TEST_DEV_REMARK = (
    "\n\nThe boxes of test-dev are not public. On it a server evaluated the paper's last networks, "
    "which were trained on the validation set too; we have no such numbers. Our ensemble is "
    "trained on the training set and evaluated on the validation set, as in the rows above it."
)
VOC12_REMARK = (
    "\n\nThe boxes of the test set are not public. The validation set can be used instead, after "
    "training without it: `--set train_split=07+07test+12train --set test_split=12val`."
)


@dataclass(frozen=True)
class Benchmark:
    """A test set of the paper, recognized by its size."""

    title: str
    train: str  # the split on which the paper trains for it
    measure: str
    pictures: int
    classes: int
    objects: int | None = None  # that are not difficult; those of VOC 2012 are not public


VOC07 = Benchmark("VOC 2007 test", "07+12", ELEVEN, 4_952, 20, 12_032)
VOC12 = Benchmark("VOC 2012 test", "07++12", AREA, 10_991, 20)
VOC12_VAL = Benchmark("VOC 2012 val", "none of the paper", AREA, 5_823, 20, 13_841)
COCO = Benchmark("COCO val 2014", "train2014", AREA, 40_504, 80)


def benchmark(result: Result) -> Benchmark | None:
    """The test set of the paper on which a result is, or None for other data."""
    ap = result[AP]
    size = ap["pictures"], len(ap[AREA]["classes"])
    for test in (VOC07, VOC12, VOC12_VAL, COCO):
        if size == (test.pictures, test.classes) and test.objects in (None, ap["objects"]):
            return test
    return None


def is_comparable(result: Result) -> bool:
    """Whether a result was trained and tested on the same data as the paper's."""
    tested = benchmark(result)
    return tested is not None and result["recipe"]["train_split"] == tested.train


def system(result: Result) -> str:
    """The name of the detector with its improvements."""
    recipe, testing = result["recipe"], result["testing"]
    improvements = testing["refinement"], recipe["context"], bool(testing["scales"])
    pretraining, members = result.get("before", ""), len(result["networks"])
    return system_name(recipe["network"], *improvements, pretraining, members)


def is_baseline(result: Result) -> bool:
    return system(result) == system_name(result["recipe"]["network"])


def by_system(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each system, one per seed; systems with fewer improvements first."""
    groups = grouped(results, system)
    return {name: by_seed(groups[name]) for name in sorted(groups, key=lambda n: (len(n), n))}


def beside(
    results: Sequence[Result], printed: Mapping[str, Sequence[float | None]]
) -> Iterator[tuple[str, Sequence[float | None], list[Result]]]:
    """Each printed system with its numbers and our results, then each other system of ours."""
    systems = by_system(results)
    for name, numbers in printed.items():
        yield name, numbers, systems.pop(SYSTEMS.get(name, name), [])
    yield from ((name, (), stored) for name, stored in systems.items())


def title(result: Result) -> str:
    """The heading under which a result appears: the test set, the recipe, the steps, whatever else
    differs from the paper, except for its improvements, and the precision if it is not float32."""
    tested, short = benchmark(result), result["data"]["fingerprint"].removeprefix("quick-")[:8]
    recipe, testing = from_json(result["recipe"]), result["testing"]
    standard = tuple(testing["scales"]) in ((), multiscale_sizes(recipe.shorter))
    hidden = ("refinement", "scales") if standard else ("refinement",)
    words = [
        f"{tested.title if tested else data_name(result)} (fingerprint {short})",
        *recipe_words(recipe),
        *differences(testing, to_json(Testing()), hidden),
        *low_precision(result),
    ]
    return ", ".join(words)


def data_name(result: Result) -> str:
    """The name of the test data with its split."""
    name, split = result["data"]["name"], result["data"].get("split", "")
    return str(name) if name.endswith(split) else f"{name} {split}"


def nearest_recipe(recipe: DetectionRecipe) -> tuple[str, list[str]]:
    """The name of the nearest recipe, and each field that differs, besides the steps."""
    values = to_json(recipe)
    changed = {
        name: differences(values, to_json(with_steps(named, recipe.steps)), NOT_IN_TITLE)
        for name, named in RECIPES.items()
    }
    return min(changed.items(), key=lambda item: len(item[1]))


def recipe_words(recipe: DetectionRecipe) -> list[str]:
    """The nearest named recipe, the steps, and each field that differs."""
    name, changed = nearest_recipe(recipe)
    start = [] if recipe.start or name == "scratch" else ["from drawn weights"]
    return [f"recipe {name}", f"{recipe.steps:,} steps", *start, *changed]


def has_full_budget(result: Result) -> bool:
    """Whether a detector was trained for all steps of the nearest named recipe."""
    recipe = from_json(result["recipe"])
    return recipe.steps == RECIPES[nearest_recipe(recipe)[0]].steps


def differences(
    values: Mapping[str, Any], defaults: Mapping[str, Any], hidden: Sequence[str]
) -> list[str]:
    """`field value` for each field that differs from its default."""
    return [
        f"{name} {value}"
        for name, value in values.items()
        if name not in hidden and value != defaults.get(name)
    ]


def voc(measure: str, name: str = "", difficult: bool = False) -> Metric:
    """A metric of PASCAL VOC: the mean over the classes, or the AP of one class."""

    def read(result: Result) -> float | None:
        ap = (result[AP]["difficult counted"] if difficult else result[AP])[measure]
        value: float | None = ap["classes"].get(name) if name else ap["mean"]
        return value

    return read


def coco(measure: str) -> Metric:
    """A metric of COCO; for data in PASCAL VOC's format the corresponding one by area."""

    def read(result: Result) -> float | None:
        ap = result[AP].get("coco")
        value: float | None = (
            ap[measure] if ap else result[AP][AREA if measure == "AP50" else measure]["mean"]
        )
        return value

    return read


def compared(results: Sequence[Result], metric: Metric, printed: float | None = None) -> list[str]:
    """Three cells: the printed number, ours over the seeds of one system, and their difference if
    they are comparable."""
    spread = Spread([value for result in results if (value := metric(result)) is not None])
    ours = str(spread) if spread.values or not results else "no objects"
    if printed is None or not all(is_comparable(r) and has_full_budget(r) for r in results):
        return [percent(printed, 1), ours, ""]
    return [percent(printed, 1), ours, spread.difference(printed)]


def is_own_data(results: Sequence[Result]) -> bool:
    """Whether the results, all on one data set, are on none of the paper's."""
    return bool(results) and benchmark(results[0]) is None


def data_remark(results: Sequence[Result]) -> str:
    """A sentence on the data of our results if it is not the paper's."""
    if not results or all(map(is_comparable, results)):
        return ""
    first, ap = results[0], results[0][AP]
    data = (
        f"\n\nOurs are on {data_name(first)}, {ap['pictures']:,} pictures with {ap['objects']:,} "
        f"objects of {len(ap[AREA]['classes']):,} classes"
    )
    if is_tested_on_training_data(first):
        return f"{data}. They were trained on the same pictures, so they say nothing about others."
    if benchmark(first) in (None, VOC12_VAL):
        return f"{data}. They show that the pipeline works and are not comparable to the paper's."
    return f"{data}, like the paper's, but were trained on other data: they are not comparable."


def is_tested_on_training_data(result: Result) -> bool:
    split = result["recipe"]["train_split"].replace("07++", "07+07test+")
    lists = {f"{term}trainval" if term.isdecimal() else term for term in split.split("+")}
    test = {VOC07: {"07test"}, VOC12_VAL: {"12val", "12trainval"}}
    tested = benchmark(result)
    return tested is not None and bool(lists & test.get(tested, set()))


def table7_experiments(request: Request) -> list[Experiment]:
    networks = detector_networks(request.depths)
    return [e for name in ("voc07+12", "voc07++12") for e in detectors(name, request, networks)]


def in_table7(result: Result) -> bool:
    return bool(result["protocol"] == "voc" and is_baseline(result))


def table7(results: Sequence[Result]) -> str:
    """mAP on PASCAL VOC. The last four columns have ours by other metrics."""
    systems, rows = by_system(results), []
    tested = benchmark(results[0]) if results else None
    for column, test_set in enumerate(() if is_own_data(results) else (VOC07, VOC12)):
        for name, printed in paper.TABLE_7.items():
            stored = systems.pop(name, []) if test_set is tested else []
            cells = table7_cells(stored, test_set.measure, printed[column])
            rows.append([test_set.title, name, *cells])
    for name, stored in systems.items():
        data = tested.title if tested else data_name(stored[0])
        rows.append([data, name, *table7_cells(stored, tested.measure if tested else AREA, None)])
    header = ["test set", "network", "mAP %, paper", "mAP %, ours", "ours - paper"]
    header += ["by 11 points", "by area", "over [.5, .95]", "difficult counted"]
    return markdown(header, rows) + data_remark(results)


def table7_cells(results: Sequence[Result], measure: str, printed: float | None) -> list[str]:
    metrics = [voc(ELEVEN), voc(AREA), voc(TENTHS), voc(measure, difficult=True)]
    others = [compared(results, metric)[1] if results else "" for metric in metrics]
    return [*compared(results, voc(measure), printed), *others]


def table8_experiments(request: Request) -> list[Experiment]:
    return detectors("coco", request, detector_networks(request.depths))


def in_table9(result: Result) -> bool:
    """Whether a result is on COCO, or on data that are none of the paper's."""
    return result["protocol"] == "coco" or benchmark(result) is None


def in_table8(result: Result) -> bool:
    return in_table9(result) and is_baseline(result)


def table8(results: Sequence[Result]) -> str:
    return on_coco(results, paper.TABLE_8)


def table9_experiments(request: Request) -> list[Experiment]:
    """The baselines, and ResNets with one improvement after another."""
    experiments = table8_experiments(request)
    residual = [n for n in detector_networks(request.depths) if n.startswith("resnet")]
    experiments += detectors("coco", request, residual, REFINED)
    for testing in (REFINED, ALL):
        experiments += detectors("coco", request, residual, testing, context=True)
    once = replace(request, seeds=1)
    return experiments + detectors("coco", once, residual, ALL, context=True, members=MEMBERS)


def table9(results: Sequence[Result]) -> str:
    if is_own_data(results):
        return on_coco(results, {})
    return on_coco(results, paper.TABLE_9, TEST_DEV) + TEST_DEV_REMARK


def on_coco(
    results: Sequence[Result],
    printed: Mapping[str, Sequence[float | None]],
    only_printed: Sequence[str] = (),
) -> str:
    """Two metrics of COCO, ours beside the paper's, then the columns that only the paper has. Other
    systems are rows of ours alone, as are all systems on data of one's own."""
    width, rows = len(COCO_METRICS), []
    for name, numbers, stored in beside(results, {} if is_own_data(results) else printed):
        numbers = numbers or [None] * (width + len(only_printed))
        cells = [name]
        for measure, number in zip(COCO_METRICS, numbers, strict=False):
            cells += compared(stored, coco(measure), number)
        rows.append([*cells, *(percent(number, 1) for number in numbers[width:])])
    header = ["system"]
    for name in COCO_METRICS.values():
        header += [f"{name}, paper", f"{name}, ours", "ours - paper"]
    return markdown([*header, *only_printed], rows) + data_remark(results)


def by_class_experiments(name: str, request: Request) -> list[Experiment]:
    """Tables 10 and 11: the baselines, and ResNets with all improvements."""
    networks = detector_networks(request.depths)
    residual = [network for network in networks if network.startswith("resnet")]
    improved = detectors(name, request, residual, ALL, context=True, pretraining=PRETRAINING)
    return [*detectors(name, request, networks), *improved]


def in_table10(result: Result) -> bool:
    """Whether a result is on data in PASCAL VOC's format that are not those of Table 11."""
    return result["protocol"] == "voc" and not in_table11(result)


def in_table11(result: Result) -> bool:
    return benchmark(result) in (VOC12, VOC12_VAL)


def table11(results: Sequence[Result]) -> str:
    return by_class(results, VOC12, paper.TABLE_11) + VOC12_REMARK


def by_class(
    results: Sequence[Result],
    tested: Benchmark,
    printed: Mapping[str, tuple[float, ...]],
) -> str:
    """A row for each class, and three columns for each system of the paper. Other systems are
    columns of ours alone, as are all systems on other data than the paper's."""
    test_set = benchmark(results[0]) if results else tested
    printed, measure = printed if test_set is tested else {}, test_set.measure if test_set else AREA
    classes = paper.VOC if printed else tuple(results[0][AP][AREA]["classes"])
    metrics = {"mAP": voc(measure)}
    metrics |= {c: voc(measure, VOC_NAMES.get(c, c) if printed else c) for c in classes}
    if results:
        metrics |= {
            "mAP by 11 points": voc(ELEVEN),
            "mAP by area": voc(AREA),
            "mAP over [.5, .95]": voc(TENTHS),
            "mAP by 11 points, difficult counted": voc(ELEVEN, difficult=True),
            "mAP by area, difficult counted": voc(AREA, difficult=True),
        }
    header, columns = ["class"], [tuple(metrics)]
    for name, numbers, stored in beside(results, printed):
        pairs = zip_longest(metrics.values(), numbers)
        cells = list(zip(*(compared(stored, *pair) for pair in pairs), strict=True))
        header += [f"{name}: paper", "ours", "ours - paper"] if numbers else [f"{name}: ours"]
        columns += cells if numbers else cells[1:2]
    return markdown(header, list(zip(*columns, strict=True))) + data_remark(results)


table10 = partial(by_class, tested=VOC07, printed=paper.TABLE_10)
