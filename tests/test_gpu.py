"""What only a GPU can show: the same batches as on a processor, and an exact resume."""

from dataclasses import replace

import pytest
import torch
from made_boxes import draw_voc
from test_detection_inference import detections, wild
from test_faster_rcnn import SMALL, losses, picture, sample
from torchvision.ops import box_iou

from residual.data.loader import training_batches
from residual.data.normalization import per_pixel_mean
from residual.data.rng import keyed_hash, permutation
from residual.data.sampler import DataConfig
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.tasks.classification.recipe import with_steps
from residual.tasks.classification.train import advance, begin, recipe_for
from residual.tasks.detection import train
from residual.tasks.detection.recipe import Testing as Asking
from residual.training.events import RunOptions, Stopped

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def test_the_hash_and_the_order_are_those_of_a_processor():
    key = torch.arange(-50_000, 50_000)
    assert torch.equal(keyed_hash(3, key).cpu(), keyed_hash(3, key.cuda()).cpu())
    assert torch.equal(permutation(1, 2, 50_000), permutation(1, 2, 50_000, "cuda").cpu())


def test_the_batches_are_those_of_a_processor():
    images = digits().train
    mean = per_pixel_mean(images)
    how = DataConfig(batch=128, seed=0, padding=1)
    here = training_batches(images, mean, how)
    there = training_batches(images.to("cuda"), mean.to("cuda"), how)
    for _ in range(15):
        (x, labels), (gpu_x, gpu_labels) = next(here), next(there)
        assert torch.equal(labels, gpu_labels.cpu())
        torch.testing.assert_close(x, gpu_x.cpu(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_that_stops_and_goes_on_ends_as_one_that_does_not(tmp_path, precision):
    data, recipe = digits(), with_steps(recipe_for("resnet20", "digits"), 40)
    how = ComputeConfig("cuda", threads=1, precision=precision, deterministic=True)
    ends = []
    for name, stop_at in (("whole", 0), ("parts", 17)):
        begin(tmp_path / name, recipe, data, {"where": "digits", "root": ""}, how)
        counter = iter(range(1, 100))
        options = RunOptions(60, stop=lambda counter=counter, at=stop_at: next(counter) == at)
        try:
            events = list(advance(tmp_path / name, data, options))
        except Stopped:
            events = list(advance(tmp_path / name, data, RunOptions()))
        ends.append(events[-1].result["weights_sha256"])
    assert ends[0] == ends[1]


def test_the_losses_and_boxes_of_a_detector_are_those_of_a_processor():
    regions = torch.tensor([[4.0, 6, 30, 40], [0, 0, 90, 60], [50, 8, 70, 40], [38, 8, 78, 52]])
    net, one = wild(), sample(regions=regions)
    there = {key: getattr(one, key).cuda() for key in ("image", "boxes", "labels", "regions")}
    expected = losses(net, [one])
    found = detections(net, Asking(least=0.3), picture())
    on_gpu = net.cuda()
    torch.testing.assert_close(
        losses(on_gpu, [replace(one, **there)]).cpu(), expected, rtol=1e-3, atol=1e-3
    )
    again = detections(on_gpu, Asking(least=0.3), picture().cuda())
    assert box_iou(found.boxes[:3], again.boxes.cpu()).amax(dim=1).min() > 0.95


def test_a_detector_that_stops_and_goes_on_ends_as_one_that_does_not(tmp_path):
    recipe = replace(SMALL, pooling="align", steps=8)
    data = train.load_data(recipe, {"where": str(draw_voc(tmp_path / "made"))})
    how = ComputeConfig("cuda", threads=1, deterministic=True)
    where = {"where": str(tmp_path / "made"), "root": ""}
    ends = []
    for name, stop_at in (("whole", 0), ("parts", 3)):
        train.begin(tmp_path / name, recipe, data, where, how)
        counter = iter(range(1, 100))
        options = RunOptions(60, stop=lambda counter=counter, at=stop_at: next(counter) == at)
        try:
            events = list(train.advance(tmp_path / name, data, options))
        except Stopped:
            events = list(train.advance(tmp_path / name, data, RunOptions()))
        ends.append(events[-1].result["weights_sha256"])
    assert ends[0] == ends[1]
