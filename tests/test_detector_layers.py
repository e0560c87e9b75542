"""What single layers of detection/detector.py claim, and what is refused."""

from dataclasses import replace

import pytest
import torch
from test_detector import SMALL, made, picture
from torch import nn

from residual.device import ComputeConfig
from residual.tasks.detection.faster_rcnn import build, fuse_batchnorm
from residual.tasks.detection.train import check


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
