"""Anchors: boxes of several sizes and shapes around each place of a map (Faster R-CNN)."""

from collections.abc import Sequence

import torch
from torch import Tensor

STRIDE = 16  # pixels between two places of the last shared map: conv4_x, or conv5_3 of VGG-16
RATIOS = (0.5, 1.0, 2.0)  # heights in widths


# Choice: an anchor's area is exactly its scale squared, around the middle of its 16x16 pixels; the
# published code rounds sides to whole pixels first.
def shapes(scales: Sequence[int]) -> Tensor:
    """Anchors (A, 4) around the origin, of these square roots of areas, in each of three shapes."""
    sides = [(scale * ratio**-0.5, scale * ratio**0.5) for ratio in RATIOS for scale in scales]
    halves = torch.tensor(sides) / 2
    return torch.cat([-halves, halves], dim=1)


def anchors(rows: int, columns: int, scales: Sequence[int], device: torch.device) -> Tensor:
    """Those of a map of rows and columns: (rows columns A, 4), place by place."""
    y = (torch.arange(rows, device=device) + 0.5) * STRIDE
    x = (torch.arange(columns, device=device) + 0.5) * STRIDE
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (places + shapes(scales).to(device)).view(-1, 4)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which of the boxes (N, 4) do not cross the border of a picture: (N,) bool."""
    left, top, right, bottom = boxes.unbind(-1)
    return (left >= 0) & (top >= 0) & (right <= width) & (bottom <= height)
