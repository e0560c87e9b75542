"""True batch-norm statistics for a network that is trained, as the authors' release has them."""

from dataclasses import replace
from pathlib import Path

import torch

from residual.data.datasets import Data, apply_split
from residual.data.loader import LoaderOptions
from residual.device import ComputeConfig
from residual.distributed import current_world
from residual.runs.load import Trained
from residual.tasks.classification import loader
from residual.tasks.classification.checks import check
from residual.tasks.classification.train import recipe_for
from residual.training import batchnorm, checkpoint
from residual.training.checkpoint import with_preprocessing
from residual.training.recipe import to_json


def measured(
    trained: Trained, data: Data, images: int, how: ComputeConfig, workers: int, out: Path
) -> int:
    """Write the weights with statistics that are averages over so many training images, or all that
    there are, drawn and altered as the recipe has it -> how many were looked at. Images that the
    recipe's split holds out are none of them.

    Raises ValueError where the data is none that the network can be trained on.
    """
    recipe = trained.recipe or recipe_for(trained.network, data.name)
    check(replace(recipe, frozen=False), data)
    data = apply_split(data, recipe.split)
    world, device = current_world(), torch.device(how.device)
    net = how.prepare(trained.net)
    gathering = batchnorm.GhostBatchNorms(net, recipe.norm_group)
    batches = loader.batches(
        recipe, data, trained.preprocessing, LoaderOptions(device, workers, world)
    )
    steps = -(-min(images, len(data.train)) // recipe.batch)
    with how.activate():
        batchnorm.measure(net, gathering, batches, steps, how.autocast, world)
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    header = {
        "network": trained.network,
        "classes": list(trained.classes) if trained.classes else None,
        "recipe": to_json(recipe) if trained.recipe else None,
        "step": trained.step,
        "true_statistics": steps * recipe.batch,
    }
    content = with_preprocessing(tensors, header, trained.preprocessing)
    world.on_first(lambda: checkpoint.save(out, *content))
    return steps * recipe.batch
