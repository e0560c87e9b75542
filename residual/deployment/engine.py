"""What answers: ONNX Runtime where it is installed, else torch, with batch normalization folded."""

from collections.abc import Callable

import torch
from torch import Tensor

from residual.deployment.folding import folded
from residual.runs.loading import Trained

ENGINES = ("auto", "onnxruntime", "torch")
Engine = Callable[[Tensor], Tensor]  # inputs (N, 3, H, W) -> probabilities (N, classes), float32


def installed() -> bool:
    """Whether the extra `deploy` is here."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def engine(trained: Trained, name: str = "auto", threads: int = 0) -> Engine:
    """A network for use alone, on the device that it is on.

    Raises ValueError for an engine that is not here.
    """
    if name not in ENGINES:
        raise ValueError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    on_cpu = next(trained.net.parameters()).device.type == "cpu"
    if name == "onnxruntime" and not installed():
        raise ValueError(
            "ONNX Runtime is not installed; pip install 'residual-learning[deploy]', or take "
            "--engine torch"
        )
    if name == "onnxruntime" or (name == "auto" and on_cpu and installed()):
        return by_onnxruntime(trained, threads)
    return by_torch(trained)


def by_torch(trained: Trained) -> Engine:
    """Batch normalization folded, and memory as channels_last."""
    net = folded(trained.net).to(memory_format=torch.channels_last)
    device = next(net.parameters()).device

    def answer(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            placed = inputs.to(device).contiguous(memory_format=torch.channels_last)
            scores: Tensor = net(placed)
            return scores.float().softmax(dim=1).cpu()

    return answer


def by_onnxruntime(trained: Trained, threads: int = 0) -> Engine:
    """The graph is made in memory, in milliseconds."""
    from residual.deployment.model import INPUT, model

    session = session_of(model(trained, inside=False).SerializeToString(), threads)

    def answer(inputs: Tensor) -> Tensor:
        (found,) = session.run(None, {INPUT: inputs.contiguous().numpy()})
        return torch.from_numpy(found)

    return answer


def session_of(content: bytes, threads: int = 0) -> "onnxruntime.InferenceSession":  # type: ignore[name-defined]  # noqa: F821
    """An ONNX model, ready to run on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
