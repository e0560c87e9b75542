"""Faster R-CNN in training and at work: ours against torchvision's machinery, in turn.

    python -m benchmarks.detection --network resnet101 --rounds 6

Both sides have the same layers before and behind the regions (those of v1.5, whose batch
normalization is frozen), RoI align of 14x14 bins, one picture of 600x800 noise with a dozen boxes,
and the same numbers of anchors, proposals and regions, which is seen to. Weights are drawn,
proposals lie where anchors do, and the rate is 0, so that they stay as many as a trained
detector's.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.sides import Measured, against, answer, compare, in_words, record, timed
from residual.device import ComputeConfig, compute_config
from residual.storage import write_json
from residual.tasks.detection import inference, loader, loop
from residual.tasks.detection import losses as learning
from residual.tasks.detection.faster_rcnn import RPN_WIDTH, build, fuse_batchnorm
from residual.tasks.detection.recipe import VOC07, Testing
from residual.training.loop import StepOptions

SIDES = ("torchvision", "ours")
CLASSES = 20
HEIGHT, WIDTH_OF_PICTURE = 600, 800


def made_up(config: ComputeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """A picture of noise (3, 600, 800), twelve boxes and their labels, from 0."""
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(3, HEIGHT, WIDTH_OF_PICTURE, generator=draw)
    corner = torch.rand(12, 2, generator=draw) * torch.tensor([500.0, 300.0])
    size = 60 + torch.rand(12, 2, generator=draw) * 200
    labels = torch.randint(0, CLASSES, (12,), generator=draw)
    device = torch.device(config.device)
    return image.to(device), torch.cat([corner, corner + size], dim=1).to(device), labels.to(device)


def ours(network: str, config: ComputeConfig, work: str) -> Iterator[Any]:
    """Steps of the package's loop, or answers of its detector."""
    recipe = replace(VOC07, network=f"{network}-v1.5", start="noise", pooling="align", smallest=1)
    recipe = replace(recipe, steps=2**62, drops=(), lr=0.0)
    net = build(recipe, CLASSES)
    tame(net, net.proposing.shift)
    config.prepare(net)
    net.head.register_forward_hook(counted)
    image, boxes, labels = made_up(config)
    preprocessing = loader.imagenet_preprocessing(HEIGHT).to(image.device)
    if work == "training":
        normalized = preprocessing.normalize(image[None].clone())[0]
        sample = learning.Sample(normalized, boxes, labels, (0, 0))
        way = StepOptions(config.autocast, memory_format=config.memory_format)
        return loop.train(loop.start(net, recipe), itertools.repeat([sample]), recipe, way)
    fuse_batchnorm(net).eval()
    return answers(net, image, preprocessing, config)


def tame(net: nn.Module, shift: nn.Conv2d) -> None:
    """Branches add nothing, so that no map grows with depth, and proposals are anchors."""
    for name, module in net.named_modules():
        last = name.endswith((".branch.4.1", ".bn3"))
        if last and isinstance(module.weight, Tensor):
            nn.init.zeros_(module.weight)
    nn.init.zeros_(shift.weight)


REGIONS: list[int] = []  # that passed the layers behind them, in this process


def counted(module: nn.Module, tensors: tuple[Tensor, ...], result: Tensor) -> None:
    REGIONS.append(len(tensors[0]))


def answers(net: Any, image: Tensor, preprocessing: Any, config: ComputeConfig) -> Iterator[Any]:
    while True:
        with torch.no_grad(), config.autocast():
            inputs = preprocessing.normalize(image[None].clone())[0]
            yield inference.detect([inference.ImageFeatures(net, [inputs])], Testing())


class Proposes(nn.Module):
    """torchvision's RPN head, of as many channels as ours."""

    def __init__(self, n_in: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, RPN_WIDTH, 3, padding=1)
        self.score, self.shift = (
            nn.Conv2d(RPN_WIDTH, anchors, 1),
            nn.Conv2d(RPN_WIDTH, 4 * anchors, 1),
        )

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        x = [F.relu(self.conv(each)) for each in maps]
        return [self.score(each) for each in x], [self.shift(each) for each in x]


def theirs(network: str, config: ComputeConfig, work: str) -> Iterator[Any]:
    """The same in torchvision's FasterRCNN, in a plain loop."""
    import torchvision
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

    classifier = torchvision.models.get_model(network, norm_layer=FrozenBatchNorm2d)
    parts = dict(classifier.named_children())
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    for name in ("conv1", "layer1"):
        parts[name].requires_grad_(False)
    body = nn.Sequential(*(parts[name] for name in names))
    body.out_channels = 1024  # type: ignore[assignment]
    net = FasterRCNN(
        body,
        min_size=HEIGHT,
        max_size=1000,
        rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        rpn_head=Proposes(1024, 9),
        rpn_pre_nms_top_n_train=12_000,
        rpn_pre_nms_top_n_test=6_000,
        rpn_post_nms_top_n_train=2_000,
        rpn_post_nms_top_n_test=300,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
        box_head=nn.Sequential(parts["layer4"], nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        box_predictor=FastRCNNPredictor(2048, CLASSES + 1),
        box_batch_size_per_image=128,
        box_nms_thresh=0.3,
    )
    tame(net, net.rpn.head.shift)
    net.roi_heads.box_head.register_forward_hook(counted)
    net = config.prepare(net).train(work == "training")
    return looped(net, config, work)


def looped(net: Any, config: ComputeConfig, work: str) -> Iterator[Any]:
    """Steps of a plain loop, or answers."""
    image, boxes, labels = made_up(config)
    learned = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, 0.0, 0.9, weight_decay=5e-4)
    while True:
        if work == "prediction":
            with torch.no_grad(), config.autocast():
                yield net([image])
            continue
        with config.autocast():
            losses = net([image], [{"boxes": boxes, "labels": labels + 1}])
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield losses


def measure(steps: Iterator[Any], config: ComputeConfig, counted: int) -> Measured:
    """Pictures per second, and on a GPU the peak of the allocator."""
    cuda = config.device.startswith("cuda")
    result = timed(steps, counted, 1, torch.cuda.synchronize if cuda else lambda: None)
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return result | {"peak_gpu_bytes": peak, "regions": REGIONS[-1]}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="resnet50", help="resnet50, resnet101 or resnet152")
    parser.add_argument("--work", default="", help="training or prediction; both, if left out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", default="", help="float32 on a processor, bf16 on a GPU")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=0, help="counted steps of a measurement")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file for the result")
    parser.add_argument("--wait", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    config = compute_config(options.device, options.threads)
    on_gpu = config.device.startswith("cuda")
    config = replace(config, precision=options.precision or ("bf16" if on_gpu else "float32"))
    counted = options.steps or (20 if on_gpu else 2)
    config.apply()
    if options.wait:
        make = ours if options.wait == "ours" else theirs
        steps = make(options.network, config, options.work)
        for _ in range(5 if on_gpu else 1):
            next(steps)
        answer(lambda: measure(steps, config, counted))
        return
    passed = ["--network", options.network, "--device", config.device]
    passed += ["--threads", str(config.threads), "--precision", config.precision]
    passed += ["--steps", str(counted)]
    result = {}
    for work in [options.work] if options.work else ["training", "prediction"]:
        sides = {name: [*passed, "--work", work] for name in SIDES}
        turns = compare("benchmarks.detection", sides, options.rounds)
        result[work] = against(turns, "torchvision")
        if len({each["regions"] for each in result[work].values()}) > 1:
            raise SystemExit(f"the sides did not do the same: {result[work]}")
    kept = record(
        "detection",
        config.device,
        **result,
        network=options.network,
        precision=config.precision,
        rounds=options.rounds,
        steps=counted,
        size=[HEIGHT, WIDTH_OF_PICTURE],
    )
    if options.keep:
        write_json(options.keep, kept)
    if options.json:
        print(json.dumps(kept))
        return
    for work, each in result.items():
        print(f"{work}, {options.network}, 600x800, {config.precision}, {kept['hardware']}")
        print("\n".join(in_words(each, "torchvision")))


if __name__ == "__main__":
    main()
