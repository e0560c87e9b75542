"""Result files made up as finished trainings and evaluations leave them, and cells of tables."""

from dataclasses import replace
from typing import Any

from residual.reproduction import detection_tables, paper
from residual.reproduction.detection_tables import COCO, VOC07, VOC12, VOC12_VAL, Benchmark
from residual.reproduction.tables import IMAGENET_SIZE
from residual.tasks.classification.recipe import with_steps
from residual.tasks.classification.train import recipe_for
from residual.tasks.detection.metrics import COCO as COCO_NAMES
from residual.tasks.detection.recipe import RECIPES
from residual.tasks.detection.recipe import Testing as Test
from residual.training.recipe import to_json

Result = dict[str, Any]
SMALL_SIZE = {"train": 150, "val": 50, "classes": 10}
VOC = tuple(detection_tables.VOC_NAMES.get(short, short) for short in paper.VOC)
CELLS = Benchmark("BCCD test", "trainval", "AP50-area", 72, 3, 1_000)
PLACES = {VOC07: "VOC2007 test", VOC12: "VOC2012 test", VOC12_VAL: "VOC2012 val",
          COCO: "coco val2014", CELLS: "BCCD test"}  # fmt: skip


def training(network: str, error: float, seed: int = 0, data: str = "CIFAR-10", **changes: Any):
    """A training of 640 steps with a test curve."""
    recipe = replace(with_steps(recipe_for(network, "cifar10"), 640), seed=seed, **changes)
    curve: list[dict[str, float]] = [
        {"step": step, "wrong": 1_280 - step, "seen": 1_280, "train_error": 100 - step / 12.8}
        for step in range(10, 650, 10)
    ]
    for line in curve[9::10]:
        line |= {"test_error": error, "test_wrong": round(100 * error), "test_seen": 10_000}
    return {
        "recipe": to_json(recipe),
        "data": {"name": data, "fingerprint": "f" * 64, "split": "test"},
        "error_top1": error,
        "curve": curve,
    }


def photograph_training(network: str, error: float, size: dict[str, int] = IMAGENET_SIZE):
    """A training of 640 steps on a folder of photographs."""
    data = {"name": "photos", "fingerprint": "0123456789", "split": "val"}
    recipe = to_json(with_steps(recipe_for(network, "photos"), 640))
    return training("plain20", error) | {"recipe": recipe, "data": data, "pictures": size}


def evaluation(
    network: str,
    measure: str,
    top_1: float,
    top_5: float | None,
    size: dict[str, int] = IMAGENET_SIZE,
) -> Result:
    """An evaluation on photographs by a protocol."""
    record = {"network": network, "networks": [network], "error_top1": top_1, "error_top5": top_5}
    return {
        measure: record,
        "recipe": to_json(recipe_for(network, "photos")),
        "data": {"name": "photos", "fingerprint": "quick-0123456789", "split": "val"},
        "pictures": size,
    }


def detector(
    network: str,
    on: Benchmark,
    value: float,
    recipe: str = "voc07+12",
    testing: Test | None = None,
    **more: Any,
) -> Result:
    """A detector. Each measure differs a little from the value by eleven points, and each class
    from the mean."""
    names = VOC if on.classes == 20 else [f"class {n}" for n in range(on.classes)]

    def measured(shift: float) -> dict[str, Any]:
        measures = {}
        for i, name in enumerate(("AP50-11pt", "AP50-area", "AP[.5:.95]")):
            mean, middle = value + shift + i, (len(names) - 1) / 2
            by_class = {label: mean + n - middle for n, label in enumerate(names)}
            measures[name] = {"mean": mean, "classes": by_class}
        return measures

    ap = {"pictures": on.pictures, "objects": on.objects or 99_999, "difficult": 5}
    ap |= measured(0) | {"difficult counted": measured(-10)}
    sort = "coco" if on is COCO else "voc"
    if sort == "coco":
        ap["coco"] = {name: value - 20 * (name == "AP[.5:.95]") for name in COCO_NAMES}
    changes = {key: more.pop(key) for key in list(more) if key in to_json(RECIPES[recipe])}
    made = replace(RECIPES[recipe], network=network, **{"start": "a" * 64} | changes)
    return {
        "format": 1,
        "task": "detection",
        "recipe": to_json(made),
        "testing": to_json(testing or Test()),
        "data": {"name": PLACES[on], "fingerprint": "0123456789", "split": PLACES[on].split()[-1]},
        "protocol": sort,
        "ap": ap,
        "networks": [network],
        **more,
    }


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def cells(table: str, *first: str) -> list[str]:
    """The cells that follow in the row that begins with these."""
    return next(row[len(first) :] for row in rows(table) if tuple(row[: len(first)]) == first)
