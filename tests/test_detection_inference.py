"""Detections against their definition: ensembles, box refinement, several scales."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from test_faster_rcnn import SMALL, made, picture
from torch import Tensor, nn
from torchvision.ops import box_iou

from residual.tasks.detection.faster_rcnn import FasterRCNN, postprocess
from residual.tasks.detection.inference import ImageFeatures, detect
from residual.tasks.detection.losses import BOX_STD
from residual.tasks.detection.recipe import DetectionRecipe
from residual.tasks.detection.recipe import Testing as Asking


def detections(net: FasterRCNN, how: Asking, *images: Tensor):
    with torch.no_grad():
        return detect([ImageFeatures(net.eval(), images)], how)


def wild(recipe: DetectionRecipe = SMALL) -> FasterRCNN:
    """Says something of every region."""
    net = made(recipe)
    nn.init.normal_(net.score.weight, std=0.5)
    nn.init.normal_(net.shift.weight, std=0.3)
    return net


def test_the_smallest_proposal_is_measured_in_the_picture_before_it_is_resized():
    net = wild(replace(SMALL, smallest=8))
    with torch.no_grad():
        own, resized = (
            ImageFeatures(net.eval(), [picture()], torch.tensor(factors)).proposals(Asking())[0]
            for factors in ([1.0, 1, 1, 1], [2.0, 3, 2, 3])
        )
    narrow, wide = (boxes[:, 2:] - boxes[:, :2] for boxes in (own, resized))
    assert len(wide) and wide[:, 0].min() >= 16 and wide[:, 1].min() >= 24
    assert narrow.min() >= 8 and ((narrow[:, 0] < 16) | (narrow[:, 1] < 24)).any()


def test_what_is_found_agrees_with_its_definition():
    net, asking = wild(), Asking(least=0.2, most=20)
    found = detections(net, asking, picture())
    with torch.no_grad():
        look = ImageFeatures(net, [picture()])
        regions, _ = look.proposals(asking)
        scores, shifts = net.predict_regions(net.region_features(look.first, regions, (64, 96)))
        sure = scores.softmax(dim=1)
        every = []
        for r, region in enumerate(regions):
            for c in range(2):
                tx, ty, tw, th = (shifts[r, c] * torch.tensor(BOX_STD)).tolist()
                w, h = (region[2:] - region[:2]).tolist()
                x, y = float(region[0]) + w / 2 + tx * w, float(region[1]) + h / 2 + ty * h
                w, h = w * torch.tensor(tw).exp(), h * torch.tensor(th).exp()
                box = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                box[0::2].clamp_(0, 96), box[1::2].clamp_(0, 64)
                if sure[r, c + 1] > 0.2 and (box[2:] > box[:2]).all():
                    every.append((float(sure[r, c + 1]), c, box))
    every.sort(key=lambda each: -each[0])
    stay: list[tuple[float, int, Tensor]] = []
    for one in every:
        if all(
            one[1] != other[1] or box_iou(one[2][None], other[2][None]) <= 0.3 for other in stay
        ):
            stay.append(one)
    stay = stay[:20]
    assert 3 < len(stay) == len(found.scores)
    assert found.labels.tolist() == [c for _, c, _ in stay]
    assert torch.allclose(found.boxes, torch.stack([box for *_, box in stay]), atol=1e-3)


def test_the_forward_without_samples_detects_on_each_image():
    net, pictures = wild().eval(), [picture(seed) for seed in range(2)]
    with torch.no_grad():
        found = net(torch.stack(pictures))
    for one, image in zip(found, pictures, strict=True):
        expected = detections(net, Asking(), image)
        assert len(one.scores) and torch.allclose(one.scores, expected.scores, atol=1e-5)
        assert torch.allclose(one.boxes, expected.boxes, atol=1e-3)


def test_an_ensemble_of_equals_is_the_one():
    net, asking = wild(), Asking(least=0.1)
    one = detections(net, asking, picture())
    with torch.no_grad():
        features = [ImageFeatures(net.eval(), [picture()]) for _ in range(2)]
        both = detect(features, asking)
    assert torch.allclose(one.boxes, both.boxes, atol=1e-4)
    assert torch.allclose(one.scores, both.scores, atol=1e-6)


def test_refinement_looks_again_where_boxes_are_and_lets_them_vote():
    net, asking = wild(), Asking(least=0.1)
    with torch.no_grad():
        look = ImageFeatures(net.eval(), [picture()])
        regions, _ = look.proposals(asking)
        sure, boxes = look.predict(regions)
        again, more = look.predict(boxes[torch.arange(len(boxes)), sure[:, 1:].argmax(dim=1)])
        sure, boxes = torch.cat([sure, again]), torch.cat([boxes, more])
    expected = postprocess(sure, boxes, asking)
    plain, refined = (
        detections(net, Asking(least=0.1, refinement=r), picture()) for r in (False, True)
    )
    assert not torch.equal(plain.boxes, refined.boxes)
    assert refined.scores.tolist() == expected.scores.tolist()
    for box, label, found in zip(expected.boxes, expected.labels, refined.boxes, strict=True):
        own = sure[:, label + 1] > 0.1
        theirs, weights = boxes[own, label], sure[own, label + 1]
        near = box_iou(box[None], theirs)[0] >= 0.5
        mean = (weights[near, None] * theirs[near]).sum(dim=0) / weights[near].sum()
        assert torch.allclose(found, mean, atol=1e-2)


def test_two_neighbouring_scales_are_those_around_an_area_of_224_pixels():
    look = ImageFeatures.__new__(ImageFeatures)  # without the maps, which take seconds
    look.size, look.net = (600, 900), made(replace(SMALL, shorter=600))
    look.by_size = dict.fromkeys([(200, 300), (400, 600), (600, 900), (800, 1200)])
    sides = torch.tensor([10.0, 224, 230, 300, 340, 600])  # at 600; a third of it at 200
    regions = torch.cat([torch.zeros(6, 2), sides[:, None].expand(6, 2)], dim=1)
    assert look.smaller_scale(regions).tolist() == [2, 2, 1, 1, 0, 0]


def test_several_scales_take_the_greater_of_two_values():
    net, asking = wild(), Asking(least=0.1, scales=(48, 64, 96))
    images = [
        picture(),
        F.interpolate(picture()[None], (48, 72))[0],
        F.interpolate(picture()[None], (96, 144))[0],
    ]
    with torch.no_grad():
        look = ImageFeatures(net.eval(), images)
        regions = torch.tensor([[4.0, 6, 14, 16], [0, 0, 96, 64]])
        found = look.region_features(regions)
        assert list(look.by_size) == [(48, 72), (64, 96), (96, 144)]
        scaled = [regions * (size[0] / 64) for size in look.by_size]
        each = torch.stack(
            [
                net.region_features(m, r, s)
                for m, r, s in zip(look.by_size.values(), scaled, look.by_size, strict=True)
            ]
        )
    small, large = torch.maximum(each[1, 0], each[2, 0]), torch.maximum(each[0, 1], each[1, 1])
    assert torch.allclose(found, torch.stack([small, large]), atol=1e-5)
    assert len(detections(net, asking, *images).scores)


def test_where_nothing_is_proposed_nothing_is_found_at_one_scale_and_at_several():
    net = wild(replace(SMALL, smallest=1000))
    small = F.interpolate(picture()[None], (48, 72))[0]
    assert not len(detections(net, Asking(), picture()).scores)
    assert not len(detections(net, Asking(scales=(48, 64)), picture(), small).scores)
