"""What answers: ONNX Runtime where it is installed, else torch, with batch normalization folded."""

import ctypes
import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residual.device import is_finite, raise_non_finite
from residual.export.layers import folded
from residual.runs.load import Trained

ENGINES = ("auto", "onnxruntime", "torch")
# Inputs (N, 3, H, W) of the network's own size -> probabilities (N, classes), float32.
Engine = Callable[[Tensor], Tensor]
MISSING = "is not installed; pip install 'residual-learning[deploy]'"


def installed() -> bool:
    """Whether the extra `deploy` is here."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def engine(trained: Trained, name: str = "auto", threads: int = 0) -> Engine:
    """A network for use alone, on the device that it is on; zero threads are as many as torch has.

    Raises ValueError for an engine that is not here, or not on that device.
    """
    # ONNX Runtime always pays on a processor: from the start of the command to the answer for one
    # picture, both take 1.7 s (ResNet-8) and 2.3 s (ResNet-50); 200 photographs by ResNet-50 take
    # 11 s instead of 14 s on two cores.
    if name not in ENGINES:
        raise ValueError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    on_cpu = next(trained.net.parameters()).device.type == "cpu"
    if name == "onnxruntime" and not on_cpu:
        raise ValueError("the engine onnxruntime computes on the processor: say --device cpu")
    if name == "onnxruntime" and not installed():
        raise ValueError(f"ONNX Runtime {MISSING}, or take --engine torch")
    if name == "onnxruntime" or (name == "auto" and on_cpu and installed()):
        return by_onnxruntime(trained, threads or torch.get_num_threads())
    return by_torch(trained)


def by_torch(trained: Trained) -> Engine:
    """Batch normalization folded, and memory as channels_last. Raises NotFinite, with the layer,
    where a score is not finite."""
    net = folded(trained.net).to(memory_format=torch.channels_last)
    device = next(net.parameters()).device

    def answer(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            placed = inputs.to(device).contiguous(memory_format=torch.channels_last)
            scores: Tensor = net(placed)
            if not is_finite(scores):
                raise_non_finite(trained.network, net, lambda: net(placed))
            return scores.float().softmax(dim=1).cpu()

    return answer


def by_onnxruntime(trained: Trained, threads: int) -> Engine:
    """The graph is made in memory, in milliseconds."""
    from residual.export.model import INPUT, at_hand

    made, making = [at_hand(trained)], Lock()
    ready: list[Any] = []

    def session() -> Any:
        # At the first picture: by then the network may go, where nobody else holds it.
        with making:
            if not ready:
                gc.collect()
                ready.append(session_of(*made[0], threads))
                made.clear()
                # What was needed on the way goes back to the system.
                with suppress(AttributeError, OSError, TypeError):  # another C library than glibc
                    ctypes.CDLL(None).malloc_trim(0)
        return ready[0]

    def answer(inputs: Tensor) -> Tensor:
        (found,) = session().run(None, {INPUT: inputs.contiguous().numpy()})
        return torch.from_numpy(found)

    return answer


def session_of(
    content: bytes, large: Mapping[str, NDArray[Any]], threads: int
) -> "onnxruntime.InferenceSession":  # type: ignore[name-defined]  # noqa: F821
    """An ONNX model, with the constants that are kept apart, ready to run on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # As fast, with 98 MB instead of 325 MB beside the weights for 16 pictures and ResNet-50.
    options.enable_mem_pattern = False
    if large:  # is copied as it is needed, and may go
        files = [array.reshape(-1).view(np.uint8) for array in large.values()]
        sizes = [len(file) for file in files]
        options.add_external_initializers_from_files_in_memory(list(large), files, sizes)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
