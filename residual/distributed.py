"""Which of how many processes this is, and what they tell one another."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which of how many processes this is. A sum over all of them is exact for integers."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> range:
        """This process's part of n things. All parts together hold each thing once, none twice."""
        return range(self.rank, n, self.size)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place, on every one of them."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor its mean over all processes; those of one type travel together."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = self.summed(torch.cat([tensor.reshape(-1) for tensor in own])) / self.size
            parts = torch.split(flat, [tensor.numel() for tensor in own])
            for tensor, part in zip(own, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.summed(torch.tensor(int(here)))) if self.size > 1 else here

    def first(self, act: Callable[[], T]) -> T:
        """What comes of an act that the first process alone does: told to all, and so is an error
        of whatever kind, which is then raised in all of them."""
        if self.size == 1:
            return act()
        if self.rank:
            told: list[Any] = [None]
            torch.distributed.broadcast_object_list(told)
            found, error = pickle.loads(told[0])
            if error is not None:
                raise error
            return found  # type: ignore[no-any-return]
        try:
            own = act()
            content = pickle.dumps((own, None))
        except BaseException as error:  # else the others would wait in vain
            torch.distributed.broadcast_object_list([_error_as_bytes(error)])
            raise
        torch.distributed.broadcast_object_list([content])
        return own

    def raise_together(self, error: Exception | None) -> None:
        """Raise, in every process, the error that one of them has met: nobody waits for it."""
        for met in self.gathered([error]):
            if met is not None:
                raise met

    def gathered(self, own: Sequence[T]) -> list[T]:
        """Everything that any process has, by their order."""
        if self.size == 1:
            return list(own)
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, list(own))
        return [each for part in parts for each in part]

    def share_of(self, batch: int, norm_group: int) -> int:
        """Images of each step that are this process's. Raises ValueError where they cannot be
        shared equally in whole norm groups."""
        groups = batch // norm_group
        if groups % self.size:
            fits = [n for n in range(1, self.size) if groups % n == 0]
            raise ValueError(
                f"{self.size} processes cannot share {groups} norm groups of {norm_group} images "
                f"equally; start {fits[-1]} instead"
            )
        return batch // self.size


def _error_as_bytes(error: BaseException) -> bytes:
    """No result and an error, pickled; the text of one that does not survive that."""
    try:
        content = pickle.dumps((None, error))
        pickle.loads(content)
    except Exception:
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
    return content


def here() -> World:
    """The world of this process, once processes have joined (see launch.py); else it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return World()
