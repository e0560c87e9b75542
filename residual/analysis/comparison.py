"""Several runs beside each other: errors over seeds, curves with bands, differing recipe fields."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from residual.analysis.curves import Curve, curve_from_log
from residual.runs.folder import is_detection, read_log
from residual.storage import read_json
from residual.tasks.classification.load import read_recipe
from residual.tasks.detection.load import read_recipe as read_detection_recipe
from residual.training.recipe import to_json


def summarize_run(run: Path) -> dict[str, Any]:
    """The name, recipe, data, environment, log and result of a run, and as `value` the test error
    or a detector's average precision in percent. Raises ValueError for no run and for damage."""
    recipe = to_json(read_detection_recipe(run) if is_detection(run) else read_recipe(run))
    paths = (run / "environment.json", run / "result.json")
    environment, result = (read_json(path) if path.is_file() else {} for path in paths)
    for content in (environment, result):
        content.pop("format", None)
    ap = result.get("ap", {}).get("AP50-area", {}).get("mean")
    return {
        "name": run.resolve().name,
        "recipe": recipe,
        "data": result.get("data", environment.get("data", {})),
        "environment": environment,
        "log": read_log(run / "log.jsonl") or result.get("curve", []),
        "result": result,
        "value": result.get("error_top1", ap),
    }


def group_runs(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Groups of runs that differ in nothing but their seed, in the order of the first of each:
    `label`, `runs`, their `values`, the sample standard `deviation` of these, and the `curve`.

    Runs of the same seed are no repetitions: each is a group of its own.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in map(summarize_run, runs):
        key = json.dumps([run["recipe"] | {"seed": 0}, run["data"].get("fingerprint")])
        groups.setdefault(key, []).append(run)
    parts: list[list[dict[str, Any]]] = []
    for part in groups.values():
        distinct = len({run["recipe"]["seed"] for run in part}) == len(part)
        parts += [part] if distinct else [[run] for run in part]
    labels = [part[0]["recipe"]["network"] for part in parts]
    if len(set(labels)) < len(labels):
        labels = [", ".join(run["name"] for run in part) for part in parts]
    result = []
    for label, part in zip(labels, parts, strict=True):
        values = [run["value"] for run in part if run["value"] is not None]
        deviation = stdev(values) if len(values) > 1 else None
        group = {"label": label, "runs": part, "values": values, "deviation": deviation}
        result.append(group | {"curve": mean_curve(label, part)})
    return result


def mean_curve(label: str, runs: Sequence[dict[str, Any]]) -> Curve:
    """The mean errors of several seeds, with a band of one standard deviation to each side."""
    curves = [curve_from_log(label, run["log"]) for run in runs]
    if len(curves) == 1:
        return curves[0]
    points = []
    for series in ([curve.training for curve in curves], [curve.test for curve in curves]):
        tables = [dict(one) for one in series if one]  # a run that has just begun has no points
        steps = sorted(set[int].intersection(*map(set, tables))) if tables else []
        points.append([(step, [table[step] for table in tables]) for step in steps])
    training, test = ([(step, fmean(errors)) for step, errors in part] for part in points)
    bands = [
        (step, max(0.0, fmean(errors) - stdev(errors)), fmean(errors) + stdev(errors))
        for step, errors in (points[1] if len(test) > 1 else points[0])
        if len(errors) > 1
    ]
    return replace(curves[0], training=training, test=test, bands=bands)


def differing_fields(groups: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The fields in which the recipes differ, each with the value of every group."""
    recipes = [group["runs"][0]["recipe"] | {"seed": 0} for group in groups]
    table = {key: [recipe.get(key) for recipe in recipes] for recipe in recipes for key in recipe}
    return {key: row for key, row in table.items() if any(value != row[0] for value in row)}
