"""Table 7: detection on PASCAL VOC, with ResNet-101 in the place of VGG-16."""

from collections.abc import Sequence

from residual.reproduction import paper
from residual.reproduction.detections import (
    AP,
    AREA,
    ELEVEN,
    TENTHS,
    VOC07,
    VOC12,
    Detection,
    System,
    benchmark,
    beside,
    by_system,
    data_name,
    networks_of,
    ours,
    own_data,
    remark,
    system,
    voc,
    wanted,
)
from residual.reproduction.experiments import Result
from residual.reproduction.spread import markdown

CURVE = False
KEY = AP  # what a result file must hold
SYSTEMS = {"VGG-16": System("vgg16"), "ResNet-101": System("resnet101")}


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Detection]:
    return [
        Detection(recipe)
        for name in ("voc07+12", "voc07++12")
        for recipe in wanted(name, networks_of(depths), steps, seeds)
    ]


def shown(results: Sequence[Result]) -> list[Result]:
    """Of data in the form of PASCAL VOC, the baselines."""
    return [r for r in results if r["protocol"] == "voc" and system(r).baseline]


def table(results: Sequence[Result]) -> str:
    """mAP on both test sets; the last four columns are other ways to count ours."""
    there, rows = by_system(results), []
    on = benchmark(results[0]) if results else None
    for column, each in enumerate(() if own_data(results) else (VOC07, VOC12)):
        for name, printed in paper.TABLE_7.items():
            some = there.pop(SYSTEMS[name], []) if each is on else []
            rows.append([each.title, name, *numbers(some, each.measure, printed[column])])
    for own, some in there.items():
        title, measure = (on.title, on.measure) if on else (data_name(some[0]), AREA)
        rows.append([title, own.words, *numbers(some, measure, None)])
    header = ["test set", "network", "mAP %, paper", "ours", "ours - paper"]
    ways = ["by 11 points", "by area", "over [.5, .95]", "difficult counted"]
    return markdown([*header, *ways], rows) + remark(results)


def numbers(results: Sequence[Result], measure: str, printed: float | None) -> list[str]:
    """The cells of one network."""
    ways = [voc(ELEVEN), voc(AREA), voc(TENTHS), voc(measure, difficult=True)]
    others = [ours(results, each) if results else "" for each in ways]
    return [*beside(results, voc(measure), printed), *others]
