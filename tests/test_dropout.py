"""Dropout is a function of the seed, the step, the group and the layer."""

import pytest
import torch
from torch import nn

from residual.training.dropout import Dropouts


def net(seed: int = 0, group: int = 2) -> tuple[nn.Module, Dropouts]:
    both = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.25))
    coins = Dropouts(both, group, seed)
    coins.begin_step(0)
    return both, coins


ONES = torch.ones(8, 1_000)


def test_groups_lose_the_same_however_many_pass_at_once():
    whole, _ = net()
    parts, coins = net()
    found = []
    for coins.first in range(4):
        found.append(parts(ONES[:2]))
    assert torch.equal(whole(ONES), torch.cat(found))


@pytest.mark.parametrize("what", ["seed", "step", "group", "layer"])
def test_another_key_tosses_other_coins(what):
    usual, _ = net()
    other, coins = net(seed=int(what == "seed"))
    coins.step, coins.first = int(what == "step"), int(what == "group")
    if what == "layer":
        usual[1].p = 0.5  # as the first, so that the layer alone differs
        assert not torch.equal(usual[0](ONES), usual[1](ONES))
    else:
        assert not torch.equal(usual(ONES), other(ONES))


def test_the_mean_stays_and_the_share_is_the_probability():
    both, _ = net()
    found = both[1](torch.ones(8, 100_000))
    assert found.mean() == pytest.approx(1, abs=0.01)
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.01)


def test_torch_s_generator_changes_nothing_and_in_use_nothing_is_lost():
    both, _ = net()
    torch.manual_seed(1)
    first = both(ONES)
    torch.manual_seed(2)
    assert torch.equal(first, both(ONES))
    assert torch.equal(both.eval()(ONES), ONES)
