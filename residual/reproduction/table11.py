"""Table 11: detection on VOC 2012 by class, and with every improvement."""

from collections.abc import Sequence

from residual.reproduction import paper
from residual.reproduction.detections import AP, VOC12, VOC12_VAL, Detection, benchmark
from residual.reproduction.experiments import Result
from residual.reproduction.table10 import by_class, improved

CURVE = False
KEY = AP  # what a result file must hold
SERVER = (
    "\n\nThe boxes of the test set are with a server. What can be tested here is the validation "
    "set, after training without it: `--set train_split=07+07test+12train --set test_split=12val`."
)


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Detection]:
    return improved("voc07++12", steps, seeds, depths)


def shown(results: Sequence[Result]) -> list[Result]:
    """On VOC 2012."""
    return [r for r in results if benchmark(r) in (VOC12, VOC12_VAL)]


def table(results: Sequence[Result]) -> str:
    return by_class(results, VOC12, paper.TABLE_11) + SERVER
