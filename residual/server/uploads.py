"""Reads pictures from the body of a request, within limits."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import PurePosixPath

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from residual.server.service import Service, Upload


@asynccontextmanager
async def received(request: Request, service: Service) -> AsyncIterator[list[Upload]]:
    """The pictures of a request: parts of a form, or the body. Their bytes, and they themselves,
    count during the block. Raises HTTPException, and ServerBusy."""
    options, count = service.options, ExitStack()
    with count:
        try:
            async with asyncio.timeout(options.timeout):
                body = await read_body(request, service, count)
        except TimeoutError:
            text = f"the body did not arrive within {options.timeout:g} s"
            raise HTTPException(408, text, {"Connection": "close"}) from None
        uploads = [("image 0", body)] if body else []
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            uploads = await form_uploads(request, body, service)
        if not uploads:
            raise HTTPException(422, "the request has no picture: send a form of files, or a file")
        with service.admitted(len(uploads)):
            yield uploads


async def read_body(request: Request, service: Service, count: ExitStack) -> bytes:
    """The body of a request, held until `count` is closed. Raises HTTPException beyond the limit,
    and ServerBusy."""
    length, limit = request.headers.get("content-length", ""), service.options.max_bytes
    body = bytearray()
    if not (length.isdecimal() and int(length) > limit):
        async for chunk in request.stream():
            service.hold(len(chunk), count)
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"the request is larger than {limit:,} bytes", {"Connection": "close"})


async def form_uploads(request: Request, body: bytes, service: Service) -> list[Upload]:
    """The files of a multipart form. Raises HTTPException for a damaged one, and for too many."""
    limit = service.options.queue

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    async def parse() -> list[Upload]:
        parser = MultiPartParser(request.headers, stream(), max_files=limit, max_fields=limit)
        parser.spool_max_size = len(body) + 1  # in memory, as the body is
        form = await parser.parse()
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [(picture_name(file, i), await file.read()) for i, file in enumerate(files)]

    try:  # in a thread, since a large form takes a second
        return list(await service.in_thread(asyncio.run, parse()))
    except MultiPartException as error:
        status = 422 if error.message.startswith("Too many") else 400
        raise HTTPException(status, f"the form cannot be read: {error.message}") from None
    except Exception as error:  # the boundary is missing
        raise HTTPException(400, f"the form cannot be read: {error}") from None


def picture_name(file: UploadFile, number: int) -> str:
    """The last part of the name that the client gave, or a number."""
    name = PurePosixPath((file.filename or "").replace("\\", "/")).name or f"image {number}"
    return name.encode(errors="replace").decode()  # lone surrogates are no JSON
