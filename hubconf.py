"""Entry points for `torch.hub.load`: each network by its name, and `create_model`."""

from functools import partial as _partial

from residual import create_model
from residual import list_models as _list_models

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors", "sklearn", "scipy"]


def _entry(name: str) -> object:
    make = _partial(create_model, name)
    make.__doc__ = f"The network {name}; see `create_model` for `pretrained` and `num_classes`."
    return make


globals().update({name: _entry(name) for name in _list_models()})
