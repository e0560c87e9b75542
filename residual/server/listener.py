"""Listens on an address, and serves an application until it is told to end."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_address

import uvicorn
from fastapi import FastAPI


class StoppableServer(uvicorn.Server):
    """A server that leaves signals to its caller."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], bool]) -> None:
        super().__init__(config)
        self._stop = stop

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop()


def serve_until(
    stop: Callable[[], bool], app: FastAPI, listener: socket.socket, timeout: float
) -> None:
    """Serve until `stop` is true, which is asked ten times a second; then finish the requests that
    have begun, within so many seconds."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(timeout) + 1,
    )
    StoppableServer(config, stop).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError if the address is not of this machine, or taken."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, UnicodeError) as error:  # the latter for a name that no host can have
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise OSError(
            f"cannot listen on {host}, port {port}: {reason}; choose others with --host and --port"
        ) from None
    return listener


def url_host(host: str) -> str:
    """A host as a URL names it: an address of IPv6 is in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
