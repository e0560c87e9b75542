"""The computed and estimated costs of trainings and evaluations."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from residual.models.registry import model_spec
from residual.reproduction.catalog import BOXES, CATALOG
from residual.reproduction.experiments import (
    ENSEMBLE,
    MULTISCALE,
    Experiment,
    Request,
    measure_of,
    recipes,
)
from residual.reproduction.results import Result, markdown, network_of, read_results
from residual.reproduction.tables import IMAGENET_SIZE, low_precision, network_cost
from residual.tasks.classification.protocols import PROTOCOLS
from residual.tasks.classification.recipe import ClassificationRecipe
from residual.tasks.detection.recipe import Testing
from residual.training.recipe import Recipe

Speeds = dict[str, tuple[float, str]]  # network: images per second, and the machine
DIGITS = "digits"  # the data of the demo
NO_SPEED = "no speed measured"
BACKWARD = 2  # cost of a backward pass in forward passes


def entry_costs(name: str, speeds: Speeds) -> list[str]:
    """The computed cost of the paper's budget; hours only from measured speeds."""
    experiments = CATALOG[name].experiments(Request()) if name in CATALOG else []
    if not experiments:
        return ["Nothing is trained; it takes seconds on one processor."]
    if CATALOG[name].data == BOXES:
        return detection_cost(experiments)
    rows = [training_cost(r, speeds) for e in experiments for r in e.recipes]
    header = ["network", "multiply-adds, one image", "images", "multiply-adds, training", "hours"]
    text = (
        "Multiply-adds of one image are computed. Those of a training at the paper's budget are "
        f"estimated: a backward pass counts as {BACKWARD} forward passes. "
    )
    if all(row[-1] == NO_SPEED for row in rows):
        text += "No speed was measured, so no hours are estimated."
        header, rows = header[:-1], [row[:-1] for row in rows]
    else:
        text += "Hours are estimated from a measured speed."
    return [text, markdown(header, rows), *evaluation_cost(experiments)]


def training_cost(recipe: ClassificationRecipe, speeds: Speeds) -> list[str]:
    network = recipe.network
    _, products = network_cost(network)
    images, hours = recipe.steps * recipe.batch, NO_SPEED
    if network in speeds:
        speed, machine = speeds[network]
        hours = f"{training_hours(recipe, speed):,.1f} at {speed:,.0f} images/s ({machine})"
    name = f"{network}, seed {recipe.seed}" if recipe.seed else network
    return [name, power(products), f"{images:,}", power(multiply_adds(recipe)), hours]


def training_hours(recipe: Recipe, speed: float) -> float:
    return recipe.steps * recipe.batch / speed / 3600


def multiply_adds(recipe: ClassificationRecipe) -> int:
    """Of a training, estimated from the cost of one image."""
    _, products = network_cost(recipe.network)
    return (1 + BACKWARD) * products * recipe.steps * recipe.batch


def budget_costs(
    networks: Sequence[str], data: str, steps: int | None, speeds: Speeds
) -> dict[str, str]:
    """For each network the cost of training it for some steps: hours at its measured speed, or
    multiply-adds."""
    costs = {}
    for recipe in recipes(networks, Request(data, steps)):
        costs[recipe.network] = f"{power(multiply_adds(recipe))} multiply-adds"
        if recipe.network in speeds:
            hours = training_hours(recipe, speeds[recipe.network][0])
            costs[recipe.network] = f"{hours:,.1f} hours"
    return costs


def detection_cost(experiments: Sequence[Experiment]) -> list[str]:
    """The number of training pictures. Another way of testing needs no training."""
    rows = {}
    for e in experiments:
        recipe = e.recipe
        trained = replace(e, testing=Testing())
        pictures = recipe.steps * recipe.batch * len(e.recipes)
        counts = [f"{recipe.steps:,}", f"{pictures:,}"]
        rows[trained] = [trained.system, recipe.train_split, *counts]
    text = "Training pictures of each recipe. No speed was measured, so no hours are estimated."
    return [text, markdown(["detector", "trained on", "steps", "pictures"], list(rows.values()))]


def power(number: float) -> str:
    """For example `1.8e9`."""
    return f"{number:.1e}".replace("e+0", "e").replace("e+", "e")


def evaluation_cost(experiments: Sequence[Experiment]) -> list[str]:
    """A sentence on the cost of the protocol on ImageNet's validation set."""
    measures = {e.measure for e in experiments}
    name = MULTISCALE if measures & {MULTISCALE, ENSEMBLE} else measures.pop()
    if name not in PROTOCOLS:
        return []
    total = 0
    for network in (network for e in experiments for network in e.networks):
        protocol = PROTOCOLS[measure_of(name, network)]
        sizes = (
            protocol.sides if protocol.fully_convolutional else (model_spec(network).input_size,)
        )
        views = protocol.views // len(sizes)  # of each size
        total += views * sum(network_cost(network, size)[1] for size in sizes)
    square = " for square photographs" if PROTOCOLS[name].fully_convolutional else ""
    others = (
        " (baselines by their own protocols)"
        if name == MULTISCALE and ENSEMBLE not in measures
        else ""
    )
    pictures = IMAGENET_SIZE["val"]
    return [
        f"Evaluation on {pictures:,} photographs with {PROTOCOLS[name].views} views "
        f"each{others} takes {power(total * pictures)} multiply-adds, computed{square}."
    ]


def machine_of(result: Result) -> str:
    """The hardware of each process, their number if there are several, and a precision other than
    float32."""
    processes = result.get("setting", {}).get("processes", 1)
    several = [f"{processes} processes"] if processes > 1 else []
    return ", ".join([result["hardware"], *several, *low_precision(result)])


def training_speeds(folder: Path) -> Speeds:
    """The highest training speed of each network in the results."""
    measured = [
        (network_of(result), result["images_per_second"], machine_of(result))
        for result in read_results(folder)
        if result["data"]["name"] != DIGITS  # read and shifted faster than other images
    ]
    for result in read_results(folder / "benchmarks", "networks"):
        for network, sides in result["networks"].items():
            speed = sides.get("ours", {}).get("images_per_second")
            measured.append((network, speed, result["hardware"]))
    for result in read_results(folder / "benchmarks", "training_speeds"):
        for network, speed in result["training_speeds"].items():
            measured.append((network, speed, result["hardware"]))
    speeds: Speeds = {}
    for network, speed, machine in measured:
        if speed and speed > speeds.get(network, (0.0, ""))[0]:
            speeds[network] = speed, machine
    return speeds
