"""Calibration: how often a classifier is right at each confidence, the probability of its answer.

C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML
2017.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from residual.analysis.curves import COLOURS, style_axes

Values = NDArray[np.float64]
Bins = tuple[Values, Values, Values]  # counts, mean confidence and accuracy of bins with images
BINS = 15  # of equal width, as in the publication's tables


def calibrate(confidence: Values, right: NDArray[np.bool_]) -> Bins:
    """The bins of answers with these confidences (N,) in [0, 1]; N is at least 1."""
    from sklearn.calibration import calibration_curve

    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS, pos_label=1)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)  # as scikit-learn's
    counts = np.unique(bins, return_counts=True)[1].astype(np.float64)
    return counts, mean, accuracy


def expected_calibration_error(bins: Bins) -> float:
    """In [0, 1] (Equation 3)."""
    counts, confidence, accuracy = bins
    return float(np.average(np.abs(accuracy - confidence), weights=counts))


def draw_calibration(bins: Bins) -> Figure:
    """The reliability diagram: above it the share of the images at each confidence."""
    figure, (counts, confidence, accuracy) = Figure((7.2, 4.4), layout="constrained"), bins
    share, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    places, width = (np.ceil(confidence * BINS) - 0.5) / BINS, 0.94 / BINS
    share.bar(places, counts / counts.sum(), width, color="0.65")
    axes.bar(places, accuracy, width, color=COLOURS[0], label="accuracy")
    axes.bar(
        places, confidence - accuracy, width, accuracy, color="none", edgecolor=COLOURS[1],
        hatch="///", linewidth=0.6, label="gap to the confidence",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="0.3", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    for panel, name in ((share, "images"), (axes, "accuracy")):
        panel.set(ylabel=name, xlim=(0, 1), ylim=(0, 1))
        panel.yaxis.set_major_formatter(PercentFormatter(1))
        style_axes(panel)
    axes.set_xlabel("confidence")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure
