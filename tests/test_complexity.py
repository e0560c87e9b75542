"""Table 1's FLOPs and Table 6's parameters, and exact counts for each of their rows."""

import pytest
import torch
from torch import nn

from residual.models.blocks import Residual, basic
from residual.models.complexity import cost, layers
from residual.models.registry import build, build_meta, compare_layers, model_spec
from residual.reproduction import paper

IMAGENET = {  # network: parameters, multiply-adds in units of 1e9
    "plain18": (11_515_688, 1.795),
    "resnet18-A": (11_515_688, 1.795),
    "resnet18": (11_689_512, 1.814),
    "resnet18-C": (12_043_816, 1.878),
    "plain34": (21_623_848, 3.644),
    "resnet34-A": (21_623_848, 3.644),
    "resnet34": (21_797_672, 3.664),
    "resnet34-C": (22_716_840, 3.831),
    "resnet50": (25_557_032, 3.858),
    "resnet50-v1.5": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.570),
    "resnet101-v1.5": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.282),
    "resnet152-v1.5": (60_192_808, 11.514),
}
CIFAR = {  # network: parameters, multiply-adds in units of 1e6
    20: (269_722, 40.6),
    32: (464_154, 68.9),
    44: (658_586, 97.2),
    56: (853_018, 125.5),
    110: (1_727_962, 252.9),
    1202: (19_421_274, 2829),
}
CIFAR_B = {
    20: 272_474,
    32: 466_906,
    44: 661_338,
    56: 855_770,
    110: 1_730_714,
    1202: 19_424_026,
}


def cost_of(name: str) -> tuple[int, int]:
    return cost(build_meta(name), model_spec(name).input_size)


@pytest.mark.parametrize("name", IMAGENET)
def test_an_imagenet_network_has_these_parameters_and_multiply_adds(name):
    parameters, multiply_adds = cost_of(name)
    assert (parameters, round(multiply_adds / 1e9, 3)) == IMAGENET[name]


@pytest.mark.parametrize("depth", CIFAR)
def test_a_cifar_network_has_these_parameters_and_multiply_adds(depth):
    parameters, multiply_adds = cost_of(f"resnet{depth}")
    digits = 0 if depth == 1202 else 1
    assert (parameters, round(multiply_adds / 1e6, digits)) == CIFAR[depth]


@pytest.mark.parametrize("depth", CIFAR_B)
def test_a_cifar_network_with_projections_has_these_parameters(depth):
    net = build_meta(f"resnet{depth}-B")
    assert sum(parameter.numel() for parameter in net.parameters()) == CIFAR_B[depth]


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_a_plain_cifar_network_costs_what_the_residual_one_costs(depth):
    assert cost_of(f"plain{depth}") == cost_of(f"resnet{depth}")


@pytest.mark.parametrize("depth", paper.TABLE_1)
def test_a_network_costs_what_table_1_prints_within_one_unit_of_the_last_digit(depth):
    _, multiply_adds = cost_of(f"resnet{depth}")
    assert multiply_adds / 1e9 == pytest.approx(paper.TABLE_1[depth] / 1e9, abs=0.1)


@pytest.mark.parametrize("depth", paper.TABLE_6)
def test_a_cifar_network_has_the_parameters_that_table_6_prints(depth):
    _, millions = paper.TABLE_6[depth]
    parameters, _ = cost_of(f"resnet{depth}")
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1 if millions > 1 else 0.01)


def test_a_layer_costs_what_counting_by_hand_gives():
    first, norm, *_, pool, fc = layers(build_meta("resnet20"), 32)
    assert (first.name, first.kind, first.output) == ("conv1.0.0", "3x3 conv", (16, 32, 32))
    assert (first.parameters, first.multiply_adds) == (16 * 27, 16 * 27 * 32 * 32)
    assert (norm.kind, norm.parameters, norm.multiply_adds) == ("batch norm", 32, 0)
    assert (pool.kind, pool.output) == ("average pool", (64, 1, 1))
    assert (fc.kind, fc.parameters, fc.multiply_adds) == ("fc", 650, 640)


def test_layers_come_in_the_order_of_execution_with_sizes_of_table_1():
    rows = {layer.name: layer.output for layer in layers(build_meta("resnet50"), 224)}
    assert rows["conv1.0.0"] == (64, 112, 112)
    assert rows["pool1"] == (64, 56, 56)
    assert rows["conv2_x.2.branch.4.1"] == (256, 56, 56)
    assert rows["conv3_x.3.branch.4.1"] == (512, 28, 28)
    assert rows["conv4_x.5.branch.4.1"] == (1024, 14, 14)
    assert rows["conv5_x.2.branch.4.1"] == (2048, 7, 7)
    names = list(rows)
    assert names.index("conv3_x.0.branch.4.1") < names.index("conv3_x.0.shortcut.0")


@pytest.mark.parametrize("name", ["plain20", "resnet20-B", "resnet18-C"])
def test_shapes_alone_tell_what_a_real_pass_tells(name):
    net, size = build(name).eval(), model_spec(name).input_size
    seen = {}
    for key, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, __, output, key=key: seen.update({key: tuple(output.shape[1:])})
            )
    net(torch.zeros(1, 3, size, size))
    rows = {row.name: row.output for row in layers(build_meta(name), size) if row.parameters}
    assert list(rows.items()) == list(seen.items())


def test_counting_leaves_a_network_as_it_was_and_counts_the_same_again():
    torch.manual_seed(0)
    net = build("resnet20").double().train()
    net.conv1.eval()  # frozen while the rest learns
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    assert layers(net, 32) == layers(net, 32)
    assert cost(net, 32) == cost(build_meta("resnet20"), 32)
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_hooks_and_mode_are_put_back_when_the_pass_fails():
    net = nn.Sequential(Residual(basic(4, 4, 1), None))  # takes four channels, not three
    with pytest.raises(RuntimeError):
        layers(net, 8)
    assert all(module.training and not module._forward_hooks for module in net.modules())


def test_torchvisions_resnet50_has_its_strides_elsewhere_than_the_papers():
    pairs = compare_layers("resnet50")
    convolutions = [p for p in pairs if p.differs and "conv" in p.layer.kind]
    assert [p.other.name for p in convolutions] == [
        f"layer{stage}.0.conv{i}" for stage in (2, 3, 4) for i in (1, 2)
    ]
    assert [(p.other.kind, p.layer.kind) for p in convolutions[:2]] == [
        ("1x1 conv", "1x1 conv, stride 2"),
        ("3x3 conv, stride 2", "3x3 conv"),
    ]


@pytest.mark.parametrize("network", ["resnet18", "resnet34", "resnet50-v1.5"])
def test_torchvisions_other_networks_are_ours_layer_by_layer(network):
    assert not any(pair.differs for pair in compare_layers(network))


@pytest.mark.parametrize("network", ["plain18", "resnet34-C", "resnet20"])
def test_a_network_that_torchvision_does_not_have_is_compared_with_none(network):
    with pytest.raises(ValueError, match=f"torchvision has no network '{network}'"):
        compare_layers(network)
    with pytest.raises(ValueError, match="no comparison with 'timm'"):
        compare_layers("resnet18", "timm")
