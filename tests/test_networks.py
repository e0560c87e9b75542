"""Table 1 and Section 4.2: the networks and their names."""

import pytest
import torch
from torch import nn

from residual.models.blocks import Residual
from residual.models.registry import build, build_meta, model_spec
from residual.models.resnet import NETWORKS


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in build_meta(name).state_dict().items()}


def projections(name: str) -> int:
    units = [m for m in build_meta(name).modules() if isinstance(m, Residual)]
    return sum(isinstance(unit.shortcut, nn.Sequential) for unit in units)


@pytest.mark.parametrize(
    ("plain", "residual"),
    [("plain18", "resnet18-A"), ("plain34", "resnet34-A")]
    + [(f"plain{depth}", f"resnet{depth}") for depth in (20, 32, 44, 56, 110)],
)
def test_a_plain_net_differs_from_the_residual_one_in_its_shortcuts_only(plain, residual):
    assert shapes(plain) == shapes(residual)
    for unit in (m for m in build_meta(plain).modules() if isinstance(m, Residual)):
        assert unit.shortcut is None
    for unit in (m for m in build_meta(residual).modules() if isinstance(m, Residual)):
        assert unit.shortcut is not None


def test_plain_and_residual_nets_start_from_the_same_weights_under_one_seed():
    torch.manual_seed(0)
    plain = build("plain20").state_dict()
    torch.manual_seed(0)
    residual = build("resnet20").state_dict()
    assert all(torch.equal(plain[key], residual[key]) for key in residual)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("plain34", 0), ("resnet34-A", 0), ("resnet34", 3), ("resnet34-C", 16)),
        *(("resnet50", 4), ("resnet101", 4), ("resnet152", 4), ("resnet20", 0), ("resnet20-B", 2)),
    ],
)
def test_a_network_has_as_many_projections_as_its_option_asks_for(name, count):
    assert projections(name) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_every_listed_network_has_the_layers_that_its_name_says(name):
    net = build_meta(name)
    inside = [m for key, m in net.named_modules() if ".shortcut" not in key]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in inside) == model_spec(name).depth
    assert model_spec(name).name == name


def test_the_parts_carry_the_names_of_table_1():
    parts = [name for name, _ in build_meta("resnet50").named_children()]
    assert parts == [
        *("conv1", "pool1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "pool5", "flat", "fc"),
    ]


def test_v1_and_its_later_variant_have_equal_keys_and_shapes_and_other_answers():
    assert shapes("resnet50") == shapes("resnet50-v1.5")
    torch.manual_seed(0)
    first, later = build("resnet50").eval(), build("resnet50-v1.5").eval()
    later.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(first(x), later(x))


def test_the_usual_letter_may_be_left_out():
    assert model_spec("resnet34-B") == model_spec("resnet34")
    assert model_spec("resnet20-A") == model_spec("resnet20")
    assert model_spec("resnet34-A") != model_spec("resnet34")


def test_depths_that_both_families_have_are_told_apart():
    assert model_spec("resnet50").family == "imagenet"
    assert model_spec("cifar-resnet50").family == "cifar"
    assert model_spec("cifar-resnet50").name == "cifar-resnet50"
    assert model_spec("cifar-resnet20") == model_spec("resnet20")
    assert shapes("cifar-resnet50")["fc.weight"] == (10, 64)


def test_any_depth_of_6n_plus_2_is_a_cifar_network():
    assert shapes("resnet26")["fc.weight"] == (10, 64)
    assert model_spec("plain8").depth == 8


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet21", "6n\\+2 layers"),
        ("resnet2", "6n\\+2 layers"),
        ("cifar-resnet34", "6n\\+2 layers"),
        ("plain20-A", "a plain network has no shortcut"),
        ("resnet34-D", "there are plain18"),
        ("resnet34-v1.5", "only resnet50, 101 and 152"),
        ("cifar-resnet50-v1.5", "only resnet50, 101 and 152"),
        ("ResNet50", "there are plain18"),
        ("", "there are plain18"),
    ],
)
def test_a_name_that_the_paper_does_not_have_is_refused_in_a_sentence(name, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        build(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet50", 64), ("resnet20", 32)])
def test_a_network_scores_as_many_classes_as_it_is_asked_for(name, size):
    net = build(name, classes=7).eval()
    assert net(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_convolutions_start_with_the_deviation_of_he_and_normalization_as_the_identity():
    torch.manual_seed(0)
    for module in build("resnet18").modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / module.weight[0].numel()) ** 0.5  # fan-in
            off = 4 / (2 * module.weight.numel()) ** 0.5  # four deviations of a deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=off)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
