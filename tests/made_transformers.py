"""The ResNet of Hugging Face's transformers as far as its weights go: its parts and their names."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Conv(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, act: bool = True):
        super().__init__()
        pad = kernel // 2
        self.convolution = nn.Conv2d(n_in, n_out, kernel, stride, pad, bias=False)
        self.normalization = nn.BatchNorm2d(n_out)
        self.activation = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(x)))


class Layer(nn.Module):
    """A block: two 3x3 convolutions, or a bottleneck with the stride in its first or in its 3x3."""

    def __init__(self, n_in: int, n_out: int, stride: int, bottleneck: bool, in_first: bool):
        super().__init__()
        other = n_in != n_out or stride != 1
        self.shortcut = Conv(n_in, n_out, 1, stride, act=False) if other else nn.Identity()
        n, (first, second) = n_out // 4, (stride, 1) if in_first else (1, stride)
        self.layer = (
            nn.Sequential(
                Conv(n_in, n, 1, first), Conv(n, n, 3, second), Conv(n, n_out, 1, act=False)
            )
            if bottleneck
            else nn.Sequential(Conv(n_in, n_out, 3, stride), Conv(n_out, n_out, 3, act=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.layer(x) + self.shortcut(x))


class Body(nn.Module):
    """ResNetModel."""

    def __init__(self, depth: int, in_first: bool) -> None:
        super().__init__()
        self.embedder = nn.Module()
        self.embedder.embedder = Conv(3, 64, 7, 2)
        self.encoder = nn.Module()
        self.encoder.stages = nn.ModuleList()
        n_in = 64
        for place, blocks in enumerate(DEPTHS[depth]):
            stage, width = nn.Module(), 64 * 2**place * (4 if depth >= 50 else 1)
            stage.layers = nn.Sequential(*(
                Layer(n_in if i == 0 else width, width, 2 if place and not i else 1,
                      depth >= 50, in_first) for i in range(blocks)
            ))  # fmt: skip
            self.encoder.stages.append(stage)
            n_in = width

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.embedder.embedder(x), 3, 2, 1)
        for stage in self.encoder.stages:
            x = stage.layers(x)
        return x.mean(dim=(2, 3))


class Classifier(nn.Module):
    """ResNetForImageClassification."""

    def __init__(self, depth: int, in_first: bool = False, classes: int = 1000) -> None:
        super().__init__()
        self.resnet = Body(depth, in_first)
        width = 2048 if depth >= 50 else 512
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.resnet(x))


def write_config(folder: Path, in_first: bool | None, classes: int, **further: Any) -> None:
    """config.json and preprocessor_config.json, as save_pretrained writes them."""
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}
    config |= {"id2label": {str(i): f"class {i}" for i in range(classes)}}
    config |= {} if in_first is None else {"downsample_in_bottleneck": in_first}
    (folder / "config.json").write_text(json.dumps(config | further))
    view = {"crop_pct": 0.875, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    view |= {"size": {"shortest_edge": 160}}
    (folder / "preprocessor_config.json").write_text(json.dumps(view))
