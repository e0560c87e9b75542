"""Section 3: the unit, its branches, its shortcuts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from residual.models.blocks import Pad, Residual, basic, bottleneck, conv_bn, shortcut


def strides(branch: nn.Module) -> list[int]:
    return [m.stride[0] for m in branch.modules() if isinstance(m, nn.Conv2d)]


def kernels(branch: nn.Module) -> list[int]:
    return [m.kernel_size[0] for m in branch.modules() if isinstance(m, nn.Conv2d)]


def test_a_unit_adds_its_input_before_the_last_relu():
    torch.manual_seed(0)
    unit = Residual(basic(4, 4, 1), nn.Identity()).eval()
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(unit(x), F.relu(unit.branch(x) + x))


def test_without_a_shortcut_a_unit_is_a_plain_stack():
    torch.manual_seed(0)
    unit = Residual(basic(4, 8, 2), None).eval()
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(unit(x), F.relu(unit.branch(x)))


def test_option_a_takes_every_second_pixel_and_puts_zeros_behind():
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    y = Pad(16, stride=2)(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()
    assert not list(Pad(16, stride=2).parameters())


def test_every_convolution_is_normalised_and_has_no_bias():
    conv, norm = conv_bn(3, 8, 3)
    assert isinstance(norm, nn.BatchNorm2d)
    assert conv.bias is None


def test_a_basic_branch_has_two_3x3_layers_and_the_first_has_the_stride():
    assert kernels(basic(64, 128, 2)) == [3, 3]
    assert strides(basic(64, 128, 2)) == [2, 1]


def test_a_bottleneck_narrows_works_and_widens():
    branch = bottleneck(256, 256, 1)
    widths = [m.out_channels for m in branch.modules() if isinstance(m, nn.Conv2d)]
    assert kernels(branch) == [1, 3, 1]
    assert widths == [64, 64, 256]


def test_the_papers_bottleneck_has_its_stride_in_the_first_1x1_and_the_later_one_in_the_3x3():
    assert strides(bottleneck(256, 512, 2)) == [2, 1, 1]
    assert strides(bottleneck(256, 512, 2, v15=True)) == [1, 2, 1]


@pytest.mark.parametrize(
    ("option", "same", "different"),
    [
        ("A", nn.Identity, Pad),
        ("B", nn.Identity, nn.Sequential),
        ("C", nn.Sequential, nn.Sequential),
    ],
)
def test_the_options_of_table_3_are_identities_or_projections(option, same, different):
    assert isinstance(shortcut(option, 64, 64, 1), same)
    assert isinstance(shortcut(option, 64, 128, 2), different)


def test_a_plain_net_has_no_shortcut_and_there_is_no_option_d():
    assert shortcut("plain", 64, 64, 1) is None
    with pytest.raises(ValueError, match="plain, A, B and C"):
        shortcut("D", 64, 64, 1)
