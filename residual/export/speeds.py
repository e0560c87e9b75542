"""How fast a network answers here, by each engine and in batches of several sizes."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from residual.data.preprocessing import Preprocessing
from residual.device import ComputeConfig
from residual.export.engine import engine, installed
from residual.models.registry import build, model_spec
from residual.runs.load import Trained


@dataclass(frozen=True)
class Speed:
    """Of one engine, with so many images at a time."""

    engine: str
    batch: int
    images_per_second: float


def speeds(
    network: str, how: ComputeConfig, batches: Sequence[int], seconds: float
) -> Generator[Speed]:
    """A fresh network on noise, for so many seconds each, after a first answer that is not counted.

    Raises ValueError for a network that there is not.
    """
    size = model_spec(network).input_size
    before = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (size, size))
    fresh = Trained(how.prepare(build(network)).eval(), network, None, before, None, None)
    on_cpu = torch.device(how.device).type == "cpu"
    for name in ("onnxruntime", "torch") if on_cpu and installed() else ("torch",):
        answering = engine(fresh, name, how.threads)
        for batch in batches:
            images, done = torch.randn(batch, 3, size, size), 0
            answering(images)
            begun = time.perf_counter()
            while time.perf_counter() - begun < seconds:
                answering(images)
                done += batch
            yield Speed(name, batch, done / (time.perf_counter() - begun))
