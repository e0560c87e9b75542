"""Numbers that are not finite (NaN or infinite): found, named and refused."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

WORDS = "numbers that are not finite (NaN or infinite)"


class NotFinite(ValueError):
    """A number is NaN or infinite where none may be."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite; whole numbers are."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())  # it passes NaN on


def check_finite(tensors: Mapping[str, Tensor], whose: str) -> None:
    """Raises NotFinite, naming the first tensor that holds a number that is not finite."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise NotFinite(f"{whose}: {name.removeprefix('net.')} holds {WORDS}")


def refuse_answers(network: str, net: nn.Module, look: Callable[[], object]) -> None:
    """Raises NotFinite for a network that has answered with such numbers: with the name of the
    first layer whose output is not finite when the network looks once more."""
    first: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            if not first and not all(is_finite(x) for x in outputs if isinstance(x, Tensor)):
                first.append(name)

        return note

    handles = [m.register_forward_hook(hook(name)) for name, m in net.named_modules() if name]
    try:
        look()
    finally:
        for handle in handles:
            handle.remove()
    where = f", first after the layer {first[0]}" if first else ""
    raise NotFinite(f"{network} answers with {WORDS}{where}")
