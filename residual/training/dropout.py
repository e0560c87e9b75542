"""Dropout whose coins are a function of the seed, the step, the group of images and the layer."""

import hashlib

import torch
from torch import Tensor, nn

from residual.models.blocks import replace_modules


class KeyedDropout(nn.Dropout):
    """Dropout that, while a training step is taken, draws its coins by a key. At any other time it
    is an ordinary `nn.Dropout`."""

    layer = 0  # its number in the network
    coins: "Dropouts | None" = None  # None: no step is taken

    def forward(self, x: Tensor) -> Tensor:
        """Activations (N, ...), of which each is zero with the module's probability; the others
        grow so that their mean stays."""
        if self.coins is None or not (self.training and self.p):
            return super().forward(x)
        # In memory order whatever the format of x, so that the format changes no coin.
        kept = torch.empty(x.shape, device=x.device, dtype=x.dtype)
        parts = torch.split(kept, self.coins.group)
        for number, part in enumerate(parts, self.coins.first):
            key = f"{self.coins.seed} {self.coins.step} {number} {self.layer}".encode()
            seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
            generator = torch.Generator(x.device).manual_seed(seed)
            part.bernoulli_(1 - self.p, generator=generator)
        return x * kept / (1 - self.p)


class Dropouts:
    """All dropouts of a network in training.

    What a group of images loses does not depend on how many groups pass at once, nor on how many
    processes share the batch, nor on whether the training was interrupted.
    """

    def __init__(self, net: nn.Module, group: int, seed: int) -> None:
        self.group, self.seed = group, seed  # images of a group
        self.step, self.first = 0, 0  # of the training; and the number of the group that comes next

        def keyed(dropout: nn.Dropout) -> KeyedDropout:
            found = KeyedDropout(dropout.p)
            found.__dict__ |= dropout.__dict__
            return found

        replace_modules(net, nn.Dropout, keyed)
        self.modules = [each for each in net.modules() if isinstance(each, KeyedDropout)]

    def begin(self, step: int) -> None:
        """The step after `step` steps begins."""
        self.step, self.first = step, 0
        for layer, module in enumerate(self.modules):
            module.layer, module.coins = layer, self

    def end(self) -> None:
        """No step is taken any more: the modules are ordinary dropouts."""
        for module in self.modules:
            module.coins = None
