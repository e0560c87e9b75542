"""What export/engine.py claims: whatever computes, the probabilities are the network's."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import nn

from residual.data.normalization import Preprocessing
from residual.export.engine import engine, onnxruntime_engine
from residual.export.layers import fold
from residual.models.registry import build
from residual.runs.load import Trained


def trained(
    network: str, size: int = 32, shorter: int | None = None, pixel: bool = False
) -> Trained:
    """A network with statistics that are not those of its start."""
    torch.manual_seed(0)
    net = build(network, 7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    mean = torch.rand(3, *((size, size) if pixel else (1, 1)))
    before = Preprocessing(mean, torch.rand(3, 1, 1) + 0.5, (size, size), shorter)
    return Trained(net.eval(), network, tuple("abcdefg"), before, None, None)


KINDS = [
    trained("resnet8"), trained("plain8"), trained("resnet8-B", pixel=True),
    trained("resnet18", 64, 72), trained("resnet50", 64, 72), trained("resnet18-C", 64, 64, True),
]  # fmt: skip
NAMES = [f"{each.network}-{each.preprocessing.shorter}" for each in KINDS]


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_folding_changes_no_score_and_leaves_the_network_as_it_was(kind, inputs):
    before = {name: tensor.clone() for name, tensor in kind.net.state_dict().items()}
    with torch.no_grad():
        expected = kind.net(inputs)
        assert torch.allclose(fold(kind.net)(inputs), expected, rtol=1e-4, atol=1e-5)
    assert not [m for m in fold(kind.net).modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(before[name], t) for name, t in kind.net.state_dict().items())


def test_folding_is_exact_in_float64(inputs):
    net = trained("resnet8").net.double()
    with torch.no_grad():
        difference = fold(net)(inputs.double()) - net(inputs.double())
    assert difference.abs().max() < 1e-12


def test_a_normalization_of_what_others_use_too_is_not_fold(inputs):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            nn.init.uniform_(self.norm.running_mean)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    net = Twice().eval()
    assert torch.allclose(fold(net)(inputs), net(inputs), atol=1e-6)


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "auto"])
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_every_engine_gives_the_probabilities_of_the_network(kind, name, inputs):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="needs the extra deploy")
    height, width = kind.preprocessing.size
    inputs = inputs[:, :, :height, :width]
    with torch.no_grad():
        expected = kind.net(inputs).softmax(dim=1)
    assert (engine(kind, name, 1)(inputs) - expected).abs().max() < 1e-5


def test_nothing_of_the_extra_is_imported_until_it_is_needed():
    code = (
        "import sys; sys.modules.update(onnx=None, onnxruntime=None)\n"
        "import residual.cli.app, residual.export.engine, residual.export.detector_check\n"
        "import residual.export.predict"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_torch_answers_and_the_other_is_refused(monkeypatch, inputs):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    kind = KINDS[0]
    with torch.no_grad():
        expected = kind.net(inputs).softmax(dim=1)
    assert (engine(kind)(inputs) - expected).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"pip install .*\[deploy\]"):
        engine(kind, "onnxruntime")
    with pytest.raises(ValueError, match="no engine 'tensorrt'"):
        engine(kind, "tensorrt")


def test_threads_may_share_an_engine_from_the_first_picture_on(inputs):
    pytest.importorskip("onnxruntime", reason="needs the extra deploy")
    kind = KINDS[0]
    height, width = kind.preprocessing.size
    inputs = inputs[:, :, :height, :width]
    answering, together = onnxruntime_engine(kind, 1), Barrier(4)

    def scores_of(_: int) -> torch.Tensor:
        together.wait()
        return answering(inputs)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(scores_of, range(4))
    assert all(torch.equal(first, other) for other in others)


def test_an_engine_that_could_not_begin_says_why_each_time(inputs, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs the extra deploy")

    def none(*given: object) -> None:
        raise MemoryError("no room for the weights")

    monkeypatch.setattr("residual.export.engine.open_session", none)
    answering = onnxruntime_engine(KINDS[0], 1)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room"):
            answering(inputs)
