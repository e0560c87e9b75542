"""Entry points for `torch.hub.load`: each network by its name, and `create_model`."""

from collections.abc import Callable
from typing import Any

from torch import nn

from residual import create_model, list_models

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors", "sklearn", "scipy"]


def _entry(name: str) -> Callable[..., nn.Module]:
    def make(**options: Any) -> nn.Module:
        return create_model(name, **options)

    make.__doc__ = f"The network {name}; see `create_model` for `pretrained` and `num_classes`."
    return make


globals().update({name: _entry(name) for name in list_models()})
del list_models
