"""Inference: from image files to detections, by one detector or an ensemble (Sec. 4.3, App. B)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from residual.data.decode import DamagedImage, open_image
from residual.device import ComputeConfig, raise_non_finite
from residual.tasks.detection.boxes import UNSCALED, Detections, grid_anchors, merge_proposals
from residual.tasks.detection.faster_rcnn import FasterRCNN, decode_regions, postprocess
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.loader import ResizedImage, load_image, normalize
from residual.tasks.detection.recipe import VOC07, DetectionRecipe, Testing
from residual.tasks.detection.visualization import draw_boxes, write_drawing

Picture = Path | Image.Image
Detect = Callable[[Picture], Detections]  # boxes are in pixels of the upright image


class ImageFeatures:
    """The features of one image at one scale or several, by one detector.

    Regions and boxes are in pixels of the first image.
    """

    def __init__(self, net: FasterRCNN, images: Sequence[Tensor], scale: Tensor = UNSCALED) -> None:
        """Of normalized images (3, H, W); the first has the scale of training, to which the file's
        was resized by `scale` (4,)."""
        self.net, self.images, self.scale = net, images, scale
        self.finite: list[Tensor] = []  # whether each output of the network is finite
        self.size = images[0].shape[1], images[0].shape[2]
        self.first = net.features(images[0][None])
        by_size = {
            (image.shape[1], image.shape[2]): net.features(image[None]) for image in images[1:]
        }
        self.by_size = dict(sorted((by_size | {self.size: self.first}).items()))

    def proposals(self, limits: DetectionRecipe | Testing) -> tuple[Tensor, Tensor]:
        """Region proposals (P, 4) and probabilities (P,), from the first scale alone (App. B)."""
        scores, deltas = self.net.proposing(self.first)
        self.finite += [scores.isfinite().all(), deltas.isfinite().all()]
        anchors = grid_anchors(self.first, self.net.recipe.scales)
        outputs = scores[0], deltas[0], anchors
        boxes, logits = self.net.proposals(*outputs, self.size, self.scale, limits)
        return boxes, logits.sigmoid()

    def region_features(self, regions: Tensor) -> Tensor:
        """(R, F): with several scales, the maximum of the two that fit a region best."""
        if len(self.by_size) == 1 or not len(regions):
            return self.net.region_features(self.first, regions, self.size)
        smaller = self.smaller_scale(regions)
        maxima: Tensor | None = None
        for i, (size, features) in enumerate(self.by_size.items()):
            chosen = ((smaller == i) | (smaller == i - 1)).nonzero()[:, 0]
            if not len(chosen):
                continue
            x, y = size[1] / self.size[1], size[0] / self.size[0]
            scaled = regions[chosen] * regions.new_tensor([x, y, x, y])
            vectors = self.net.region_features(features, scaled, size)
            if maxima is None:
                maxima = vectors.new_full((len(regions), vectors.shape[1]), -torch.inf)
            maxima[chosen] = torch.maximum(maxima[chosen], vectors)
        assert maxima is not None
        return maxima

    def smaller_scale(self, regions: Tensor) -> Tensor:
        """The index of the smaller one of the two neighboring scales for each region (R,)."""
        # Choice: a region uses the two scales at which its areas enclose 224x224 pixels, or the
        # last two at either end, as in "networks on convolutional feature maps" (NoC).
        area = (regions[:, 2:] - regions[:, :2]).clamp(min=1e-3).prod(dim=1)
        areas = [area * (h * w) / (self.size[0] * self.size[1]) for h, w in self.by_size]
        # In proportion, where the shorter side of training is none of the paper's 600 pixels.
        side = 224 * self.net.recipe.shorter / VOC07.shorter  # 224 pixels: SPP-net
        smaller = torch.stack([scaled <= side**2 for scaled in areas]).sum(dim=0) - 1
        return smaller.clamp(0, len(self.by_size) - 2)

    def predict(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (R, classes + 1), and a box for each class (R, classes, 4)."""
        scores, deltas = self.net.predict_regions(self.region_features(regions))
        self.finite += [scores.isfinite().all(), deltas.isfinite().all()]
        return decode_regions(scores, deltas, regions, self.size)

    def check_finite(self, testing: Testing) -> None:
        """Raises NonFiniteValues, with the layer, if an output of the network is not finite: such
        boxes would be dropped silently."""
        if bool(torch.stack(self.finite).all()):
            return

        def repeat() -> None:
            features = ImageFeatures(self.net, self.images, self.scale)
            features.predict(features.proposals(testing)[0])

        raise_non_finite(self.net.recipe.network, self.net, repeat)


@torch.no_grad()
def detect(members: Sequence[ImageFeatures], testing: Testing) -> Detections:
    """The detections of one detector or of an ensemble, in pixels of the first image. Raises
    NonFiniteValues, with the layer."""

    def predict(regions: Tensor) -> tuple[Tensor, Tensor]:
        # Choice: probabilities and boxes are averaged; the paper says "ensemble" and no more.
        outputs = [member.predict(regions) for member in members]
        probabilities, boxes = zip(*outputs, strict=True)
        return torch.stack(probabilities).mean(dim=0), torch.stack(boxes).mean(dim=0)

    proposals = [member.proposals(testing) for member in members]
    regions = merge_proposals(proposals, testing.proposals * len(members))
    probabilities, boxes = predict(regions)
    if testing.refinement and len(regions):
        # Choice: refinement evaluates the box of each region's best class: 300 more regions.
        best = probabilities[:, 1:].argmax(dim=1)
        refined = predict(boxes[torch.arange(len(best), device=best.device), best])
        probabilities = torch.cat([probabilities, refined[0]])
        boxes = torch.cat([boxes, refined[1]])
    for member in members:
        member.check_finite(testing)
    return postprocess(probabilities, boxes, testing)


# ---- from image files ---------------------------------------------------------------------------


def check_ensemble(detectors: Sequence[TrainedDetector]) -> None:
    """Raises ValueError if detectors have other classes or image sizes."""
    first, *others = detectors
    for other in others:
        if other.classes != first.classes:
            raise ValueError(
                f"the detectors have different classes: {', '.join(first.classes)}, and "
                f"{', '.join(other.classes)}"
            )
        for name in ("shorter", "longest"):
            a, b = getattr(first.recipe, name), getattr(other.recipe, name)
            if a != b:
                raise ValueError(f"the detectors have different input sizes: {name} {a} and {b}")


def image_sides(recipe: DetectionRecipe, testing: Testing) -> list[tuple[int, int]]:
    """(shorter, longest) sides of an image at each scale; the first is the training's."""
    sides = [recipe.shorter, *(side for side in testing.scales if side != recipe.shorter)]
    return [(side, recipe.longest * side // recipe.shorter) for side in sides]


@torch.no_grad()
def detect_image(
    detectors: Sequence[TrainedDetector],
    images: Sequence[ResizedImage],
    testing: Testing,
    config: ComputeConfig,
) -> Detections:
    """The detections on one image, read at each scale, in pixels of the upright file."""
    device = torch.device(config.device)
    with config.activate(), config.autocast():
        members = []
        for detector in detectors:
            preprocessing = detector.preprocessing.to(device)
            inputs = [normalize(image, preprocessing, device) for image in images]
            members.append(ImageFeatures(detector.net, inputs, images[0].scale))
        result = detect(members, testing)
    boxes = result.boxes.cpu().float() / images[0].scale
    return Detections(boxes, result.scores.cpu().float(), result.labels.cpu())


def file_detector(
    detectors: Sequence[TrainedDetector], testing: Testing, config: ComputeConfig
) -> Detect:
    """A function that detects objects in image files, by one detector or an ensemble. Raises
    ValueError if they do not go together."""
    check_ensemble(detectors)
    placed = [detector.placed(config) for detector in detectors]
    sides = image_sides(detectors[0].recipe, testing)

    def detect_file(path: Picture) -> Detections:
        return detect_image(placed, [load_image(path, *side) for side in sides], testing, config)

    return detect_file


def objects(result: Detections, classes: Sequence[str], min_score: float) -> list[dict[str, Any]]:
    """The detections of at least this score, the best first: `label`, `score` and `box` (left, top,
    right, bottom in pixels)."""
    keep = result.scores >= min_score
    columns = (values[keep].tolist() for values in (result.labels, result.scores, result.boxes))
    return [
        {"label": classes[label], "score": round(score, 4), "box": [round(x, 2) for x in box]}
        for label, score, box in zip(*columns, strict=True)
    ]


def predict(
    detect_file: Detect,
    classes: Sequence[str],
    pictures: Iterable[Picture],
    min_score: float,
    folder: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields for each picture `image` and `objects`, or `error`. With a folder, each image with its
    boxes is written there as NAME-boxes.png, its `drawing`."""
    written: set[Path] = set()
    for i, picture in enumerate(pictures):
        path = picture if isinstance(picture, Path) else Path(f"image {i}")
        try:
            result = detect_file(picture)
        except (DamagedImage, OSError) as error:
            yield {"image": str(path), "error": str(error)}
            continue
        answer: dict[str, Any] = {
            "image": str(path),
            "objects": objects(result, classes, min_score),
        }
        if folder is not None:
            keep = result.scores >= min_score
            captions = [f"{item['label']} {item['score']:.2f}" for item in answer["objects"]]
            labels = result.labels[keep].tolist()
            drawing = draw_boxes(open_image(picture), result.boxes[keep], captions, labels)
            target = write_drawing(drawing, folder, f"{path.stem}-boxes", written)
            answer["drawing"] = str(target)
        yield answer
