"""Computes probabilities by ONNX Runtime, or by torch with batch normalization folded."""

import gc
from collections.abc import Callable, Generator, Sequence
from itertools import repeat
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig, is_finite, raise_non_finite
from residual.export.classifier import INPUT, session_model
from residual.export.graph import MISSING, installed, open_session
from residual.export.layers import fold
from residual.models.registry import build, is_user_class, model_spec
from residual.runs.load import Trained

ENGINES = ("auto", "onnxruntime", "torch")
# Inputs (N, 3, H, W) of the network's own size -> probabilities (N, classes), float32.
Engine = Callable[[Tensor], Tensor]


def engine(trained: Trained, name: str = "auto", threads: int = 0) -> Engine:
    """A network for inference, on its own device; zero threads are as many as torch has. A module
    of the user's is computed by torch unless ONNX Runtime is named.

    Raises ValueError for an engine that is not installed, or not for that device.
    """
    # On a processor ONNX Runtime starts as fast as torch, and ResNet-50 takes 11 s instead of 14 s
    # for 200 photographs on two cores.
    if name not in ENGINES:
        raise ValueError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    on_cpu = next(trained.net.parameters()).device.type == "cpu"
    if name == "onnxruntime" and not on_cpu:
        raise ValueError("the engine onnxruntime computes on the processor: use --device cpu")
    if name == "onnxruntime" and not installed():
        raise ValueError(f"ONNX Runtime {MISSING}, or use --engine torch")
    if name == "onnxruntime" or (
        name == "auto" and on_cpu and installed() and not is_user_class(trained.network)
    ):
        return onnxruntime_engine(trained, threads or torch.get_num_threads())
    return torch_engine(trained)


def torch_engine(trained: Trained) -> Engine:
    """The folded network in channels_last; a module of the user's, which may compute what cannot
    be traced, as it is."""
    net, form = trained.net, torch.contiguous_format
    if not is_user_class(trained.network):
        net, form = fold(net).to(memory_format=torch.channels_last), torch.channels_last
    device = next(net.parameters()).device

    def answer(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            placed = inputs.to(device).contiguous(memory_format=form)
            return probabilities(trained.network, net, placed)

    return answer


def probabilities(network: str, net: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs (N, 3, H, W) -> (N, classes), float32. Raises NonFiniteValues, with the layer."""
    scores: Tensor = net(inputs)
    if not is_finite(scores):
        raise_non_finite(network, net, lambda: net(inputs))
    return scores.float().softmax(dim=1).cpu()


def onnxruntime_engine(trained: Trained, threads: int) -> Engine:
    """A session of a model in memory. It is opened at the first picture, when the caller has
    freed the network."""
    models, sessions, lock = [session_model(trained)], list[Any](), Lock()

    def answer(inputs: Tensor) -> Tensor:
        with lock:
            if not sessions:
                gc.collect()
                sessions.append(open_session(*models[0], threads))
                models.clear()
        (probabilities,) = sessions[0].run(None, {INPUT: inputs.contiguous().numpy()})
        return torch.from_numpy(probabilities)

    return answer


def speeds(
    network: str, config: ComputeConfig, batches: Sequence[int], seconds: float
) -> Generator[dict[str, Any]]:
    """Measure a network on noise by each engine -> rows of `engine`, `batch` and
    `images_per_second`. Raises ValueError for an unknown network."""
    from residual.tasks.classification.throughput import images_per_second

    size = model_spec(network).input_size
    preprocessing = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (size, size))
    net = config.prepare(build(network)).eval()
    trained = Trained(net, network, None, preprocessing, None, None)
    on_cpu = torch.device(config.device).type == "cpu"
    for name in ("onnxruntime", "torch") if on_cpu and installed() else ("torch",):
        answer = engine(trained, name, config.threads)
        for batch in batches:
            images = torch.randn(batch, 3, size, size)
            work = (len(answer(images)) for _ in repeat(None))
            speed = images_per_second(work, seconds, torch.device("cpu"))  # answers are there
            yield {"engine": name, "batch": batch, "images_per_second": speed}
