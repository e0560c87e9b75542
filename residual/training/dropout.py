"""Dropout whose coins are a function of the seed, the step, the group of images and the layer."""

import hashlib
from functools import partial

import torch
from torch import Tensor, nn


class Dropouts:
    """The dropouts of a network in training.

    What a group of images loses does not depend on how many groups pass at once, nor on how many
    processes share the batch, nor on whether the training was interrupted.
    """

    def __init__(self, net: nn.Module, group: int, seed: int) -> None:
        self.group, self.seed = group, seed  # images of a group
        self.step, self.first = 0, 0  # of the training; and the number of the group that comes next
        modules = [each for each in net.modules() if isinstance(each, nn.Dropout)]
        for layer, each in enumerate(modules):
            each.forward = partial(self.dropped, each, layer)  # type: ignore[method-assign]

    def dropped(self, module: nn.Dropout, layer: int, x: Tensor) -> Tensor:
        """Activations (N, ...), of which each is nothing with the module's probability, and the
        others are so much greater that their mean stays."""
        if not module.training or not module.p:
            return x
        # In memory order whatever the format of x, so that the format changes no coin.
        kept = torch.empty(x.shape, device=x.device, dtype=x.dtype)
        for number, part in enumerate(torch.split(kept, self.group), self.first):
            key = f"{self.seed} {self.step} {number} {layer}".encode()
            seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
            coins = torch.Generator(x.device).manual_seed(seed)
            part.bernoulli_(1 - module.p, generator=coins)
        return x * kept / (1 - module.p)
