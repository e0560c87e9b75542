"""The commands `benchmark train`, `benchmark predict` and `benchmark data`."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.options import (
    Device,
    Json,
    Precision,
    Root,
    Threads,
    Workers,
    compute_config,
    load_pictures,
    usage_errors,
)
from residual.storage import DEFAULT_ROOT, json_text

if TYPE_CHECKING:
    from residual.device import ComputeConfig

Network = Annotated[str, typer.Argument(help="The network's name: see `residual networks`.")]


def train(
    network: Network = "resnet20",
    recipe: Annotated[str, typer.Option(help="As for `residual train`.")] = "auto",
    device: Device = "auto",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Measure training speed in each precision and memory format.

    The images are random numbers in memory, one norm group per step. The last line prints the
    setting that `residual train` would select, and the duration of the recipe.

    Example: residual benchmark train resnet50
    """
    from residual.device import training_config
    from residual.models.registry import model_spec
    from residual.runs.autotune import candidates, fastest
    from residual.tasks.classification.loader import crop_size
    from residual.tasks.classification.throughput import seconds_per_step
    from residual.tasks.classification.train import recipe_for

    with usage_errors():
        config = training_config(device, threads)
        chosen = recipe_for(network, "cifar10", recipe)
    timed, rows = {}, []
    for trial in candidates(config, chosen.steps):
        timed[trial] = seconds_per_step(trial, chosen, model_spec(network).classes)
        speed = chosen.norm_group / timed[trial]
        fields = ("precision", "threads", "channels_last", "compile")
        row = {name: getattr(trial, name) for name in fields}
        rows.append(row | {"images_per_second": speed})
        if not as_json:
            print(f"{config_text(trial):<25} {speed:>10,.1f} images/s", flush=True)
    best, side = config_text(fastest(timed)), crop_size(chosen)
    days = chosen.steps * chosen.batch / chosen.norm_group * timed[fastest(timed)] / 86_400
    if as_json:
        values = {"network": network, "images": chosen.norm_group, "size": side}
        print(json_text({**values, "settings": rows, "taken": best, "days": days}))
        return
    print(
        f"residual train takes {best} here: {chosen.steps:,} steps of "
        f"{chosen.batch:,} images of {side}x{side} in {duration(days)}, if the data comes as fast."
    )


def config_text(config: "ComputeConfig") -> str:
    threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
    parts = ["channels_last"] * config.channels_last + ["compiled"] * config.compile
    return ", ".join([config.precision, threads, *parts])


def duration(days: float) -> str:
    """For example `12 days` or `3.5 hours`."""
    if days >= 2:
        return f"{days:,.0f} days"
    return f"{24 * days:.1f} hours" if days >= 2 / 24 else f"{24 * 60 * days:.1f} minutes"


def predict(
    network: Network = "resnet50",
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images per batch; default: 1, 16.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds per measurement.")] = 3.0,
    device: Device = "auto",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Measure prediction speed with each installed engine.

    Example: residual benchmark predict resnet50
    """
    from residual.export.engine import speeds

    config = compute_config(device, threads, "float32")
    rows = []
    for row in config.iterate(speeds(network, config, batch or (1, 16), seconds)):
        rows.append(row)
        if not as_json:
            speed, name = row["images_per_second"], f"{row['engine']}, batch {row['batch']}"
            print(f"{name:<25} {speed:>10,.1f} images/s  ({1000 / speed:.1f} ms each)", flush=True)
    if as_json:
        print(json_text({"network": network, "speeds": rows}))
    else:
        print(f"residual predict takes {rows[0]['engine']} here.")


def data(
    folder: Annotated[str, typer.Argument(help="A folder of photographs, or packed data.")],
    network: Annotated[str, typer.Option(help="A network that takes photographs.")] = "resnet50",
    recipe: Annotated[str, typer.Option(help="Augmentation of imagenet or modern.")] = "imagenet",
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds per stage.")] = 3.0,
    device: Device = "auto",
    threads: Threads = 0,
    precision: Precision = "auto",
    workers: Workers = 2,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Measure the speed of data loading, stage by stage.

    The stages are the disk, decoding, the crop, the rest of the augmentation, the copy to the
    device, the workers together, the network alone, and a training end to end. The last line
    names the bottleneck.

    Example: residual benchmark data photos --network resnet50 --workers 4
    """
    from residual.device import available_cores
    from residual.runs.autotune import candidates
    from residual.tasks.classification.checks import check
    from residual.tasks.classification.throughput import Bench, stages, verdict
    from residual.tasks.classification.train import recipe_for, takes_photographs

    config = compute_config(device, threads, precision)
    with usage_errors():
        # ImageNet's mean, so that none has to be measured first.
        small = replace(
            recipe_for(network, folder, recipe), batch=batch, norm_group=batch, mean="imagenet"
        )
        if not takes_photographs(network):
            raise ValueError(f"{network} takes small pictures, which lie in memory")
    if config.precision == "auto":
        config = next(candidates(config, 0))
    pictures = load_pictures(folder, root, 224, workers, as_files=True)
    check(small, pictures)
    measured = []
    for stage in config.iterate(stages(Bench(pictures, small, config, workers, seconds))):
        measured.append(stage)
        if not as_json:
            print(f"{stage.name:<25} {stage.images_per_second:>10,.1f} images/s  ({stage.by})")
    text = verdict(measured, workers, available_cores())
    values = {"stages": list(map(asdict, measured)), "bottleneck": text}
    print(json_text(values) if as_json else text)
