"""Keyed randomness: random numbers as functions of a key such as (seed, epoch, image, draw)."""

from functools import lru_cache, reduce

import torch
from torch import Tensor

MASK64 = 2**64 - 1
PACKED, BLOCK = -1, -2  # keys that no draw of an image has


def splitmix64(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood, 2014) on int64, which wraps around alike on
    CPU and GPU. Masks make the shifts logical."""
    x = x + -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, the golden ratio, as int64
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def keyed_hash(*key: Tensor | int) -> Tensor:
    """A 64-bit hash of a key of integers. Tensors in the key are broadcast."""
    parts = [torch.as_tensor(part, dtype=torch.int64) for part in key]
    device = next((part.device for part in parts if part.device.type != "cpu"), parts[0].device)
    start = torch.zeros((), dtype=torch.int64, device=device)
    return reduce(lambda state, part: splitmix64(state ^ splitmix64(part.to(device))), parts, start)


def randint(n: int, *key: Tensor | int) -> Tensor:
    """Integers from 0 to n - 1, one for each key. They are as good as uniform for small n."""
    return ((keyed_hash(*key) >> 1) & 0x3FFFFFFFFFFFFFFF) % n


def uniform(*key: Tensor | int) -> Tensor:
    """Numbers in [0, 1), float64, one for each key."""
    return ((keyed_hash(*key) >> 11) & 0x1FFFFFFFFFFFFF).double() / 2**53


def single_hash(*key: int) -> int:
    """`keyed_hash` of one key in plain integers, as 64 bits without a sign. It takes a fortieth of
    the time."""
    state = 0
    for part in key:
        state = _splitmix64_int(state ^ _splitmix64_int(part & MASK64))
    return state


def _splitmix64_int(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def single_randint(n: int, *key: int) -> int:
    """`randint` of one key in plain integers."""
    return (single_hash(*key) >> 1 & 0x3FFFFFFFFFFFFFFF) % n


def single_uniform(*key: int) -> float:
    """`uniform` of one key in plain integers."""
    return (single_hash(*key) >> 11) / 2**53


def packing_order(n: int, device: torch.device | str = "cpu") -> Tensor:
    """The random order (n,) in which n images are stored in shards."""
    return keyed_hash(PACKED, torch.arange(n, device=device)).argsort(stable=True)


@lru_cache(maxsize=4)  # all batches of an epoch ask for the same order
def permutation(
    seed: int, epoch: int, n: int, device: torch.device | str = "cpu", block: int = 0
) -> Tensor:
    """The random order (n,) of n images in an epoch.

    With a block size, for stores with slow random access: the order of blocks is random, and so is
    the order inside a block of images that are adjacent in shards.
    """
    keys = keyed_hash(seed, epoch, torch.arange(n, device=device))
    if not block:
        return keys.argsort(stable=True)
    stored = packing_order(n, device)
    mixed_within = keys[stored].argsort(stable=True)
    blocks = keyed_hash(seed, epoch, mixed_within // block, BLOCK)
    return stored[mixed_within[blocks.argsort(stable=True)]]
