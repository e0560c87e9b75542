"""Class activation maps: where in a picture a network sees a class.

CAM: Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning Deep Features for Discriminative
Localization", CVPR 2016. Grad-CAM: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra,
"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from residual.data.decode import DamagedImage, center_box, decode, open_image
from residual.device import is_finite, raise_non_finite
from residual.runs.load import Trained
from residual.tasks.classification.inference import evaluation_mode
from residual.tasks.detection.visualization import add_title, write_drawing

POOLING = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.Dropout  # and what follows it
CAM_HEAD = nn.AdaptiveAvgPool2d | nn.Flatten | nn.Dropout | nn.Linear  # with one linear layer
SIDE = 512  # pixels of the longer side of a drawing
BRIGHTEST = 0.85  # place of the maximum in the colours, which are darker beyond
OPACITY, FADE = 0.6, 0.65  # of the colour at the maximum, and of white where nothing was seen


@dataclass(frozen=True)
class Explanation:
    """The class activation map of a picture for one class."""

    label: str
    probability: float
    method: str  # CAM or Grad-CAM
    map: Tensor  # (h, w): evidence for the class; negative values are evidence against it
    picture: Image.Image  # upright, in its original size
    box: tuple[float, ...]  # of the input: left, top, right, bottom in shares of the sides

    def heat(self, size: tuple[int, int] | None = None) -> Tensor:
        """The positive part of the map on the picture, or on one of this (width, height): (H, W)
        from 0 to 1, and NaN where the network did not see the picture."""
        width, height = size or self.picture.size
        left, top, right, bottom = self.box
        x, y = ((torch.arange(n) + 0.5) / n for n in (width, height))
        x, y = 2 * (x - left) / (right - left) - 1, 2 * (y - top) / (bottom - top) - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        heat = self.map.clamp(min=0) / self.map.max().clamp(min=1e-30)
        inputs = heat[None, None], grid[None]
        sampled = F.grid_sample(*inputs, padding_mode="border", align_corners=False)[0, 0]
        return sampled.where((grid.abs() <= 1).all(dim=-1), torch.nan)

    def draw(self, side: int = SIDE) -> Image.Image:
        """The picture with the map in colours; its longer side has this many pixels."""
        picture = resize_longer_side(self.picture, side)
        heat = self.heat(picture.size)[..., None]
        colors = matplotlib.colormaps["turbo"](BRIGHTEST * heat[..., 0].nan_to_num().numpy())
        ground = torch.from_numpy(colors[..., :3]).where(heat.isfinite(), 1.0)
        share = (OPACITY * heat).nan_to_num(FADE)
        mixed = (1 - share) * decode(picture).permute(1, 2, 0) / 255 + share * ground
        return Image.fromarray((255 * mixed).round().byte().numpy())


def resize_longer_side(image: Image.Image, side: int) -> Image.Image:
    """An image whose longer side has this many pixels; enlarged small pixels stay squares."""
    kind = Image.Resampling.BOX if max(image.size) <= 64 else Image.Resampling.BICUBIC
    width, height = (max(1, round(n / max(image.size) * side)) for n in image.size)
    return image.resize((width, height), kind)


def class_names(trained: Trained, required: str | None) -> tuple[str, ...]:
    """The names of the classes, or their numbers. Raises ValueError without the required one."""
    names = trained.classes or tuple(map(str, range(trained.num_classes)))
    if required is not None and required not in names:
        near = ", ".join(get_close_matches(str(required), names, n=5, cutoff=0.0))
        raise ValueError(f"{trained.network} knows no class {required!r}; the nearest are {near}")
    return names


def explain(
    trained: Trained, image: Path | Image.Image, class_name: str | None = None
) -> Explanation:
    """The class activation map of a picture, for the best class or for one by name.

    It is CAM for networks that end in global average pooling and at most one linear layer: the mean
    of the map plus the bias is the class score. For others it is Grad-CAM on the output of the last
    convolution, before any pooling. Raises ValueError for an unknown class, DamagedImage, OSError,
    and NonFiniteValues.
    """
    net, view = trained.net, trained.preprocessing
    names = class_names(trained, class_name)
    picture = open_image(image)
    inputs = view(decode(picture, view.size, view.shorter)[None])
    inputs = inputs.to(next(net.parameters()))
    with evaluation_mode([net]), torch.inference_mode(False), torch.enable_grad():
        inputs = inputs.clone()
        scores, features, exact = forward(net, inputs)
        if not is_finite(scores):
            raise_non_finite(trained.network, net, lambda: net(inputs))
        index = int(scores.argmax()) if class_name is None else names.index(class_name)
        (gradients,) = torch.autograd.grad(scores[0, index], features)
    # CAM is the case of Grad-CAM in which the sum of the gradients is the weight in the linear
    # layer (Grad-CAM, Section 3.1). Behind an average, they are the same at each place.
    apart = (gradients - gradients[:, :, :1, :1]).abs().max()
    exact = exact and bool(apart <= 1e-3 * gradients.abs().max())
    weights = (gradients.sum if exact else gradients.mean)(dim=(2, 3), keepdim=True)
    size, box = picture.size, (0, 0, *picture.size)
    if view.shorter is not None:
        size, box = center_box(picture.size, view.size, view.shorter)
    return Explanation(
        label=names[index],
        probability=float(scores.detach().float().softmax(dim=1)[0, index]),
        method="CAM" if exact else "Grad-CAM",
        map=(weights * features).sum(dim=1)[0].detach().float().cpu(),
        picture=picture,
        box=tuple(place / side for place, side in zip(box, (*size, *size), strict=True)),
    )


def forward(net: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Scores (1, C), the last map (1, K, h, w) of several places that no pooling made, and whether
    only global average pooling and at most one linear layer follow it. Raises ValueError."""
    features: list[Tensor] = []
    head: list[nn.Module] = []

    def record(module: nn.Module, _inputs: Any, output: Any) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1
        if is_map and not isinstance(module, POOLING):
            features[:] = [output]
            head.clear()
        elif not any(module.children()):
            head.append(module)

    handles = [module.register_forward_hook(record) for module in net.modules()]
    try:
        scores = net(inputs.requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    if not features:
        raise ValueError("the network has no map of several places of a picture of this size")
    linear = sum(isinstance(module, nn.Linear) for module in head)
    return scores, features[0], linear <= 1 and all(isinstance(m, CAM_HEAD) for m in head)


def explain_files(
    trained: Trained, paths: Iterable[Path], class_name: str | None, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yields for each file `image`, `label`, `probability`, `method` and `drawing`, the path of the
    drawn map, NAME-map.png in the folder; or `error`. Raises ValueError for an unknown class."""
    written: set[Path] = set()
    for path in paths:
        try:
            result = explain(trained, path, class_name)
        except (DamagedImage, OSError) as error:
            yield {"image": str(path), "error": str(error)}
            continue
        title = f"{result.label} {100 * result.probability:.1f} %, {result.method}"
        drawing = add_title(result.draw(), title)
        answer = {key: getattr(result, key) for key in ("label", "probability", "method")}
        file = write_drawing(drawing, folder, f"{path.stem}-map", written)
        yield {"image": str(path), **answer, "drawing": str(file)}
