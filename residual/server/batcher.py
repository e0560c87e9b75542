"""Batches the inputs of concurrent requests for a network that runs in one thread."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Waiting = tuple[Any, "asyncio.Future[Any]"]


class Batcher:
    """Collects inputs for a few milliseconds, or while the network is busy, and passes them to it
    together."""

    def __init__(
        self,
        infer: Callable[[Sequence[Any]], Sequence[Any]],
        largest: int,
        window: float,
        observe: Callable[[int], None],
    ) -> None:
        """`infer` maps inputs to results in order; `largest` inputs are a full batch; an input
        waits at most `window` seconds for others; `observe` is called with each batch's size."""
        self._infer, self._largest, self._window = infer, largest, window
        self._observe = observe
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "network")

    async def submit(self, value: Any) -> Any:
        """The result of one input. Raises what the network raises for it."""
        future = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((value, future))
        return await future

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A function's result, computed in the network's thread between two batches."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)

    async def run(self) -> None:
        """Pass batches to the network until cancelled."""
        while True:
            batch = [entry for entry in await self._collect() if not entry[1].done()]
            if batch:
                self._observe(len(batch))
                await self._answer(batch)

    async def _collect(self) -> list[Waiting]:
        """The next inputs, at least one."""
        batch = [await self._queue.get()]
        until = asyncio.get_running_loop().time() + self._window
        while len(batch) < self._largest:
            try:
                async with asyncio.timeout_at(until):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        while len(batch) < self._largest and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _answer(self, batch: list[Waiting]) -> None:
        """Set the results of a batch. If the network refuses it, each input is passed alone, so
        that one request cannot spoil those of others."""
        try:
            results = await self.call(self._infer, [value for value, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results of {len(batch)} inputs")
        except Exception as error:
            if len(batch) > 1:
                for entry in batch:
                    await self._answer([entry])
                return
            results = [error]
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # the request was too slow
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
