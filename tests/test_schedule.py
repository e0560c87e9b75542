"""Cosine decay agrees with torch's schedulers; a plateau is what its definition says."""

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from residual.training.optim import cosine, drops_by_plateau


def optimizer(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)


def test_warm_up_and_cosine_agree_with_torch():
    sgd = optimizer(0.5)
    warmup = LinearLR(sgd, start_factor=0.01, total_iters=5)
    both = SequentialLR(sgd, [warmup, CosineAnnealingLR(sgd, T_max=35)], milestones=[5])
    for step in range(40):
        assert cosine(step, 40, 0.5, 5, 0.01) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        both.step()


def test_the_cosine_begins_at_the_rate_and_ends_at_nothing():
    assert cosine(0, 100, 0.5, 0, 0.01) == 0.5
    assert cosine(0, 100, 0.5, 5, 0.01) == pytest.approx(0.005)
    assert cosine(5, 100, 0.5, 5, 0.01) == 0.5
    assert cosine(50, 100, 0.5, 0, 0.01) == pytest.approx(0.25)
    assert cosine(100, 100, 0.5, 5, 0.01) == pytest.approx(0, abs=1e-12)


def test_a_training_that_is_all_warm_up_has_a_rate():
    assert [cosine(step, 2, 0.5, 2, 0.5) for step in range(3)] == [0.25, 0.375, 0.5]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_plateaus_agree_with_torch(threshold):
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(60, generator=draw) * 4
    errors = (80 * 0.9 ** torch.arange(60) + noise).tolist()
    sgd = optimizer(1.0)
    theirs = ReduceLROnPlateau(
        sgd, factor=0.1, patience=2, threshold=threshold, threshold_mode="abs", eps=0
    )
    seen = set()
    for looks, error in enumerate(errors, 1):
        theirs.step(error)
        drops = drops_by_plateau(errors[:looks], patience=3, threshold=threshold)
        assert sgd.param_groups[0]["lr"] == pytest.approx(0.1**drops)
        seen.add(drops)
    assert len(seen) > 3


def test_the_rate_drops_after_so_many_looks_without_a_gain():
    assert drops_by_plateau([], 2) == 0
    assert drops_by_plateau([50, 40, 41], 2) == 0
    assert drops_by_plateau([50, 40, 41, 40], 2) == 1  # to be as good is no gain
    assert drops_by_plateau([50, 40, 41, 40, 39, 39, 39], 2) == 2
    assert drops_by_plateau([50, float("nan"), float("nan")], 2) == 1
    assert drops_by_plateau([50, 49.95, 49.9], 2, threshold=0.2) == 1
