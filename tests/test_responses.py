"""Fig. 7: responses of the layers."""

import pytest
import torch
from torch import Tensor, nn

from residual.analysis.responses import draw_responses, moments, responses
from residual.models.registry import build

Batches = list[tuple[Tensor, Tensor]]


def images(n: int, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def batches(n: int, batch: int, size: int = 32) -> Batches:
    parts = images(n, size).split(batch)
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in parts]


def lively(name: str) -> nn.Module:
    """A network whose statistics, scales and offsets are far from where they start."""
    torch.manual_seed(0)
    net = build(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    return net


def slow_truth(net: nn.Module, data: Batches) -> list[float]:
    """Every output of every 3x3 layer of a network of basic blocks, kept to the end."""
    kept: dict[str, list[Tensor]] = {}
    for name, module in net.named_modules():
        if name.endswith(("conv1.0.1", "branch.0.1", "branch.2.1")):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: kept.setdefault(name, []).append(
                    output.double().clone()
                )
            )
    net.eval()
    with torch.no_grad():
        for inputs, _ in data:
            net(inputs)
    return [float(torch.cat(outputs).std(correction=0)) for outputs in kept.values()]


@pytest.mark.parametrize("name", ["plain20", "resnet20", "resnet20-B"])
def test_responses_are_the_deviations_of_all_outputs_of_the_3x3_layers(name):
    data = batches(7, 3)  # batches of unequal size
    measured = responses(lively(name), data)
    assert len(measured) == 19
    assert measured == pytest.approx(slow_truth(lively(name), data), rel=1e-12)


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_a_cifar_network_of_6n_plus_2_layers_has_6n_plus_1_responses(depth):
    assert len(responses(build(f"resnet{depth}"), batches(1, 1))) == depth - 1


def test_only_the_3x3_layers_of_an_imagenet_network_count():
    assert len(responses(build("resnet50"), batches(1, 1, size=64))) == 16  # one in each block
    assert len(responses(build("resnet18-C"), batches(1, 1, size=64))) == 16  # two in each of eight


def test_the_first_convolution_responds_first():
    net = lively("resnet20")
    net.eval()
    data = batches(4, 4)
    with torch.no_grad():
        first = net.get_submodule("conv1.0")(data[0][0])
    assert responses(net, data)[0] == pytest.approx(float(first.double().std(correction=0)))


def test_responses_do_not_depend_on_the_batches():
    net = lively("plain20")
    assert responses(net, batches(6, 6)) == pytest.approx(responses(net, batches(6, 4)), rel=1e-5)


def test_responses_are_taken_before_a_relu_that_works_in_place():
    usual, in_place = lively("resnet20"), lively("resnet20")
    for module in in_place.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert responses(in_place, batches(3, 3)) == responses(usual, batches(3, 3))


def test_measuring_leaves_no_trace_and_can_be_repeated():
    net = lively("resnet20").train()
    net.get_submodule("conv2_x").eval()  # a part that was frozen stays frozen
    modes = [module.training for module in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = responses(net, batches(4, 2))
    assert responses(net, batches(4, 2)) == first
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert all(p.requires_grad and not p.is_inference() for p in net.parameters())


def test_the_answers_are_the_same_before_and_after():
    net = lively("resnet20").eval()
    before = net(images(2))
    responses(net, batches(4, 2))
    assert torch.equal(net(images(2)), before)


def test_hooks_are_gone_also_after_a_failure():
    net = lively("resnet20").train()
    with pytest.raises(RuntimeError):
        responses(net, [(torch.zeros(1, 5, 32, 32), torch.zeros(1))])
    assert net.training and not any(module._forward_hooks for module in net.modules())


def test_without_an_image_or_a_3x3_layer_there_is_no_response():
    with pytest.raises(ValueError, match="at least one batch"):
        responses(build("resnet20"), [])
    with pytest.raises(ValueError, match="no 3x3 convolution"):
        responses(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), batches(1, 1))


def test_moments_add_without_losing_a_small_deviation_beside_a_large_mean():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1)).double() + 1e8
    parts = [moments(part) for part in values.split(300)]
    merged = parts[0] + parts[1] + parts[2] + parts[3]
    assert merged.count == 1000
    assert merged.std == pytest.approx(float(values.std(correction=0)), rel=1e-6)


def test_figure_7_shows_each_network_in_both_orders():
    values = {"plain20": [1.0, 3.0, 2.0], "resnet20": [1.0, 0.5, 2.0], "resnet56": [0.2, 0.4, 0.3]}
    original, ordered = draw_responses(values).axes
    assert list(original.lines[0].get_ydata()) == [1, 3, 2]
    assert list(ordered.lines[0].get_ydata()) == [3, 2, 1]
    assert [line.get_linestyle() for line in original.lines] == ["--", "-", "-"]
    plain, same_depth, deeper = (line.get_color() for line in original.lines)
    assert plain == same_depth != deeper
