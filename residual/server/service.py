"""Answers requests: admits them, decodes pictures in threads, and batches them for the network."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image

from residual.data.decode import DamagedImage, damage_context, open_header, open_image
from residual.server.batcher import Batcher
from residual.server.metrics import Metrics
from residual.server.served_model import ServedModel
from residual.storage import display_name
from residual.tasks.detection.visualization import png

BODIES = 8  # of the largest size, in memory at once
Upload = tuple[str, bytes]  # the name of a picture, and its file


@dataclass(frozen=True)
class ServerOptions:
    """The limits of a server."""

    token: str = ""  # that clients must send; empty: none
    queue: int = 64  # pictures that are accepted and not answered
    batch: int = 16  # pictures in a forward pass
    window: float = 0.004  # seconds that a picture waits for others
    max_bytes: int = 32_000_000  # of a request; of all together, eight times as many
    max_pixels: int = 50_000_000  # of a picture
    timeout: float = 30  # seconds for a request
    threads: int = 2  # that decode


class ServerBusy(Exception):
    """The queue is full."""


class Service:
    """A model at work."""

    def __init__(self, model: ServedModel, options: ServerOptions) -> None:
        self.model, self.options = model, options
        self.waiting = 0  # pictures
        self.bytes = 0  # of the bodies of requests
        self.metrics = Metrics(lambda: self.waiting)
        largest = min(options.batch, model.largest_batch)
        self._batcher = Batcher(model.infer, largest, options.window, self.metrics.batch.observe)
        # Decoded pictures that wait for the network, so that their memory is bounded.
        self._decoded = asyncio.Semaphore(2 * largest)
        self._threads = ThreadPoolExecutor(options.threads, "decoder")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the network's batches in the background."""
        task = asyncio.create_task(self._batcher.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @contextmanager
    def admitted(self, pictures: int) -> Iterator[None]:
        """Count pictures as waiting during the block. Raises ServerBusy if the queue is full."""
        if self.waiting + pictures > self.options.queue:
            raise ServerBusy(f"the server is busy: {self.waiting} pictures wait; try again")
        self.waiting += pictures
        try:
            yield
        finally:
            self.waiting -= pictures

    def hold(self, count: int, stack: ExitStack) -> None:
        """Count bytes of a body until the stack is closed. Raises ServerBusy if all requests
        together have too many."""
        if self.bytes + count > BODIES * self.options.max_bytes:
            raise ServerBusy(f"the server is busy: {self.bytes:,} bytes wait; try again")
        self.bytes += count
        stack.callback(self._release, count)

    def _release(self, count: int) -> None:
        self.bytes -= count

    async def predict(self, uploads: Sequence[Upload], top: int, score: float) -> list[Any]:
        """The answers of `residual predict --json`, one for each picture, in order."""
        work = (self._predict(*upload, top, score) for upload in uploads)
        answers = await asyncio.gather(*work, return_exceptions=True)
        for error in answers:
            if isinstance(error, BaseException):
                raise error
        return answers

    async def _predict(self, name: str, raw: bytes, top: int, score: float) -> dict[str, Any]:
        async with self._decoded:
            try:
                value = await self.in_thread(self.decode, name, raw, self.model.decode)
            except DamagedImage as error:
                return {"image": name, "error": str(error)}
            result = await self._batcher.submit(value)
        self.metrics.pictures.inc()
        return {"image": name} | self.model.answer(result, top, score)

    async def explain(self, upload: Upload, class_name: str | None) -> bytes:
        """A picture with its class activation map, as PNG. Raises DamagedImage, and ValueError for
        an unknown class."""
        draw, (name, raw) = self.model.explain, upload
        assert draw is not None
        async with self._decoded:
            picture = await self.in_thread(self.decode, name, raw, open_image)
            drawing = await self._batcher.call(draw, picture, class_name)
            return bytes(await self.in_thread(png, drawing))

    def decode(self, name: str, raw: bytes, decode: Callable[[bytes], Any]) -> Any:
        """A picture within the limits, decoded. Raises DamagedImage with its name."""
        try:
            with damage_context("the picture"):
                if not raw:
                    raise ValueError("it is empty")
                width, height = open_header(raw).size
                if width * height > (limit := self.options.max_pixels):
                    raise Image.DecompressionBombError(
                        f"it has {width}x{height} pixels, more than {limit:,}"
                    )
            return decode(raw)
        except DamagedImage as error:
            text = str(error).removeprefix("the picture")
            raise type(error)(f"{display_name(name)}{text}") from None

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A function's result, computed in a thread that decodes."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)
