"""Table 10: detection on VOC 2007 by class, and with every improvement."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from residual.reproduction import paper
from residual.reproduction.detections import (
    AP,
    AREA,
    ELEVEN,
    TENTHS,
    VOC07,
    VOC12,
    VOC12_VAL,
    Benchmark,
    Detection,
    System,
    benchmark,
    beside,
    by_system,
    networks_of,
    ours,
    remark,
    voc,
    wanted,
)
from residual.reproduction.experiments import Result
from residual.reproduction.spread import markdown
from residual.reproduction.table9 import ALL

CURVE = False
KEY = AP  # what a result file must hold
BEFORE = "coco"  # what the improved system was trained on first
SYSTEMS = {
    "baseline, VGG-16": System("vgg16"),
    "baseline, ResNet-101": System("resnet101"),
    "baseline+++, ResNet-101": System("resnet101", True, True, True, before=BEFORE),
}
LONG = {  # where the data has another name than the table
    "aero": "aeroplane",
    "bike": "bicycle",
    "table": "diningtable",
    "mbike": "motorbike",
    "plant": "pottedplant",
    "tv": "tvmonitor",
}
WAYS = {  # to count ours, besides the table's own
    "mAP by 11 points": voc(ELEVEN),
    "mAP by area": voc(AREA),
    "mAP over [.5, .95]": voc(TENTHS),
    "mAP by 11 points, difficult counted": voc(ELEVEN, difficult=True),
    "mAP by area, difficult counted": voc(AREA, difficult=True),
}


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Detection]:
    return improved("voc07+12", steps, seeds, depths)


def improved(name: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Detection]:
    """By a recipe: the baselines, and the residual ones with every improvement."""
    networks = networks_of(depths)
    residual = [network for network in networks if network.startswith("resnet")]
    return [
        *(Detection(recipe) for recipe in wanted(name, networks, steps, seeds)),
        *(
            Detection(recipe, ALL, BEFORE)
            for recipe in wanted(name, residual, steps, seeds, context=True)
        ),
    ]


def shown(results: Sequence[Result]) -> list[Result]:
    """Of data in the form of PASCAL VOC, all but what is Table 11's."""
    later = (VOC12, VOC12_VAL)
    return [r for r in results if r["protocol"] == "voc" and benchmark(r) not in later]


def table(results: Sequence[Result]) -> str:
    return by_class(results, VOC07, paper.TABLE_10)


def by_class(
    results: Sequence[Result],
    on: Benchmark,
    printed: Mapping[str, tuple[float, tuple[float, ...]]],
) -> str:
    """Upright: a row for each class, and three columns for each system of the paper. Other systems,
    and all of them on other data than the paper's, are columns of ours alone."""
    there = by_system(results)
    own = benchmark(results[0]) if results else on
    theirs, measure = printed if own is on else {}, own.measure if own else AREA
    classes = paper.VOC if theirs else tuple(results[0][AP][AREA]["classes"])
    ways = WAYS if results else {}
    reads = [
        voc(measure),
        *(voc(measure, LONG.get(each, each) if theirs else each) for each in classes),
    ]
    reads += ways.values()
    header, columns = ["class"], [("mAP", *classes, *ways)]
    for name, (mean, each) in theirs.items():
        some = there.pop(SYSTEMS[name], [])
        header += [f"{name}: paper", "ours", "ours - paper"]
        cells = [beside(some, *pair) for pair in zip_longest(reads, (mean, *each))]
        columns += zip(*cells, strict=True)
    for system, some in there.items():
        header.append(f"{system.words}: ours")
        columns.append(tuple(ours(some, read) for read in reads))
    return markdown(header, list(zip(*columns, strict=True))) + remark(results)
