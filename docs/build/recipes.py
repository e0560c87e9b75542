"""docs/recipes.md: every recipe with its fields, source, expected error and cost; all fields."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from docs.build.choices import comment_above
from docs.build.costs import Speeds, training_hours
from residual.reproduction import paper
from residual.reproduction.experiments import ERROR
from residual.reproduction.results import Result, Spread, markdown, of_network
from residual.tasks.classification import baseline_recipes
from residual.tasks.classification import recipe as classification
from residual.tasks.detection import recipe as detection
from residual.training.recipe import Recipe, to_json

ALWAYS = ("batch", "steps", "lr", "drops", "weight_decay")  # fields that each row has
NAMES = frozenset({"network", "start", "seed", "task"})  # no part of how it is trained
MANY = 6  # values of a field that are still listed
MODERN = re.compile(r"([\d.]+) % top-1 accuracy")  # in the comment that cites its publication

SOURCES = {  # recipe: publication, as the comment above it in the code says in full
    "cifar": "the paper, Section 4.2",
    "cifar-deep": "the paper, Section 4.2, 110 layers",
    "digits": "ours",
    "imagenet": "the paper, Section 3.4",
    "modern": "torchvision, 2021",
    "finetune": "ours",
    "vgg": "Simonyan and Zisserman 2015",
    "googlenet": "Szegedy et al. 2014",
    "bn-inception": "Ioffe and Szegedy 2015",
    "prelu-net": "He et al. 2015, Delving deep",
    "maxout": "Goodfellow et al. 2013",
    "nin": "Lin et al. 2014",
    "dsn": "Lee et al. 2015",
    "fitnet": "Romero et al. 2015, without the teacher",
    "fitnet-hint": "Romero et al. 2015, first stage",
    "fitnet-distilled": "Romero et al. 2015, second stage",
    "highway": "Srivastava et al. 2015",
    "voc07": "py-faster-rcnn, end to end",
    "voc07-alternating": "Faster R-CNN, four steps",
    "voc07+12": "the paper, Section 4.3",
    "voc07++12": "the paper, Section 4.3",
    "coco": "the paper, Appendix A",
    "scratch": "ours",
}


def recipes_page(results: Sequence[Result], speeds: Speeds, package: Path) -> str:
    """docs/recipes.md."""
    classifiers = classification.RECIPES | baseline_recipes.RECIPES
    expected = expected_results(results, package)
    header = ["recipe", "fields", "source", "expected", "cost"]
    parts = [
        "# Recipes",
        "A recipe holds every setting that can change the result of a training. `--recipe NAME` "
        "chooses one; without it, network and data choose. `--set FIELD=VALUE` changes a field, "
        "`--steps` the budget; drops and warm-up keep their proportions.",
        "```sh\nresidual train resnet20 --data cifar10 --set weight_decay=5e-4 --steps 4000\n```",
        "A row lists the main fields, and those that differ from the defaults. `expected` is what "
        "the source prints, or what we measured. `cost` is from a measured speed.",
        "## Classification",
        markdown(header, [row(name, r, expected, speeds) for name, r in classifiers.items()]),
        "## Detection",
        markdown(header, [row(name, r, expected, {}) for name, r in detection.RECIPES.items()]),
        "## Fields of a classifier's recipe",
        field_table(classification.ClassificationRecipe),
        "## Fields of a detector's recipe",
        field_table(detection.DetectionRecipe),
    ]
    return "\n\n".join(parts) + "\n"


def row(name: str, recipe: Recipe, expected: Mapping[str, str], speeds: Speeds) -> list[str]:
    cost = "not measured"
    if recipe.network in speeds:
        speed, machine = speeds[recipe.network]
        hours = training_hours(recipe, speed)
        duration = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.0f} min"
        cost = f"{recipe.network}: {duration} at {speed:,.0f} images/s ({machine})"
    return [f"`{name}`", main_fields(recipe), SOURCES[name], expected.get(name, "not known"), cost]


def main_fields(recipe: Recipe) -> str:
    """The main fields, and those that differ from the defaults, as `--set` takes them."""
    defaults = to_json(type(recipe)(network=recipe.network))
    shown = {
        name: value
        for name, value in to_json(recipe).items()
        if name not in NAMES and (name in ALWAYS or value != defaults[name])
    }
    return ", ".join(f"`{name}={in_cell(value)}`" for name, value in shown.items())


def in_cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({len(value)} values)" if len(value) > MANY else ",".join(map(in_cell, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def expected_results(results: Sequence[Result], package: Path) -> dict[str, str]:
    """What the paper or the publication prints for a recipe, or what our results are."""
    cifar, (large, _) = paper.TABLE_6, paper.TABLE_3["ResNet-50"]
    expected = {
        "cifar": ", ".join(f"resnet{d}: {cifar[d][0]:.2f} %" for d in (20, 32, 44, 56)) + " error",
        "cifar-deep": f"resnet110: {cifar[110][0]:.2f} % error",
        "imagenet": f"resnet50: {large:.2f} % top-1 error, 10-crop",
        "voc07+12": f"resnet101: {paper.TABLE_7['ResNet-101'][0]:.1f} % mAP",
        "voc07++12": f"resnet101: {paper.TABLE_7['ResNet-101'][1]:.1f} % mAP",
        "coco": f"resnet101: {paper.TABLE_8['ResNet-101'][0]:.1f} % mAP at IoU .5",
    }
    for name, method in (
        ("vgg", "VGG (v5)"),
        ("googlenet", "GoogLeNet (ILSVRC'14)"),
        ("bn-inception", "BN-inception"),
        ("prelu-net", "PReLU-net"),
    ):
        expected[name] = f"{paper.TABLE_4[method][1]:.2f} % top-5 error, single model, multi-scale"
    for name, method in (
        ("maxout", "Maxout"),
        ("nin", "NIN"),
        ("dsn", "DSN"),
        ("fitnet-distilled", "FitNet-19"),
        ("highway", "Highway-19"),
    ):
        expected[name] = f"{paper.TABLE_6_BASELINES[method][2]:.2f} % error"
    cited = comment_above((package / "tasks/classification/recipe.py").read_text(), "MODERN")
    if match := MODERN.search(" ".join(line.strip("# ") for line in cited.splitlines())):
        expected["modern"] = f"resnet50-v1.5: {100 - float(match[1]):.2f} % top-1 error"
    return expected | measured_results(results)


def measured_results(results: Sequence[Result]) -> dict[str, str]:
    """Our results of the recipes that no publication has."""
    digits = [r for r in results if r["data"]["name"] == "digits" and ERROR in r]
    digits = of_network(digits, "resnet20")
    if not digits:
        return {}
    steps = max(r["recipe"]["steps"] for r in digits)
    error = Spread([r[ERROR] for r in digits if r["recipe"]["steps"] == steps])
    return {"digits": f"resnet20: {error} % error after {steps:,} steps"}


def field_table(kind: type[Recipe]) -> str:
    """Every field that `--set` changes, with its default and the comment in the code."""
    comments = {
        name: text
        for base in reversed(kind.__mro__)
        if issubclass(base, Recipe)
        for name, text in field_comments(inspect.getsource(base))
    }
    rows = []
    for field in fields(kind):
        if field.name not in kind.not_settable:
            default = in_cell(field.default) or '""'
            rows.append([f"`{field.name}`", f"`{default}`", comments[field.name]])
    return markdown(["field", "default", "meaning"], rows)


def field_comments(source: str) -> Iterator[tuple[str, str]]:
    """The comment beside each field of a dataclass, and those right above it."""
    above: list[str] = []
    for line in source.splitlines():
        if line.strip().startswith("#"):
            above.append(line.strip("# "))
            continue
        if match := re.match(r"    (\w+): [^#]*?=[^#]*(?:# (.*))?$", line):
            yield match[1], " ".join([*above, match[2] or ""]).strip()
        above = []
