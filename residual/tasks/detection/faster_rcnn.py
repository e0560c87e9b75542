"""Faster R-CNN on the networks of the paper: "networks on convolutional feature maps" (App. A)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.models.blocks import replace_modules
from residual.models.registry import build as build_network
from residual.models.registry import model_spec
from residual.tasks.detection.boxes import RATIOS, STRIDE
from residual.tasks.detection.recipe import Recipe

VGGS = ("vgg16", "vgg19")
WIDTH = 512  # of the layer that proposes; the paper does not say it for ResNets
# Choice: RoI pooling makes 14x14 bins before conv5_1, whose stride then leaves 7x7.
BINS = {"imagenet": 14, "rival": 7}


class Proposing(nn.Module):
    """The region proposal network: at each place and for each anchor, object or not, and where."""

    def __init__(self, n_in: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, WIDTH, 3, padding=1)
        self.score = nn.Conv2d(WIDTH, 2 * anchors, 1)
        self.shift = nn.Conv2d(WIDTH, 4 * anchors, 1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, H, W) -> scores (N, H W A, 2) of background and object, and shifts
        (N, H W A, 4)."""
        x = F.relu(self.conv(maps))
        return by_anchor(self.score(x), 2), by_anchor(self.shift(x), 4)


def by_anchor(x: Tensor, numbers: int) -> Tensor:
    """(N, A numbers, H, W) -> (N, H W A, numbers)."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, numbers)


class Detector(nn.Module):
    """Layers that the whole picture passes once, and layers that each region passes by itself."""

    def __init__(
        self, shared: nn.Sequential, head: nn.Sequential, widths: tuple[int, int], recipe: Recipe,
        classes: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.recipe, self.classes = recipe, classes
        self.bins = recipe.bins or BINS[model_spec(recipe.network).family]
        self.shared, self.head = shared, head
        self.proposing = Proposing(widths[0], len(RATIOS) * len(recipe.scales))
        width = widths[1] * (1 + recipe.context)
        self.score = nn.Linear(width, classes + 1)  # background first
        self.shift = nn.Linear(width, 4 * classes)
        self.still = unlearned(shared, recipe.fixed)
        for each in shared[: self.still]:
            each.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # a fixed affine map (App. A)
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Detector":
        """Batch normalization goes on with the statistics that it has."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def maps(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> maps (N, C, H/16, W/16), rounded up."""
        with torch.no_grad():
            x = self.shared[: self.still](images)
        found: Tensor = self.shared[self.still :](x)
        return found

    def pooled(self, maps: Tensor, regions: Tensor) -> Tensor:
        """One picture's map (1, C, H, W) and regions (R, 4) in its pixels -> (R, C, bins, bins)."""
        from torchvision.ops import roi_align, roi_pool

        exact = maps.to(torch.promote_types(maps.dtype, torch.float32))  # whatever the precision
        boxes = [regions.to(exact.dtype)]
        if self.recipe.pooling == "pool":
            # RoI pooling counts pixels, the last one inside; these boxes end where it ends.
            boxes = [boxes[0] - boxes[0].new_tensor([0, 0, 1, 1])]
            pooled: Tensor = roi_pool(exact, boxes, self.bins, 1 / STRIDE)
            return pooled
        found: Tensor = roi_align(exact, boxes, self.bins, 1 / STRIDE, 2, aligned=True)
        return found

    def vectors(self, maps: Tensor, regions: Tensor, size: tuple[int, int]) -> Tensor:
        """What each region (R, 4) of one picture of this (height, width) is, (R, F); beside it the
        whole picture, where the recipe has context."""
        if not self.recipe.context:
            found: Tensor = self.head(self.pooled(maps, regions))
            return found
        height, width = size
        whole = regions.new_tensor([[0, 0, width, height]])
        both = self.head(self.pooled(maps, torch.cat([regions, whole])))
        return torch.cat([both[:-1], both[-1:].expand(len(regions), -1)], dim=1)

    def answers(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) -> scores (R, classes + 1), the background's first, and shifts (R, classes, 4)."""
        return self.score(vectors), self.shift(vectors).view(-1, self.classes, 4)


def in_one(net: nn.Module) -> nn.Module:
    """The same detector, in which a convolution and the fixed affine map behind it are computed as
    one: no map is kept between them, and none is passed over twice. Names and weights stay."""

    def fixed(pair: nn.Sequential) -> nn.Sequential:
        of_both = [type(each) for each in pair] == [nn.Conv2d, nn.BatchNorm2d]
        return FixedConvNorm(*pair) if of_both else pair

    replace_modules(net, nn.Sequential, fixed)
    return net


class FixedConvNorm(nn.Sequential):
    """A convolution and its batch normalization with fixed statistics, computed as one convolution
    whose filters are scaled; gradients are equal."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        weight = conv.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def unlearned(shared: nn.Sequential, stages: int) -> int:
    """How many of the shared parts belong to the first stages."""
    for place, (name, _) in enumerate(shared.named_children()):
        if name.startswith("conv") and int(name[4]) > stages:
            return place
    return len(shared)


def check_network(network: str) -> None:
    """Raises ValueError where no detector is made of a network."""
    spec = model_spec(network)
    if spec.name not in VGGS and spec.family != "imagenet":
        raise ValueError(
            f"no detector is made of {network}; it takes resnet18, 34, 50, 101 or 152, a variant "
            f"of theirs, vgg16 or vgg19"
        )


def build(recipe: Recipe, classes: int) -> Detector:
    """A fresh detector of so many classes, without background. Its weights are drawn from torch's
    generator. Raises ValueError for a network that it cannot be made of."""
    check_network(recipe.network)
    net = build_network(recipe.network, 2)
    if recipe.norm == "group":
        grouped(net)
    detector = Detector(*divided(net), recipe, classes)
    # Choice: the new layers are drawn as in the published code: normal, of deviation 0.01, and
    # 0.001 for the boxes of regions.
    for module in detector.proposing.children():
        drawn(module, 0.01)
    drawn(detector.score, 0.01)
    drawn(detector.shift, 0.001)
    return detector


def divided(net: nn.Module) -> tuple[nn.Sequential, nn.Sequential, tuple[int, int]]:
    """What is shared, what each region passes, and how many channels come out of each."""
    parts = OrderedDict(net.named_children())
    names = list(parts)
    if "conv5_x" in parts:
        at, end = names.index("conv5_x"), names.index("fc")
        shared, head = names[:at], names[at:end]
        widths = out_of([parts[name] for name in shared]), out_of([parts["conv5_x"]])
    else:
        at, end = names.index("pool5"), names.index("fc8")
        shared, head = names[:at], names[at + 1 : end]
        widths = 512, 4096
        parts["flat"] = nn.Flatten()
        head.append("flat")

    def part(chosen: Sequence[str]) -> nn.Sequential:
        return nn.Sequential(OrderedDict((name, parts[name]) for name in chosen))

    return part(shared), part(head), widths


def out_of(parts: Sequence[nn.Module]) -> int:
    """The channels of the last convolution."""
    *_, last = (m for part in parts for m in part.modules() if isinstance(m, nn.Conv2d))
    return last.out_channels


def grouped(net: nn.Module) -> None:
    """Group normalization of 32 groups (Wu and He 2018) in place of batch normalization."""
    replace_modules(net, nn.BatchNorm2d, lambda norm: nn.GroupNorm(32, norm.num_features))


def drawn(module: nn.Module, deviation: float) -> None:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    nn.init.normal_(module.weight, std=deviation)
    assert module.bias is not None
    nn.init.zeros_(module.bias)


def of_network(state: dict[str, Tensor], detector: Detector) -> dict[str, Tensor]:
    """The weights of a classification network by the names of a detector's shared layers and head;
    its last layer, which tells other classes apart, is left out."""
    own = detector.state_dict()
    found = {}
    for name, tensor in state.items():
        for part in ("shared", "head"):
            if f"{part}.{name}" in own:
                found[f"{part}.{name}"] = tensor
    return found
