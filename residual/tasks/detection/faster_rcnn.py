"""Faster R-CNN on the networks of the paper: "networks on convolutional feature maps" (App. A)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residual.models import registry
from residual.models.blocks import replace_modules
from residual.tasks.detection.boxes import (
    RATIOS,
    STRIDE,
    UNSCALED,
    Detections,
    decode,
    filter_proposals,
    grid_anchors,
    top_anchors,
    vote,
)
from residual.tasks.detection.losses import (
    BACKGROUND,
    BOX_STD,
    LOSSES,
    Sample,
    anchor_losses,
    region_losses,
    sample_regions,
)
from residual.tasks.detection.recipe import DetectionRecipe, Testing
from residual.training.dropout import Dropouts

VGGS = ("vgg16", "vgg19")
RPN_WIDTH = 512  # channels of the proposal network; the paper does not say it for ResNets
# Choice: RoI pooling makes 14x14 bins before conv5_1, whose stride then leaves 7x7.
BINS = {"imagenet": 14, "baseline": 7}


class RegionProposalNetwork(nn.Module):
    """Classifies each anchor at each place as object or background, and predicts its box."""

    def __init__(self, n_in: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, RPN_WIDTH, 3, padding=1)
        self.score = nn.Conv2d(RPN_WIDTH, 2 * anchors, 1)
        self.shift = nn.Conv2d(RPN_WIDTH, 4 * anchors, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, C, H, W) -> scores (N, H W A, 2) of background and object, and deltas
        (N, H W A, 4)."""
        x = F.relu(self.conv(features))
        scores, deltas = (y.permute(0, 2, 3, 1) for y in (self.score(x), self.shift(x)))
        return scores.reshape(len(x), -1, 2), deltas.reshape(len(x), -1, 4)


class FasterRCNN(nn.Module):
    """Shared layers for the whole image, a proposal network, and a head for each region.

    The names of its modules are keys of checkpoints.
    """

    def __init__(
        self,
        shared: nn.Sequential,
        head: nn.Sequential,
        recipe: DetectionRecipe,
        classes: int,
    ) -> None:
        super().__init__()
        self.recipe, self.num_classes = recipe, classes
        self.bins = recipe.bins or BINS[registry.model_spec(recipe.network).family]
        self.shared, self.head = shared, head
        self.proposing = RegionProposalNetwork(last_width(shared), len(RATIOS) * len(recipe.scales))
        width = last_width(head) * (1 + recipe.context)
        self.score = nn.Linear(width, classes + 1)  # background first
        self.shift = nn.Linear(width, 4 * classes)
        self.frozen = layers_of_stages(shared, recipe.fixed)  # the first layers, which do not learn
        self.shared[: self.frozen].requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # a fixed affine map (App. A)
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "FasterRCNN":
        """Batch normalization keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(
        self,
        images: Tensor,
        samples: Sequence[Sample] | None = None,
        losses: Sequence[str] = LOSSES,
        dropouts: Dropouts | None = None,
    ) -> Tensor | list[Detections]:
        """Normalized images (N, 3, H, W) -> the detections of each, or with samples the losses.

        The four losses (4,) are summed over the images; each is a mean over the sampled anchors or
        regions of an image, and 0 if it is not asked for.
        """
        # Choice: pictures are not padded to a common size, so that the result of one does not
        # depend on the others; pictures of equal size share a forward pass of the shared layers.
        size = images.shape[2], images.shape[3]
        features = self.features(images)
        scores, deltas = self.proposing(features)
        anchors = grid_anchors(features, self.recipe.scales)
        if samples is None:
            testing, detections = Testing(), []
            for i, output in enumerate(zip(scores, deltas, strict=True)):
                proposals, _ = self.proposals(*output, anchors, size, UNSCALED, testing)
                vectors = self.region_features(features[i : i + 1], proposals, size)
                decoded = decode_regions(*self.predict_regions(vectors), proposals, size)
                detections.append(postprocess(*decoded, testing))
            return detections
        dtype = torch.promote_types(features.dtype, torch.float32)
        anchors, total = anchors.to(dtype), features.new_zeros(4, dtype=dtype)
        for i, sample in enumerate(samples):
            output = scores[i].to(dtype), deltas[i].to(dtype)
            if "objectness_loss" in losses:
                pair = anchor_losses(self.recipe, sample, anchors, *output)
                total = total + F.pad(pair, (0, 2))
            if "class_loss" in losses:
                regions = sample.regions
                if regions is None:
                    output = scores[i].detach(), deltas[i].detach()
                    regions, _ = self.proposals(*output, anchors, size, sample.scale, self.recipe)
                    regions = torch.cat([regions.to(sample.boxes.dtype), sample.boxes])
                if dropouts is not None:
                    dropouts.first = sample.position
                pair = self.head_losses(features[i : i + 1], sample, regions)
                total = total + F.pad(pair, (2, 0))
        return total

    def features(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> features (N, C, H/16, W/16), rounded up."""
        with torch.no_grad():
            x = self.shared[: self.frozen](images)
        features: Tensor = self.shared[self.frozen :](x)
        return features

    def proposals(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int],
        scale: Tensor, limits: DetectionRecipe | Testing,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Scores (A, 2) and deltas (A, 4) of anchors (A, 4), in an image of this (height, width)
        that was resized by `scale` -> region proposals (P, 4) and logits (P,), the best first."""
        boxes, logits = top_anchors(scores, deltas, anchors, size, limits.candidates)
        return filter_proposals(boxes, logits, limits.proposals, self.recipe.smallest, scale)

    def head_losses(self, features: Tensor, sample: Sample, regions: Tensor) -> Tensor:
        """The class and the box loss (2,) of sampled regions."""
        regions, matches = sample_regions(self.recipe, sample, regions)
        is_empty = not len(regions)
        if is_empty:  # losses of 0 that have gradients, so that all processes have the same
            regions = regions.new_tensor([[0, 0, 1, 1]])
            matches = matches.new_full((1,), BACKGROUND)
        height, width = sample.image.shape[1:]
        outputs = self.predict_regions(self.region_features(features, regions, (height, width)))
        losses = region_losses(sample, regions, matches, *outputs)
        return 0 * losses if is_empty else losses

    def region_features(self, features: Tensor, regions: Tensor, size: tuple[int, int]) -> Tensor:
        """Features (1, C, H, W) and regions (R, 4) of an image of this (height, width) -> (R, F).
        With the recipe's `context`, the features of the whole image are appended."""
        if not self.recipe.context:
            vectors: Tensor = self.head(self.pool(features, regions))
            return vectors
        height, width = size
        image = regions.new_tensor([[0, 0, width, height]])
        both = self.head(self.pool(features, torch.cat([regions, image])))
        return torch.cat([both[:-1], both[-1:].expand(len(regions), -1)], dim=1)

    def pool(self, features: Tensor, regions: Tensor) -> Tensor:
        """RoI pooling: features (1, C, H, W) and regions (R, 4) -> (R, C, bins, bins)."""
        from torchvision.ops import roi_align, roi_pool

        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        boxes = regions.to(exact.dtype)
        if self.recipe.pooling == "pool":
            # RoI pooling counts pixels, the last one inside; these boxes end where it ends.
            boxes = boxes - boxes.new_tensor([0, 0, 1, 1])
            pooled: Tensor = roi_pool(exact, [boxes], self.bins, 1 / STRIDE)
        else:
            pooled = roi_align(exact, [boxes], self.bins, 1 / STRIDE, 2, aligned=True)
        return pooled

    def predict_regions(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) -> scores (R, classes + 1), background first, and deltas (R, classes, 4)."""
        return self.score(vectors), self.shift(vectors).view(-1, self.num_classes, 4)


def decode_regions(
    scores: Tensor, deltas: Tensor, regions: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Scores (R, classes + 1) and deltas (R, classes, 4) of regions (R, 4) -> probabilities, and a
    box for each class (R, classes, 4), clipped to an image of this (height, width)."""
    from torchvision.ops import clip_boxes_to_image

    dtype = torch.promote_types(scores.dtype, torch.float32)
    deltas = deltas.to(dtype) * torch.tensor(BOX_STD, device=deltas.device, dtype=dtype)
    boxes = clip_boxes_to_image(decode(deltas, regions.to(dtype)[:, None]), size)
    return scores.to(dtype).softmax(dim=1), boxes


def postprocess(probabilities: Tensor, boxes: Tensor, testing: Testing) -> Detections:
    """The detections of regions with probabilities (R, classes + 1) and boxes (R, classes, 4):
    score threshold, NMS by class, the best of all; with refinement, box voting."""
    from torchvision.ops import batched_nms

    nonempty = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)  # also after clipping
    rows, labels = ((probabilities[:, 1:] > testing.least) & nonempty).nonzero(as_tuple=True)
    scores, boxes = probabilities[rows, labels + 1], boxes[rows, labels]
    keep = batched_nms(boxes, scores, labels, testing.overlap)[: testing.most]
    final = boxes[keep]
    if testing.refinement:
        for label in set(labels[keep].tolist()):
            kept, candidates = labels[keep] == label, labels == label
            final[kept] = vote(final[kept], boxes[candidates], scores[candidates])
    return Detections(final, scores[keep], labels[keep])


# ---- from a network to a detector ---------------------------------------------------------------


def check_network(network: str) -> None:
    """Raises ValueError for a network that no detector can be built on."""
    spec = registry.model_spec(network)
    if spec.name not in VGGS and spec.family != "imagenet":
        raise ValueError(
            f"no detector is made of {network}; it takes resnet18, 34, 50, 101 or 152, a variant "
            f"of theirs, vgg16 or vgg19"
        )


def build(recipe: DetectionRecipe, classes: int) -> FasterRCNN:
    """A fresh detector of so many classes, without background. Its weights are drawn from torch's
    generator. Raises ValueError for a network that no detector can be built on."""
    check_network(recipe.network)
    net = registry.build(recipe.network, 2)
    if recipe.norm == "group":  # Wu and He 2018
        replace_modules(net, nn.BatchNorm2d, lambda norm: nn.GroupNorm(32, norm.num_features))
    detector = FasterRCNN(*split_network(net), recipe, classes)
    # Choice: the new layers are initialized as in the published code: normal, of deviation 0.01,
    # and 0.001 for box regression.
    for layer in (*detector.proposing.children(), detector.score, detector.shift):
        assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
        nn.init.normal_(layer.weight, std=0.001 if layer is detector.shift else 0.01)
        nn.init.zeros_(layer.bias)
    return detector


def split_network(net: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """The layers shared by all regions, and the layers of the head."""
    layers = list(net.named_children())
    names = [name for name, _ in layers]
    if "conv5_x" in names:
        end = names.index("conv5_x")
        head = layers[end : names.index("fc")]
    else:
        end = names.index("pool5")
        head = [*layers[end + 1 : names.index("fc8")], ("flat", nn.Flatten())]
    return nn.Sequential(OrderedDict(layers[:end])), nn.Sequential(OrderedDict(head))


def last_width(layers: nn.Sequential) -> int:
    """The channels of the last convolution."""
    *_, last = (module for module in layers.modules() if isinstance(module, nn.Conv2d))
    return last.out_channels


def layers_of_stages(shared: nn.Sequential, stages: int) -> int:
    """How many of the shared layers belong to the first stages."""
    for i, (name, _) in enumerate(shared.named_children()):
        if name.startswith("conv") and int(name[4]) > stages:
            return i
    return len(shared)


def backbone_weights(state: dict[str, Tensor], detector: FasterRCNN) -> dict[str, Tensor]:
    """A classification network's weights by the names of the detector's shared layers and head,
    without its last layer."""
    names = detector.state_dict().keys()
    return {
        f"{part}.{name}": tensor
        for name, tensor in state.items()
        for part in ("shared", "head")
        if f"{part}.{name}" in names
    }


def fuse_batchnorm(net: nn.Module) -> nn.Module:
    """The same detector, which computes each convolution and the fixed affine map behind it as one:
    less memory and time. Names and weights stay."""

    def fused(pair: nn.Sequential) -> nn.Sequential:
        of_both = [type(module) for module in pair] == [nn.Conv2d, nn.BatchNorm2d]
        return FusedConvBatchNorm(*pair) if of_both else pair

    replace_modules(net, nn.Sequential, fused)
    return net


class FusedConvBatchNorm(nn.Sequential):
    """A convolution and its batch normalization with fixed statistics, computed as one convolution
    with scaled filters; gradients are equal."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        weight = conv.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, bias, conv.stride, conv.padding)
