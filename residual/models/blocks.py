"""Section 3: the residual block, its branches and its shortcuts (Eq. 1 and 2, Fig. 5, Table 3)."""

from collections.abc import Callable
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Residual(nn.Module):
    """y = relu(F(x) + shortcut(x)), Eq. 1 and 2. Without a shortcut, a plain stack of layers.

    The branch's output is overwritten: its last layer must not need it for its gradient. Batch
    normalization does not.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.shortcut is not None:
            y += self.shortcut(x)
        return F.relu(y, inplace=True)


class Pad(nn.Module):
    """Shortcut A: the identity, subsampled, with zeros in the new channels. No parameters."""

    # Choice: the zero channels follow the real ones, as in the Torch release (fb.resnet.torch); the
    # paper does not say where. The function class is the same.
    def __init__(self, n_new: int, stride: int) -> None:
        super().__init__()
        self.n_new, self.stride = n_new, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.n_new))


def conv_bn(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution, then batch normalization (Sec. 3.4)."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)
    # Choice: running statistics have a momentum of 0.1 and the variance an epsilon of 1e-5, the
    # defaults of PyTorch; the paper gives neither.
    return nn.Sequential(conv, nn.BatchNorm2d(n_out))


def basic(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Two 3x3 layers (Fig. 5, left)."""
    return nn.Sequential(
        conv_bn(n_in, n_out, 3, stride), nn.ReLU(inplace=True), conv_bn(n_out, n_out, 3)
    )


def bottleneck(n_in: int, n_out: int, stride: int, v15: bool = False) -> nn.Sequential:
    """1x1 to a quarter of the channels, 3x3, 1x1 to all of them (Fig. 5, right). The first 1x1 has
    the stride; in the later variant "v1.5" of most public weights, the 3x3 has it."""
    n_mid, (first, second) = n_out // 4, (1, stride) if v15 else (stride, 1)
    return nn.Sequential(
        conv_bn(n_in, n_mid, 1, first),
        nn.ReLU(inplace=True),
        conv_bn(n_mid, n_mid, 3, second),
        nn.ReLU(inplace=True),
        conv_bn(n_mid, n_out, 1),
    )


def shortcut(option: str, n_in: int, n_out: int, stride: int) -> nn.Module | None:
    """Shortcut A, B or C of Table 3; None for a plain network."""
    same_shape = n_in == n_out and stride == 1
    match option:
        case "plain":
            return None
        case "A":
            return nn.Identity() if same_shape else Pad(n_out - n_in, stride)
        case "B":
            return nn.Identity() if same_shape else conv_bn(n_in, n_out, 1, stride)
        case "C":
            return conv_bn(n_in, n_out, 1, stride)
    raise ValueError(f"no shortcut option {option!r}; the paper has plain, A, B and C")


def replace_modules(
    net: nn.Module, kind: type[Module], replacement: Callable[[Module], nn.Module]
) -> None:
    """Replace each module inside a network that is of exactly this class, in place."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is kind:
                setattr(parent, name, replacement(child))
