"""What is done to a whole batch on the device: mirror, colour, erasing, mixing of images."""

import math

import torch
import torch.nn.functional as F
from scipy.stats import beta
from torch import Tensor

from residual.data.crops import unit

# The draws of one image in one epoch, apart from those of its region (crops.py).
MIRROR, COLOUR, ERASE = 200, 210, 220
# The draws of a group of images in one step.
KIND, SHARE, PLACE = range(300, 303)

# The eigenvalues and eigenvectors (columns) of the covariance of ImageNet's colours, in [0, 1]
# (fb.resnet.torch).
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def mirrored(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int) -> Tensor:
    """Each image (B, 3, H, W) or its mirror, by a coin."""
    coin = unit(seed, epochs, ids, MIRROR) < 0.5
    return torch.where(coin[:, None, None, None], inputs.flip(-1), inputs)


def coloured(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, deviation: float) -> Tensor:
    """The colour shift of AlexNet (Sec. 3.4): to each pixel of an image, in [0, 1], the sum of the
    principal components, each times its eigenvalue times a normal number drawn for the image."""
    draws = unit(seed, epochs[:, None], ids[:, None], COLOUR + torch.arange(6))  # (B, 6)
    # Box and Muller's two uniform numbers for each normal one.
    normal = (-2 * (1 - draws[:, :3]).log()).sqrt() * (2 * math.pi * draws[:, 3:]).cos()
    values, vectors = (
        torch.tensor(each, dtype=normal.dtype, device=normal.device)
        for each in (EIGENVALUES, EIGENVECTORS)
    )
    shift = (normal * deviation * values) @ vectors.T  # (B, 3)
    return inputs + shift.to(inputs.dtype)[:, :, None, None]


def erased(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, often: float) -> Tensor:
    """A rectangle of some images (B, 3, H, W) set to zero (Zhong et al. 2017): 2 to 33 % of the
    area, of aspect 0.3 to 3.3, as in torchvision."""
    height, width = inputs.shape[2:]
    draws = unit(seed, epochs[:, None], ids[:, None], ERASE + torch.arange(5))
    coin, area, aspect, top, left = draws.unbind(dim=1)
    pixels = height * width * (0.02 + area * (0.33 - 0.02))
    ratio = (math.log(0.3) + aspect * (math.log(3.3) - math.log(0.3))).exp()
    # Choice: a rectangle that is higher or wider than the image is cut to it, not drawn again.
    h = (pixels * ratio).sqrt().round().clamp(max=height)
    w = (pixels / ratio).sqrt().round().clamp(max=width)
    y, x = (top * (height - h + 1)).floor(), (left * (width - w + 1)).floor()
    rows = torch.arange(height, device=inputs.device)
    columns = torch.arange(width, device=inputs.device)
    inside = between(rows, y, h)[:, :, None] & between(columns, x, w)[:, None, :]
    inside &= (coin < often)[:, None, None]
    return inputs.masked_fill(inside[:, None], 0)


def between(places: Tensor, first: Tensor, length: Tensor) -> Tensor:
    """Which places (n,) lie in the stretches (B,) -> (B, n)."""
    return (places >= first[:, None]) & (places < (first + length)[:, None])


def mixed(
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    *,
    seed: int,
    step: int,
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor]:
    """Each image (B, 3, H, W) mixed with its neighbour in the batch: by mixup (Zhang et al. 2017),
    a weighted mean, or by cutmix (Yun et al. 2019), a rectangle of the neighbour; where both are
    asked for, one of the two by a coin. The labels become shares of classes (B, classes)."""
    soft = F.one_hot(labels, classes).to(inputs.dtype)
    neighbour, theirs = inputs.roll(1, 0), soft.roll(1, 0)
    coin, place, *where = unit(seed, step, torch.tensor([KIND, SHARE, PLACE, PLACE + 1])).tolist()
    if mixup and (not cutmix or coin < 0.5):
        share = float(beta.ppf(place, mixup, mixup))
        return inputs * share + neighbour * (1 - share), soft * share + theirs * (1 - share)
    share = float(beta.ppf(place, cutmix, cutmix))
    height, width = inputs.shape[2:]
    half = math.sqrt(1 - share) / 2
    y, x = int(where[0] * height), int(where[1] * width)
    rows = slice(max(0, y - int(half * height)), min(height, y + int(half * height)))
    columns = slice(max(0, x - int(half * width)), min(width, x + int(half * width)))
    cut = inputs.clone()
    cut[:, :, rows, columns] = neighbour[:, :, rows, columns]
    share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return cut, soft * share + theirs * (1 - share)
