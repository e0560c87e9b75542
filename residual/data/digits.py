"""Real handwritten digits that need no network access: scikit-learn's copy of the UCI set."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from residual.data.datasets import Data, Images, divided, fingerprint_in_memory


def digits() -> Data:
    """1,797 digits, 8x8 in three equal channels: 1,437 to train on and 360 to be tested on.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    levels, numbers = load_digits(return_X_y=True)  # (1797, 64), from 0 to 16
    grey = torch.from_numpy(np.round(levels * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    every = Images(grey.repeat(1, 3, 1, 1), torch.from_numpy(numbers).long())
    # Choice: a fifth is held out for the test, stratified, once and for all; the set has no split.
    train, test = (every.part(places) for places in divided(every.labels, 0.2))
    classes = tuple(map(str, range(10)))
    mark = fingerprint_in_memory(classes, train=train, test=test)
    return Data("digits", mark, classes, train, test)
