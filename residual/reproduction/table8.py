"""Table 8: detection on COCO, with ResNet-101 in the place of VGG-16."""

from collections.abc import Mapping, Sequence

from residual.reproduction import paper
from residual.reproduction.detections import (
    AP,
    TENTHS,
    Detection,
    System,
    beside,
    by_system,
    coco,
    coco_or_own,
    networks_of,
    own_data,
    percent,
    remark,
    system,
    wanted,
)
from residual.reproduction.experiments import Result
from residual.reproduction.spread import markdown
from residual.reproduction.table7 import SYSTEMS

CURVE = False
KEY = AP  # what a result file must hold
MEASURES = {"AP50": "mAP % at .5", TENTHS: "mAP % over [.5, .95]"}


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Detection]:
    return [Detection(recipe) for recipe in wanted("coco", networks_of(depths), steps, seeds)]


def shown(results: Sequence[Result]) -> list[Result]:
    """The baselines, on COCO, or on data of one's own."""
    return [r for r in coco_or_own(results) if system(r).baseline]


def table(results: Sequence[Result]) -> str:
    printed = {name: (SYSTEMS[name], numbers) for name, numbers in paper.TABLE_8.items()}
    return systems(results, printed)


def systems(
    results: Sequence[Result],
    printed: Mapping[str, tuple[System, Sequence[float | None]]],
    besides: Sequence[str] = (),
) -> str:
    """By two measures of COCO, ours beside the paper's, and then what only the paper has. Other
    systems, and all of them on other data than the paper's, are rows of ours alone."""
    there = by_system(results)
    theirs = {} if own_data(results) else dict(printed)
    known = [own for own, _ in theirs.values()]
    nothing = [None] * (len(MEASURES) + len(besides))
    others = {own.words: (own, nothing) for own in there if own not in known}
    rows = []
    for name, (own, numbers) in (theirs | others).items():
        row = [name]
        for measure, number in zip(MEASURES, numbers, strict=False):
            row += beside(there.get(own, []), coco(measure), number)
        rows.append([*row, *map(percent, numbers[len(MEASURES) :])])
    header = ["system"]
    for title in MEASURES.values():
        header += [f"{title}, paper", "ours", "ours - paper"]
    return markdown([*header, *besides], rows) + remark(results)
