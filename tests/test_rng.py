"""Claims of keyed randomness."""

import pytest
import torch

from residual.data.rng import keyed_hash, packing_order, permutation, randint, splitmix64

ALL = 2**64 - 1


def reference(state: int) -> int:
    """The next number of Steele, Lea and Flood's generator, in integers that do not overflow."""
    z = (state + 0x9E3779B97F4A7C15) & ALL
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL
    return z ^ (z >> 31)


def slow_hash(*key: int) -> int:
    state = 0
    for part in key:
        state = reference(state ^ reference(part & ALL))
    return state


def numbers(n: int) -> torch.Tensor:
    """Integers of all sizes and both signs."""
    draw = torch.Generator().manual_seed(0)
    big = torch.randint(-(2**63), 2**63 - 1, (n,), generator=draw)
    return big >> (torch.arange(n) % 64)


def test_the_mixing_is_the_published_splitmix64():
    # The first number of the generator that starts at 1234567, as published with it.
    assert reference(1_234_567) == 6_457_827_717_110_365_317
    x = torch.cat([numbers(500), torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)])])
    assert [value & ALL for value in splitmix64(x).tolist()] == [
        reference(v & ALL) for v in x.tolist()
    ]


def test_a_hash_of_tensors_is_the_hash_of_each_key():
    ids, epochs = numbers(200), torch.arange(200) % 7
    fast = keyed_hash(-3, epochs, ids, 2)
    pairs = zip(epochs.tolist(), ids.tolist(), strict=True)
    assert [value & ALL for value in fast.tolist()] == [slow_hash(-3, e, i, 2) for e, i in pairs]


def test_a_key_is_its_parts_in_their_order():
    keys = [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (1,), (2,), (1, 1), (2, 2)]
    assert len({int(keyed_hash(*key)) for key in keys}) == len(keys)


@pytest.mark.parametrize("n", [2, 3, 9, 17])
def test_draws_are_all_equally_likely(n):
    drawn = randint(n, 0, torch.arange(100_000))
    assert drawn.unique().tolist() == list(range(n))
    expected = 100_000 / n
    chi2 = float(((drawn.bincount().double() - expected) ** 2 / expected).sum())
    assert chi2 < n + 5 * n**0.5 + 10  # far beyond what chance does


def test_draws_of_neighbouring_keys_do_not_follow_each_other():
    coins = [randint(2, seed, epoch, torch.arange(10_000), draw) for seed, epoch, draw in
             ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]  # fmt: skip
    for i, a in enumerate(coins):
        assert abs(float((a[1:] == a[:-1]).double().mean()) - 0.5) < 0.03
        for b in coins[i + 1 :]:
            assert abs(float((a == b).double().mean()) - 0.5) < 0.03


@pytest.mark.parametrize("n", [1, 2, 5, 1_000])
def test_an_epoch_visits_each_image_once(n):
    assert sorted(permutation(3, 4, n).tolist()) == list(range(n))


def test_the_order_is_the_one_of_the_hashes():
    def signed(value: int) -> int:
        return value - 2**64 if value >> 63 else value

    expected = sorted(range(300), key=lambda i: signed(slow_hash(5, 6, i)))
    assert permutation(5, 6, 300).tolist() == expected


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = {
        tuple(permutation(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def slow_blocks(seed: int, epoch: int, n: int, block: int) -> list[int]:
    """Blocks of pictures that lie together, visited in the order of the blocks' hashes."""

    def signed(*key: int) -> int:
        value = slow_hash(*key)
        return value - 2**64 if value >> 63 else value

    lying = sorted(range(n), key=lambda i: signed(-1, i))
    blocks = [lying[start : start + block] for start in range(0, n, block)]
    numbers = sorted(range(len(blocks)), key=lambda b: signed(seed, epoch, b, -2))
    return [i for b in numbers for i in sorted(blocks[b], key=lambda i: signed(seed, epoch, i))]


@pytest.mark.parametrize(("n", "block"), [(1, 4), (23, 1), (23, 5), (24, 6), (10, 100)])
def test_an_order_in_blocks_is_its_definition_and_visits_each_image_once(n, block):
    for epoch in range(3):
        visited = permutation(5, epoch, n, "cpu", block).tolist()
        assert visited == slow_blocks(5, epoch, n, block)
        assert sorted(visited) == list(range(n))


def test_what_lies_together_is_visited_together_and_has_all_kinds():
    lying = packing_order(1_000)
    place = lying.argsort()
    for some in permutation(1, 2, 1_000, "cpu", 50).split(50):
        assert place[some].amax() - place[some].amin() == 49
        assert 5 < int((some < 500).sum()) < 45  # a folder's first half are other classes
