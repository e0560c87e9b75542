"""Dropout with masks keyed by seed, step, group of images and layer."""

import hashlib

import torch
from torch import Tensor, nn


class KeyedDropout(nn.Dropout):
    """Dropout that, during a training step, draws its mask by a key. Otherwise it is an ordinary
    `nn.Dropout`."""

    layer = 0  # its number in the network
    state: "Dropouts | None" = None  # None: no training step

    def forward(self, x: Tensor) -> Tensor:
        """Activations (N, ...) -> the same shape; each is zero with probability p, and the others
        are scaled by 1 / (1 - p)."""
        if self.state is None or not (self.training and self.p):
            return super().forward(x)
        # In memory order, so that the memory format of x does not change the mask.
        mask = torch.empty(x.shape, device=x.device, dtype=x.dtype)
        for number, part in enumerate(torch.split(mask, self.state.group), self.state.first):
            generator = torch.Generator(x.device).manual_seed(self.state.key(number, self.layer))
            part.bernoulli_(1 - self.p, generator=generator)
        return x * mask / (1 - self.p)


class Dropouts:
    """All dropouts of a network in training.

    The mask of an `nn.Dropout` for a group of images does not depend on how many groups pass at
    once, on how many processes share the batch, or on whether the training was interrupted. Other
    random layers of a user's module draw from torch's generators, which are seeded for each step,
    alike in all processes, so that all take the same branches.
    """

    def __init__(self, net: nn.Module, group: int, seed: int) -> None:
        self.group, self.seed = group, seed  # images per group
        self.step, self.first = 0, 0  # steps so far, and the number of the next group of the batch
        for module in net.modules():
            if type(module) is nn.Dropout:
                module.__class__ = KeyedDropout
        self.modules = [m for m in net.modules() if isinstance(m, KeyedDropout)]

    def key(self, *parts: int) -> int:
        """A seed of this step."""
        text = " ".join(map(str, (self.seed, self.step, *parts)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def begin_step(self, step: int) -> None:
        """Begin the step after `step` steps."""
        self.step, self.first = step, 0
        generators = torch.default_generator, *torch.cuda.default_generators
        self.states = [(generator, generator.get_state()) for generator in generators]
        for generator in generators:
            generator.manual_seed(self.key())
        for layer, module in enumerate(self.modules):
            module.layer, module.state = layer, self

    def end_step(self) -> None:
        """Make the modules ordinary dropouts again."""
        for module in self.modules:
            module.state = None
        for generator, state in self.states:
            generator.set_state(state)
