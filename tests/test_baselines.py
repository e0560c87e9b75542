"""Tables 3 to 6: the networks that residual networks are compared with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from residual.cli.models import choices
from residual.models import baselines
from residual.models.baselines.inception import auxiliary, response_norm
from residual.models.baselines.layers import Highway, Maxout, SpatialPyramid, UnscaledDropout
from residual.models.baselines.vgg import WINDOW_STRIDE, Windows, window_starts
from residual.models.complexity import ShapesOnly, cost, layers
from residual.models.registry import (
    BASELINES,
    build,
    build_meta,
    classifier_parameters,
    model_spec,
    num_classes,
    source,
)
from residual.tasks.classification import loop
from residual.tasks.classification.baseline_recipes import RECIPES, recipe_of
from residual.tasks.classification.train import recipe_for

# The reading that we took where sources contradict one another, and its exact count.
PARAMETERS = {
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "googlenet": 6_998_552,  # without the heads, which training alone has
    "bn-inception": 11_194_984,  # projections of 96 channels, no bias
    "prelu-net-A": 178_017_384 + 6_496 + 8_192,  # weights and biases; slopes
    "prelu-net-B": 183_327_080 + 7_776 + 8_192,
    "prelu-net-C": 330_603_368 + 12_384 + 8_192,
    "maxout": 16_247_830,  # five pieces in the fully-connected layer
    "nin": 966_986,
    "dsn": 966_986,  # without the heads
    "fitnet19": 2_742_102,  # five pieces
    "highway19": 2_256_838,  # the released configuration
    "highway32": 1_264_502,  # our reconstruction
}
IN_TRAINING = {"googlenet": 13_378_280, "dsn": 3_547_496, "fitnet19": 2_865_366}
MULTIPLY_ADDS = {  # as printed, and within what
    "vgg16": (15.47e9, 0.005e9),
    "vgg19": (19.63e9, 0.005e9),
    "googlenet": (1.58e9, 0.005e9),
    "prelu-net-A": (1.906e10, 1e7),
    "prelu-net-B": (2.322e10, 1e7),
    "prelu-net-C": (5.346e10, 1e7),
}


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_has_the_parameters_of_its_publication(name):
    net = build_meta(name)
    assert cost(net, model_spec(name).input_size)[0] == PARAMETERS[name]
    in_training = sum(parameter.numel() for parameter in net.parameters())
    assert in_training == IN_TRAINING.get(name, PARAMETERS[name])
    assert num_classes(net) == model_spec(name).classes
    assert num_classes(build_meta(name, 7)) == 7


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_a_baseline_has_the_multiply_adds_of_its_publication(name):
    printed, within = MULTIPLY_ADDS[name]
    assert cost(build_meta(name), 224)[1] == pytest.approx(printed, abs=within)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("vgg16", "pool5", (512, 7, 7)),
        ("googlenet", "inception3b.1x1.0", (128, 28, 28)),
        ("googlenet", "inception5b.pool.1.0", (128, 7, 7)),
        ("bn-inception", "inception3c.pool.1", (320, 14, 14)),
        ("bn-inception", "inception4e.3x3.1.0", (192, 7, 7)),
        ("prelu-net-C", "conv4_6.0", (896, 14, 14)),
        ("maxout", "h0", (192, 33, 33)),
        ("maxout", "pool0", (96, 16, 16)),
        ("maxout", "h1", (384, 15, 15)),
        ("maxout", "pool1", (192, 7, 7)),
        ("maxout", "h2", (384, 9, 9)),
        ("maxout", "pool2", (192, 5, 5)),
        ("nin", "pool_cccp2", (96, 16, 16)),
        ("nin", "cccp6", (10, 8, 8)),
        ("fitnet19", "pool16", (128, 1, 1)),
        ("highway19", "highway17.gate", (128, 8, 8)),
        ("highway32", "conv31.0", (100, 8, 8)),
    ],
)
def test_a_map_has_the_size_that_is_published(name, layer, shape):
    reached = {
        each.name: each.output for each in layers(build_meta(name), model_spec(name).input_size)
    }
    assert reached[layer] == shape


def weighted(name: str) -> int:
    """Layers with weights one after another, as a name counts them; no gate is one, and no head."""
    net = build_meta(name, 10)
    return sum(
        isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not path.endswith("gate")
        for path, module in net.named_modules()
        if not path.startswith("heads.")
    )


@pytest.mark.parametrize("name", ["fitnet19", "highway19", "highway32", "nin", "maxout"])
def test_a_name_counts_the_layers(name):
    assert weighted(name) == BASELINES[name].layers


def test_maxout_is_the_greatest_of_each_few_channels():
    x = torch.randn(2, 12, 3, 3)
    expected = torch.stack([x[:, 3 * c : 3 * c + 3].max(dim=1).values for c in range(4)], dim=1)
    assert torch.equal(Maxout(3)(x), expected)
    assert torch.equal(Maxout(3)(x[:, :, 0, 0]), expected[:, :, 0, 0])


def test_response_normalisation_is_its_definition():
    x = torch.randn(2, 9, 2, 2).double()
    plain = torch.empty_like(x)
    for c in range(9):
        near = x[:, max(0, c - 2) : c + 3]
        plain[:, c] = x[:, c] / (1 + 1e-4 / 5 * near.square().sum(dim=1)) ** 0.75
    assert torch.allclose(response_norm()(x), plain, atol=1e-12)


def test_a_gate_weighs_what_is_new_against_what_comes():
    layer, x = Highway(4, 3).double(), torch.randn(2, 4, 5, 5).double()
    gate = 1 / (1 + torch.exp(-layer.gate(x)))
    assert torch.allclose(layer(x), F.relu(layer.transform(x)) * gate + x * (1 - gate))
    torch.nn.init.constant_(layer.gate.bias, -1e3)
    assert torch.equal(layer(x), x)


def test_gates_begin_nearly_shut():
    gates = [m.gate.bias for m in build("highway32").modules() if isinstance(m, Highway)]
    assert len(gates) == 27 and all((bias == -2).all() for bias in gates)


@pytest.mark.parametrize("side", [7, 13, 14, 20])
def test_a_pyramid_is_the_greatest_of_each_cell(side):
    x = torch.randn(2, 3, side, side)
    cells = []
    for n in (3, 2, 1):
        edges = [(i * side // n, -(-(i + 1) * side // n)) for i in range(n)]
        grid = [[x[:, :, a:b, c:d].amax(dim=(2, 3)) for c, d in edges] for a, b in edges]
        cells.append(torch.stack([torch.stack(row, dim=2) for row in grid], dim=2).flatten(1))
    assert torch.equal(SpatialPyramid((3, 2, 1))(x), torch.cat(cells, dim=1))


def test_what_dropout_omits_is_not_made_up_for_in_maxout():
    part, x = UnscaledDropout(0.2), torch.ones(10_000)
    found = part(x)
    assert set(found.tolist()) <= {0.0, 1.0}
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert torch.equal(part.eval()(x), x)


def test_windows_reach_from_border_to_border_and_are_averaged():
    assert window_starts(14) == [0] and window_starts(7) == [0]
    assert window_starts(30) == [0, WINDOW_STRIDE, 16]
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 14 * 14, 3))
    x = torch.randn(1, 2, 16, 14)
    plain = (head(x[:, :, :14]) + head(x[:, :, 2:])) / 2
    assert torch.allclose(Windows(head)(x), plain, atol=1e-6)


def test_vgg_gives_torchvision_s_logits_with_the_same_weights():
    from torchvision.models import vgg16

    with torch.device("meta"):
        theirs = vgg16(num_classes=10)
    theirs = theirs.to_empty(device="cpu").eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    net = build("vgg16", 10).eval()
    pairs = zip(net.state_dict().values(), theirs.state_dict().values(), strict=True)
    for own, other in pairs:
        own.copy_(other.reshape(own.shape))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(net(images), theirs(images), atol=1e-5)
        assert net(torch.randn(1, 3, 256, 256)).shape == (1, 10)


def test_googlenet_is_its_plain_definition():
    net = build("googlenet", 5).double()
    images = torch.randn(1, 3, 224, 224).double()
    p = dict(net.named_parameters())

    def conv(x, name, **how):
        return F.relu(F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **how))

    def down(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def lrn(x):
        return F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)

    def module(x, name):
        name = f"inception{name}"
        return torch.cat(
            [
                conv(x, f"{name}.1x1.0"),
                conv(conv(x, f"{name}.3x3.0.0"), f"{name}.3x3.1.0", padding=1),
                conv(conv(x, f"{name}.5x5.0.0"), f"{name}.5x5.1.0", padding=2),
                conv(F.max_pool2d(x, 3, 1, 1), f"{name}.pool.1.0"),
            ],
            dim=1,
        )

    x = lrn(down(conv(images, "conv1.0", stride=2, padding=3)))
    x = down(lrn(conv(conv(x, "conv2_reduce.0"), "conv2.0", padding=1)))
    x = down(module(module(x, "3a"), "3b"))
    for name in ("4a", "4b", "4c", "4d", "4e"):
        x = module(x, name)
    x = module(module(down(x), "5a"), "5b").mean(dim=(2, 3))
    plain = F.linear(x, p["fc.weight"], p["fc.bias"])
    with torch.no_grad():
        assert torch.allclose(net.eval()(images), plain, atol=1e-9)
        assert [tuple(each.shape) for each in net.train()(images)] == [(1, 5)] * 3
    assert auxiliary(512, 5)(torch.randn(2, 512, 14, 14)).shape == (2, 5)


LARGE = ("resnet18", "resnet50-v1.5", "resnet34-A", "vgg16", "googlenet", "bn-inception")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [*LARGE, "prelu-net-A"])
def test_a_network_for_photographs_takes_every_size_from_224_up(name, training):
    net = build_meta(name, 7).train(training)
    with torch.no_grad(), ShapesOnly():
        for size in (*range(224, 257), 301, 329, 481, 640):  # all strides divide 32
            scores = net(torch.empty(2, 3, size, size + 1, device="meta"))
            assert (scores[0] if isinstance(scores, tuple) else scores).shape == (2, 7)


@pytest.mark.parametrize("side", [2, 3, 4, 7, 14, 15, 28, 29])
def test_bn_inception_pools_as_caffe_does_and_a_last_odd_place_by_itself(side):
    pool = build("bn-inception", 2).get_submodule("inception3c.pool")
    x = torch.randn(1, 3, side, side).relu()
    expected = torch.stack(
        [
            torch.stack([x[:, :, y : y + 3, z : z + 3].amax((2, 3)) for z in range(0, side, 2)], 2)
            for y in range(0, side, 2)
        ],
        dim=2,
    )
    assert torch.equal(pool(x), expected)
    if side % 2 == 0:
        assert torch.equal(pool(x), F.max_pool2d(x, 3, 2, ceil_mode=True))


def test_googlenet_s_heads_average_larger_maps_to_what_they_take():
    head, x = auxiliary(512, 5).eval(), torch.randn(2, 512, 14, 14)
    plain = F.avg_pool2d(x, 5, 3)
    assert torch.equal(head.get_submodule("pool")(x), plain)  # as published
    assert head(torch.randn(2, 512, 20, 18)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet50", {"fc"}),
        ("vgg19", {"fc8"}),
        ("prelu-net-B", {"windows.head.fc3"}),
        ("nin", {"cccp6"}),
        ("dsn", {"cccp6", *(f"heads.conv{n}.1" for n in (1, 2, 3))}),
        ("googlenet", {"fc", "heads.inception4a.fc2", "heads.inception4d.fc2"}),
    ],
)
def test_the_layers_that_tell_classes_apart_are_known(name, layers):
    assert {key.rpartition(".")[0] for key in classifier_parameters(name)} == layers


@pytest.mark.parametrize("name", ["resnet20", "nin", "prelu-net-A"])
def test_the_last_layer_alone_learns_at_the_full_rate(name):
    net = build_meta(name)
    groups = loop.parameter_groups(
        net, replace(recipe_for(name, "x"), backbone_rate=0.5, bias_rate=1.0)
    )
    full = {id(p) for (share, _), some in groups.items() if share == 1.0 for p in some}
    names = {key for key, p in net.named_parameters() if id(p) in full}
    assert names == classifier_parameters(name)


def test_every_baseline_has_a_recipe_and_every_recipe_a_baseline():
    distilled = {"fitnet-hint", "fitnet-distilled"}  # asked for by name, and with a teacher
    assert {recipe_of(name) for name in BASELINES} == RECIPES.keys() - distilled
    for name in BASELINES:
        assert recipe_for(name, "anything").network == name
    with pytest.raises(ValueError, match="no network 'vgg11'; there are .*vgg16"):
        model_spec("vgg11")


def test_every_choice_of_the_baselines_is_described_with_a_network():
    (folder,) = map(Path, baselines.__path__)
    written = {note for file in folder.glob("*.py") for note in choices(file.read_text())}
    assert written == {note for name in BASELINES for note in choices(source(name))}
