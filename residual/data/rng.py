"""Randomness as a pure function of what it depends on: the seed, the epoch, the image, the draw."""

from functools import lru_cache, reduce

import torch
from torch import Tensor

MASK64 = 2**64 - 1
PACKED, BLOCK = -1, -2  # no draw of an image has such a key


def splitmix64(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood, 2014) on int64, which wraps around alike on
    CPU and GPU. Shifts are made logical by masking the sign's copies."""
    x = x + -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, the golden ratio, as int64
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def keyed_hash(*key: Tensor | int) -> Tensor:
    """A 64-bit integer hash of a key of integers. Tensors in it are broadcast, elementwise."""
    parts = [torch.as_tensor(part, dtype=torch.int64) for part in key]
    device = next((part.device for part in parts if part.device.type != "cpu"), parts[0].device)
    start = torch.zeros((), dtype=torch.int64, device=device)
    return reduce(lambda state, part: splitmix64(state ^ splitmix64(part.to(device))), parts, start)


def single_hash(*key: int) -> int:
    """`hashed` of one key, as 64 bits without a sign, in plain integers."""
    state = 0
    for part in key:
        state = _splitmix64_int(state ^ _splitmix64_int(part & MASK64))
    return state


def _splitmix64_int(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def randint(n: int, *key: Tensor | int) -> Tensor:
    """Integers from 0 to n - 1, as good as uniform (n is small), one for each key."""
    return ((keyed_hash(*key) >> 1) & 0x3FFFFFFFFFFFFFFF) % n


def single_randint(n: int, *key: int) -> int:
    """`below` of one key, in plain integers: a box costs a fortieth of what it does in tensors."""
    return (single_hash(*key) >> 1 & 0x3FFFFFFFFFFFFFFF) % n


def uniform(*key: Tensor | int) -> Tensor:
    """Numbers in [0, 1), float64, one for each key."""
    return ((keyed_hash(*key) >> 11) & 0x1FFFFFFFFFFFFF).double() / 2**53


def single_uniform(*key: int) -> float:
    """`unit` of one key, likewise."""
    return (single_hash(*key) >> 11) / 2**53


def packing_order(n: int, device: torch.device | str = "cpu") -> Tensor:
    """The order (n,) in which n pictures lie in shards: mixed, so that each shard has all kinds."""
    return keyed_hash(PACKED, torch.arange(n, device=device)).argsort(stable=True)


@lru_cache(maxsize=4)  # one epoch's batches ask for the same order
def permutation(
    seed: int, epoch: int, n: int, device: torch.device | str = "cpu", block: int = 0
) -> Tensor:
    """The order (n,) in which an epoch visits n images.

    With a block, for stores that are slow where they are asked here and there: so many images that
    lie next to one another in shards are visited together, mixed, block by block in mixed order.
    """
    keys = keyed_hash(seed, epoch, torch.arange(n, device=device))
    if not block:
        return keys.argsort(stable=True)
    lying = packing_order(n, device)
    mixed_within = keys[lying].argsort(stable=True)
    blocks = keyed_hash(seed, epoch, mixed_within // block, BLOCK)
    return lying[mixed_within[blocks.argsort(stable=True)]]
