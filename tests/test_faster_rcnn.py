"""Faster R-CNN: its layers, its four losses, its steps, and what is refused."""

import itertools
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from residual.device import ComputeConfig
from residual.models.registry import build as build_network
from residual.tasks.detection import loop
from residual.tasks.detection.boxes import encode, grid_anchors
from residual.tasks.detection.faster_rcnn import FasterRCNN, backbone_weights, build, fuse_batchnorm
from residual.tasks.detection.losses import BOX_STD, Sample, sample_matches
from residual.tasks.detection.recipe import SCRATCH, VOC07, DetectionRecipe
from residual.tasks.detection.train import check

SMALL = replace(
    SCRATCH,
    network="resnet18",
    shorter=64,
    longest=120,
    bins=7,
    scales=(16, 32),
    smallest=4,
    candidates=200,
    proposals=60,
    regions=16,
    anchors=32,
    batch=2,
    steps=4,
    warmup=(0, 0.01),
    lr=0.01,
    drops=(),
)
CPU = torch.device("cpu")


@cache
def template(recipe: DetectionRecipe) -> FasterRCNN:
    torch.manual_seed(0)
    net = build(recipe, 2)
    if recipe.network == "vgg16":  # of smaller regions, for 100 million weights less
        net.head.fc6[0] = nn.Conv2d(512, 4096, recipe.bins)
    return net


def made(recipe: DetectionRecipe = SMALL) -> FasterRCNN:
    return deepcopy(template(recipe))


def picture(seed: int = 0, height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) - 0.5


def sample(seed: int = 0, place: int = 0, **more) -> Sample:
    boxes = torch.tensor([[5.0, 6, 30, 40], [40, 10, 80, 50], [42, 12, 60, 30]])
    return Sample(picture(seed), boxes, torch.tensor([0, 1, 1]), (0, seed), place, **more)


def losses(net: FasterRCNN, samples: list[Sample], **more) -> Tensor:
    return net(torch.stack([one.image for one in samples]), samples, **more)


def convolutions(module: nn.Module) -> int:
    return sum(isinstance(each, nn.Conv2d) for each in module.modules())


def test_91_layers_of_resnet_101_are_shared_and_conv5_x_is_passed_by_each_region():
    net = build(replace(VOC07, start="x"), 20)
    projections = 3  # shortcuts are no layers of the 101
    assert convolutions(net.shared) - projections == 91
    assert [name for name, _ in net.shared.named_children()][-1] == "conv4_x"
    assert [name for name, _ in net.head.named_children()] == ["conv5_x", "pool5", "flat"]
    assert net.score.out_features == 21 and net.shift.out_features == 80
    assert net.score.in_features == 2048 and net.bins == 14


def test_vgg_16_shares_13_layers_and_fc6_and_fc7_are_passed_by_each_region():
    net = build(replace(SMALL, network="vgg16", norm="frozen", bins=0), 20)
    assert convolutions(net.shared) == 13 and net.bins == 7
    assert [name for name, _ in net.head.named_children()] == [
        "fc6",
        "drop6",
        "fc7",
        "drop7",
        "flat",
    ]
    regions = torch.tensor([[0.0, 0, 40, 40]])
    assert net.region_features(net.features(picture()[None]), regions, (64, 96)).shape == (1, 4096)


@pytest.mark.parametrize("network", ["resnet18", "vgg16"])
@torch.no_grad()
def test_shared_layers_have_a_stride_of_16_pixels(network):
    net = made(replace(SMALL, network=network, norm="group", bins=2))
    for size in ((64, 96), (63, 97), (65, 80)):
        sides = net.features(torch.rand(1, 3, *size)).shape[2:]
        assert all(a // 16 <= n <= a // 16 + 1 for a, n in zip(size, sides, strict=True))


def test_a_detector_begins_with_all_weights_of_a_network_but_its_last_layer():
    net, other = made(replace(SMALL, norm="frozen", fixed=2, start="x")), build_network("resnet18")
    found = backbone_weights(other.state_dict(), net)
    assert len(found) == len(other.state_dict()) - 2
    net.load_state_dict(found, strict=False)
    x = picture()[None]
    with torch.no_grad():
        ours = net.eval().head[0](net.features(x))
        theirs = other.eval()[:6](x)
    assert torch.equal(ours, theirs)


def test_frozen_batch_normalization_and_fixed_stages_do_not_learn():
    net = made(replace(SMALL, norm="frozen", fixed=2, start="x")).train()
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms and not any(each.training for each in norms)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    learner = loop.start(net, net.recipe)
    next(loop.train(learner, itertools.repeat([sample()]), net.recipe))
    after = net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    still = ("shared.conv1", "shared.conv2_x")
    assert not any(name.startswith(still) for name in changed)
    of_norms = {
        f"{path}.{name}"
        for path, m in net.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        for name in m.state_dict()
    }
    learned = {name for name in before if not name.startswith(still)} - of_norms
    assert changed == learned


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "align"},
        {"context": True},
        {"norm": "frozen"},
        {"network": "vgg16", "bins": 2},
    ],
)
def test_gradients_flow_to_every_parameter_and_a_step_lowers_the_loss(changes):
    recipe = replace(SMALL, **changes)
    net = made(recipe)
    nn.init.normal_(net.shift.weight, std=0.05)
    net.eval()
    regions = torch.tensor([[4.0, 6, 30, 40], [0, 0, 90, 60], [50, 8, 70, 40], [38, 8, 78, 52]])
    first = losses(net, [sample(regions=regions)])
    first.sum().backward()
    silent = {n for n, p in net.named_parameters() if p.requires_grad and not p.grad.abs().sum()}
    assert not silent and (first > 0).all()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad
    assert losses(net, [sample(regions=regions)]).sum() < first.sum()


def test_a_loss_that_is_not_asked_for_is_none():
    found = losses(made(), [sample()], losses=("class_loss", "box_loss"))
    assert found[:2].tolist() == [0, 0] and (found[2:] > 0).all()
    assert losses(made(), [sample()], losses=("objectness_loss",))[2:].tolist() == [0, 0]


def plain_losses(net: FasterRCNN, one: Sample, regions: Tensor) -> list[float]:
    """The four losses of one picture, anchor by anchor and region by region."""
    recipe = net.recipe
    maps = net.features(one.image[None])
    scores, shifts = (each[0] for each in net.proposing(maps))
    own = grid_anchors(maps, recipe.scales).double()
    height, width = one.image.shape[1:]
    within = [
        i
        for i, (left, top, right, bottom) in enumerate(own.tolist())
        if left >= 0 and top >= 0 and right <= width and bottom <= height
    ]
    shared = box_iou(own[within], one.boxes)
    kinds = []
    for row in shared:
        best = any(row[j] == shared[:, j].max() for j in range(len(one.boxes)))
        most = float(row.max())
        kinds.append(int(row.argmax()) if most >= 0.7 or best else -1 if most < 0.3 else -2)
    taken = sample_matches(
        torch.tensor(kinds), recipe.anchors, recipe.anchors // 2, recipe.seed, *one.key, 0
    )
    sums = [0.0, 0.0, 0.0, 0.0]
    for k in taken.tolist():
        i, kind = within[k], kinds[k]
        sums[0] += -float(scores[i].log_softmax(0)[int(kind >= 0)]) / len(taken)
        if kind >= 0:
            apart = (shifts[i] - encode(one.boxes[kind : kind + 1], own[i : i + 1])[0]).abs()
            each = [4.5 * x**2 if x < 1 / 9 else x - 0.5 / 9 for x in apart.tolist()]
            sums[1] += sum(each) / len(taken)
    shared, kinds = box_iou(regions, one.boxes), []
    for row in shared:
        kinds.append(int(row.argmax()) if row.max() >= 0.5 else -1)
    taken = sample_matches(
        torch.tensor(kinds), recipe.regions, recipe.regions // 4, recipe.seed, *one.key, 1
    )
    for k in taken.tolist():
        box = regions[k : k + 1]
        vector = net.region_features(maps, box, tuple(one.image.shape[1:]))
        scores_, shifts_ = net.predict_regions(vector)
        label = one.labels[kinds[k]] + 1 if kinds[k] >= 0 else 0
        sums[2] += -float(scores_[0].log_softmax(0)[label]) / len(taken)
        if label:
            wanted = encode(one.boxes[kinds[k] : kinds[k] + 1], box)[0] / box.new_tensor(BOX_STD)
            apart = (shifts_[0, label - 1] - wanted).abs().tolist()
            sums[3] += sum(0.5 * x**2 if x < 1 else x - 0.5 for x in apart) / len(taken)
    return sums


def test_the_four_losses_agree_with_their_definition_to_1e_9():
    net = made().double().eval()
    nn.init.normal_(net.shift.weight, std=0.1)
    one = sample()
    regions = torch.cat([one.boxes + 2, one.boxes * 0.8, torch.tensor([[0.0, 0, 90, 60]])]).double()
    one = replace(one, image=one.image.double(), boxes=one.boxes.double(), regions=regions)
    expected = plain_losses(net, one, regions)
    assert min(expected) > 0
    assert losses(net, [one]).tolist() == pytest.approx(expected, abs=1e-9)


def test_pictures_of_one_size_give_the_losses_that_each_gives_alone():
    net = made().double().eval()
    ones = [replace(sample(s), image=picture(s).double()) for s in (0, 1)]
    ones = [replace(each, boxes=each.boxes.double()) for each in ones]
    together = losses(net, ones)
    apart = losses(net, ones[:1]) + losses(net, ones[1:])
    assert torch.allclose(together, apart, atol=1e-9)


def test_a_picture_without_objects_teaches_background():
    empty = replace(sample(), boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    found = losses(made(), [empty])
    assert found[0] > 0 and found[1] == 0 and found[2] > 0 and found[3] == 0


def test_a_picture_of_which_no_region_teaches_has_gradients_all_the_same():
    net = made(replace(SMALL, background=0.1))
    empty = replace(sample(), boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    found = losses(net, [empty])
    found.sum().backward()
    assert found[2:].tolist() == [0, 0]
    assert all(p.grad is not None for p in net.parameters())
    assert not any(p.grad.any() for p in net.head.parameters())


def test_four_steps_equal_a_plain_loop_to_1e_9():
    recipe = replace(SMALL, steps=4, regions=4, bins=3, drops=(2,))
    batches = [
        [
            replace(sample(2 * s + i, i), image=picture(2 * s + i, 48, 80 - 16 * i).double())
            for i in range(2)
        ]
        for s in range(4)
    ]
    batches = [[replace(each, boxes=each.boxes.double()) for each in own] for own in batches]
    ours, plain = made(recipe).double(), made(recipe).double()
    for _ in loop.train(loop.start(ours, recipe), iter(batches), recipe):
        pass
    weights = [p for p in plain.parameters() if p.ndim > 1]
    biases = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 1e-4}, {"params": biases, "weight_decay": 0}],
        lr=0.01,
        momentum=0.9,
    )
    for step, (one, other) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 if step < 2 else 0.001
        loss = (losses(plain, [one]).sum() + losses(plain, [other]).sum()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-9


def test_a_convolution_and_its_fixed_map_in_one_give_the_same_numbers_and_gradients():
    recipe = replace(SMALL, norm="frozen")
    plain, one = made(recipe).double().eval(), made(recipe).double().eval()
    for each in (plain, one):
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d):
                draw = torch.Generator().manual_seed(module.num_features)
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.data.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
    fuse_batchnorm(one)
    x = picture()[None].double()
    assert torch.allclose(plain.features(x), one.features(x), rtol=1e-9)
    for each in (plain, one):
        each.head(each.features(x)).square().mean().backward()
    for a, b in zip(plain.parameters(), one.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-7, atol=1e-12)


def test_roi_pooling_is_the_greatest_value_of_each_published_bin():
    net = made(replace(SMALL, bins=2))
    maps = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    regions = torch.tensor([[16.0, 16, 64, 80], [0, 0, 96, 80]])  # pixels 16 to 63, 16 to 79
    found = net.pool(maps, regions)
    # Caffe: from round(16/16) to round(63/16) = 4, both inside: 4 columns; rows 1 to 5, 5 of them.
    rows, columns = [(1, 4), (3, 5)], [(1, 3), (3, 5)]
    for i, (a, b) in enumerate(rows):
        for j, (c, d) in enumerate(columns):
            assert torch.equal(found[0, :, i, j], maps[0, :, a:b, c:d].amax(dim=(1, 2)))


def test_group_normalization_replaces_every_batch_normalization():
    net = made()
    assert not any(isinstance(each, nn.BatchNorm2d) for each in net.modules())
    groups = [each for each in net.modules() if isinstance(each, nn.GroupNorm)]
    assert len(groups) == 20 and {each.num_groups for each in groups} == {32}


def test_no_detector_is_made_of_a_network_for_small_pictures():
    for network in ("resnet20", "nin", "googlenet"):
        with pytest.raises(
            ValueError, match=f"no detector is made of {network}; it takes resnet18"
        ):
            build(replace(SMALL, network=network), 2)


def test_what_has_no_deterministic_kernel_is_refused_where_it_would_be_needed():
    on_gpu = ComputeConfig("cuda", deterministic=True)
    with pytest.raises(ValueError, match="RoI pooling has no deterministic kernel on cuda"):
        check(SMALL, on_gpu)
    check(replace(SMALL, pooling="align"), on_gpu)
    check(SMALL, ComputeConfig("cpu", deterministic=True))
