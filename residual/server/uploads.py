"""Reads pictures from the body of a request, within limits."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import PurePosixPath

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from residual.server.service import ServerOptions, Upload


async def read_uploads(request: Request, options: ServerOptions) -> list[Upload]:
    """The pictures of a request: parts of a form, or the body. Raises HTTPException."""
    try:
        async with asyncio.timeout(options.timeout):
            body = await read_body(request, options.max_bytes)
    except TimeoutError:
        raise HTTPException(
            408, f"the body did not arrive within {options.timeout:g} s", {"Connection": "close"}
        ) from None
    uploads = [("image 0", body)] if body else []
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        uploads = await form_uploads(request, body, options.queue)
    if not uploads:
        raise HTTPException(422, "the request has no picture: send a form of files, or a file")
    return uploads


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request. Raises HTTPException beyond the limit."""
    length = request.headers.get("content-length", "")
    body = bytearray()
    if not (length.isdecimal() and int(length) > limit):
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"the request is larger than {limit:,} bytes", {"Connection": "close"})


async def form_uploads(request: Request, body: bytes, limit: int) -> list[Upload]:
    """The files of a multipart form. Raises HTTPException for a damaged one, and for too many."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=limit, max_fields=limit)
    parser.spool_max_size = len(body) + 1  # in memory, as the body is
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 422 if error.message.startswith("Too many") else 400
        raise HTTPException(status, f"the form cannot be read: {error.message}") from None
    except Exception as error:  # the boundary is missing
        raise HTTPException(400, f"the form cannot be read: {error}") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    return [(picture_name(file, i), await file.read()) for i, file in enumerate(files)]


def picture_name(file: UploadFile, number: int) -> str:
    """The last part of the name that the client gave, or a number."""
    name = PurePosixPath((file.filename or "").replace("\\", "/")).name or f"image {number}"
    return name.encode(errors="replace").decode()  # lone surrogates are no JSON
