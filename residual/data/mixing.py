"""Changes to a whole batch on its device: mirror, colour, erasing, and mixing of pairs.

Each is keyed by the seed, the epoch and the image, or by the seed and the step.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from residual.data.crops import unit
from residual.data.draws import below

# Draws of an image in an epoch; those of crops.py are below 200. Photographs are mirrored by a
# number of their own, because that of batches.py is the crop's.
MIRRORED, COLOUR, ERASED, ERASED_REGION = 200, 210, 300, 310
MIXING = 400  # the first of a batch's four: which, how much, and where; its image is -1

# The eigenvalues and, as rows, eigenvectors of the RGB values in [0, 1] of ImageNet's pixels
# (fb.resnet.torch). The values are the standard deviations along the vectors.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, -0.5808, -0.5836),
    (0.7192, -0.0045, -0.6948),
    (0.4009, -0.8140, 0.4203),
)

# Random erasing as in torchvision (Zhong et al. 2020): share of the area, height by width.
AREAS = (0.02, 0.33)
RATIOS = (0.3, 3.3)
ATTEMPTS = 10


def coins(ids: Tensor, epochs: Tensor, seed: int) -> Tensor:
    """Which of the images (B,) are mirrored."""
    return below(2, seed, epochs, ids, MIRRORED).bool()


def mirrored(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int) -> Tensor:
    """A coin for each of (B, 3, H, W): left becomes right or not (Sec. 3.4)."""
    coin = coins(ids, epochs, seed)[:, None, None, None]
    return torch.where(coin, inputs.flip(-1), inputs)


def coloured(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, sigma: float = 0.1) -> Tensor:
    """AlexNet's colour shift (Sec. 3.4): one colour is added to all pixels of an image.

    Inputs (B, 3, H, W) are RGB in [0, 1], from which a mean may have been subtracted already, but
    which no deviation has divided.
    """
    return inputs + colours(ids, epochs, seed, sigma).to(inputs.dtype)[:, :, None, None]


def colours(ids: Tensor, epochs: Tensor, seed: int, sigma: float) -> Tensor:
    """What is added to each of the images, (B, 3) float64. Along each eigenvector of the colours
    the shift is normal, with its eigenvalue times sigma as the deviation."""
    axes = torch.arange(3, device=ids.device)
    draws = unit(seed, epochs[:, None], ids[:, None], COLOUR + axes)  # (B, 3)
    normal: Tensor = torch.special.ndtri(draws.clamp(min=2.0**-54))  # of 0 it is infinite
    basis = torch.tensor(EIGENVECTORS, dtype=torch.float64, device=ids.device)
    values = torch.tensor(EIGENVALUES, dtype=torch.float64, device=ids.device)
    # A sum that is written out, not a product of matrices, whose digits depend on the batch.
    return ((sigma * normal * values)[:, :, None] * basis).sum(dim=1)


def erased(inputs: Tensor, ids: Tensor, epochs: Tensor, seed: int, probability: float) -> Tensor:
    """Random erasing: a rectangle of some of (B, 3, H, W) becomes 0, the mean colour."""
    height, width = inputs.shape[2:]
    attempts = torch.arange(4 * ATTEMPTS, device=ids.device)
    draws = unit(seed, epochs[:, None], ids[:, None], ERASED_REGION + attempts)
    area, ratio, top, left = draws.view(-1, ATTEMPTS, 4).unbind(dim=2)  # each (B, ATTEMPTS)
    pixels = height * width * (AREAS[0] + area * (AREAS[1] - AREAS[0]))
    low, high = map(math.log, RATIOS)
    aspect = torch.exp(low + ratio * (high - low))
    h, w = torch.sqrt(pixels * aspect).round(), torch.sqrt(pixels / aspect).round()
    fits = (h < height) & (w < width)  # (B, ATTEMPTS)
    top, left = (top * (height - h + 1)).floor(), (left * (width - w + 1)).floor()
    first = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    top, left, h, w = (x.gather(1, first) for x in (top, left, h, w))  # each (B, 1)
    chosen = fits.any(dim=1) & (unit(seed, epochs, ids, ERASED) < probability)  # (B,)
    rows = torch.arange(height, device=ids.device)
    columns = torch.arange(width, device=ids.device)
    down = (rows >= top) & (rows < top + h) & chosen[:, None]  # (B, H)
    across = (columns >= left) & (columns < left + w)  # (B, W)
    inside = down[:, :, None] & across[:, None, :]  # (B, H, W)
    return inputs.clone().masked_fill_(inside[:, None], 0)  # the clone keeps channels_last


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
    """Each image of one norm group, or of the batch, mixed with the one before it.

    Inputs (B, 3, H, W) and labels (B,) -> inputs (B, 3, H, W) and soft labels (B, classes). `mixup`
    (Zhang et al. 2018) and `cutmix` (Yun et al. 2019) are the alphas of their Beta distributions;
    where both are above 0, a coin chooses one of them for all images.
    """
    # Choice: as torchvision does, partners are neighbours, since the order is random already, and
    # one lambda is for all. The draws are made on the CPU, so they are equal on every device.
    alphas = [(alpha, part) for alpha, part in ((mixup, blended), (cutmix, pasted)) if alpha > 0]
    targets = F.one_hot(labels, classes).float()
    if not alphas:
        return inputs, targets
    which, share, x, y = (float(unit(seed, step, -1, MIXING + i)) for i in range(4))
    alpha, part = alphas[int(which * len(alphas))]
    inputs, kept = part(inputs, beta(alpha, share), (x, y))
    return inputs, kept * targets + (1 - kept) * targets.roll(1, 0)


def beta(alpha: float, share: float) -> float:
    """The number that Beta(alpha, alpha) falls below with this probability."""
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, share))


def blended(inputs: Tensor, kept: float, _: tuple[float, float]) -> tuple[Tensor, float]:
    """Mixup: a share of each image (B, 3, H, W), and the rest of its neighbour."""
    return kept * inputs + (1 - kept) * inputs.roll(1, 0), kept


def pasted(inputs: Tensor, kept: float, centre: tuple[float, float]) -> tuple[Tensor, float]:
    """CutMix: a box of the neighbour, cut off at the border, and the share that is left.

    The box's centre is given in [0, 1) of width and height.
    """
    height, width = inputs.shape[2:]
    left, right = _side(width, kept, centre[0])
    top, bottom = _side(height, kept, centre[1])
    result = inputs.clone()
    result[:, :, top:bottom, left:right] = inputs.roll(1, 0)[:, :, top:bottom, left:right]
    return result, 1 - (right - left) * (bottom - top) / (width * height)


def _side(length: int, kept: float, centre: float) -> tuple[int, int]:
    """Where a box begins and ends along one side of the image."""
    half = int(0.5 * math.sqrt(1 - kept) * length)
    middle = int(centre * length)
    return max(0, middle - half), min(length, middle + half)
