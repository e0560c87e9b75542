"""The command `benchmark data`."""

import json
import os
from dataclasses import asdict, replace
from typing import Annotated

import typer

from residual.cli.options import (
    CACHE,
    Device,
    Json,
    Precision,
    Root,
    Threads,
    Workers,
    loaded,
    setting_of,
    wrong_usage,
)


def data(
    folder: Annotated[str, typer.Argument(help="A folder of photographs, or packed data.")],
    network: Annotated[str, typer.Option(help="A network that takes photographs.")] = "resnet50",
    recipe: Annotated[str, typer.Option(help="Whose augmentation: imagenet, modern.")] = "imagenet",
    batch: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.01, help="For each stage.")] = 3.0,
    device: Device = "auto",
    threads: Threads = 0,
    precision: Precision = "auto",
    workers: Workers = 2,
    root: Root = CACHE,
    as_json: Json = False,
) -> None:
    """Measure how fast photographs come to a network, stage by stage.

    The stages are the disk, decoding, the crop, the rest of the augmentation, the way to the
    device, batches as they come from the workers, the network alone, and a training end to end.
    The last line names the bottleneck.

    Example: residual benchmark data photos --network resnet50 --workers 4
    """
    from residual.runs.measuring import Bench, stages, verdict
    from residual.runs.training import check, recipe_for, takes_photographs
    from residual.runs.trial import candidates

    how = setting_of(device, threads, precision, False)
    with wrong_usage():
        # ImageNet's mean, so that none has to be measured first.
        small = replace(
            recipe_for(network, folder, recipe), batch=batch, norm_group=batch, mean="imagenet"
        )
        if not takes_photographs(network):
            raise ValueError(f"{network} takes small pictures, which lie in memory")
    if how.precision == "auto":
        how = next(candidates(how, 0))
    pictures = loaded(folder, root, 224, workers, whole=True)
    check(small, pictures)
    how.apply()
    found = []
    for stage in stages(Bench(pictures, small, how, workers, seconds)):
        found.append(stage)
        if not as_json:
            print(f"{stage.name:<25} {stage.images_per_second:>10,.1f} images/s  ({stage.by})")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    told = verdict(found, workers, cores)
    print(json.dumps({"stages": list(map(asdict, found)), "bottleneck": told}) if as_json else told)
