"""Servers as processes of their own, and requests to them."""

import http.client
import json
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conftest import FORK, call_in_child


@dataclass(frozen=True)
class Reply:
    """What a server answers."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server that listens on a port of this machine."""

    process: Any
    port: int
    folder: Path  # of what it prints: out and err

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """The reply to a request; a header's name has _ for -."""
        connection = self.connect()
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request(method, path, body, names)
        reply = read(connection)
        connection.close()
        return reply

    def post(self, path: str, *files: Path, **headers: str) -> Reply:
        """The reply to a form with these files."""
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{quote(file.name)}"\r\n\r\n'.encode()
            + file.read_bytes()
            + b"\r\n"
            for file in files
        ]
        kind = f"multipart/form-data; boundary={boundary}"
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return self.ask("POST", path, body, Content_Type=kind, **headers)

    def stop(self) -> int:
        """End it by SIGTERM -> its exit status."""
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.join(60)
        assert self.process.exitcode is not None
        return self.process.exitcode


def read(connection: http.client.HTTPConnection) -> Reply:
    """The reply on a connection."""
    response = connection.getresponse()
    headers = {name.lower(): text for name, text in response.getheaders()}
    return Reply(response.status, headers, response.read())


@contextmanager
def serving(folder: Path, *words: object) -> Iterator[Server]:
    """A server started by `residual serve WORDS...`, on a free port, with one thread."""
    out, err = folder / "out", folder / "err"
    arguments = ["serve", *map(str, words), "--port", "0", "--threads", "1"]
    process = FORK.Process(target=call_in_child, args=(arguments, str(folder), str(out), str(err)))
    process.start()
    try:
        for _ in range(600):
            if found := re.search(
                r" at http://[^ ]*:(\d+) ", out.read_text() if out.exists() else ""
            ):
                break
            assert process.is_alive(), err.read_text()
            time.sleep(0.1)
        server = Server(process, int(found.group(1)), folder)
        wait_until_healthy(server)
        yield server
    finally:
        process.kill()
        process.join()


def wait_until_healthy(server: Server) -> None:
    """Wait for an answer. The port listens before the network is loaded."""
    assert server.ask("GET", "/health").json == {"status": "ok"}
