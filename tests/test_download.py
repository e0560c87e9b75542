"""What download.py claims, against a server of our own."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import FORK

from residual.data.download import fetch


@dataclass
class Server:
    """Gives out one file, and remembers from which byte it was asked for."""

    content: bytes
    ranges: bool = True
    shift: int = 0  # so many bytes later than asked for
    slow: threading.Event | None = None  # the second half waits for it
    breaks_after: int | None = None  # bytes, once
    asked: list[int] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        self.asked.append(start)
        start = start + self.shift if self.ranges and start else 0
        if start >= len(self.content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(self.content) - start))
        if start:
            last, size = len(self.content) - 1, len(self.content)
            handler.send_header("Content-Range", f"bytes {start}-{last}/{size}")
        handler.end_headers()
        body = self.content[start:]
        if self.breaks_after is not None:
            body, self.breaks_after = body[: self.breaks_after], None
        handler.wfile.write(body[: len(body) // 2])
        if self.slow:
            self.slow.wait(60)
        handler.wfile.write(body[len(body) // 2 :])


@pytest.fixture
def serve() -> Iterator:
    running = []

    def start(content: bytes, **settings: object) -> Server:
        served = Server(content, **settings)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        served.url = f"http://127.0.0.1:{server.server_port}/file"
        return served

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


CONTENT = bytes(range(256)) * 4_000
MD5 = hashlib.md5(CONTENT).hexdigest()
DEAD = "http://127.0.0.1:9/file"  # the port that discards


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path, serve, ranges):
    server = serve(CONTENT, ranges=ranges, breaks_after=300_000)
    target = tmp_path / "file"
    with pytest.raises(OSError, match=r"the connection broke after 300,000 of 1,024,000 bytes"):
        fetch([server.url], target, MD5)
    assert not target.exists()
    reports: list[tuple[int, int]] = []
    fetch([server.url], target, MD5, lambda *report: reports.append(report))
    assert server.asked == [0, 300_000]
    assert target.read_bytes() == CONTENT
    assert reports[-1] == (len(CONTENT), len(CONTENT))


def test_another_mirror_goes_on_where_the_first_one_broke(tmp_path, serve):
    first, second = serve(CONTENT, breaks_after=300_000), serve(CONTENT)
    fetch([first.url, second.url], tmp_path / "file", MD5)
    assert second.asked == [300_000]
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"another file " * 100, b"x" * 2_000_000])
def test_a_stale_beginning_is_thrown_away(tmp_path, serve, stale):
    server = serve(CONTENT)
    (tmp_path / "file.partial").write_bytes(stale)
    fetch([server.url], tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [len(stale), 0]


def test_a_beginning_that_is_already_everything_is_enough(tmp_path, serve):
    server = serve(CONTENT)
    (tmp_path / "file.partial").write_bytes(CONTENT)
    fetch([server.url], tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [len(CONTENT)]


def test_what_has_the_wrong_checksum_is_not_kept(tmp_path, serve):
    wrong, right = serve(CONTENT[1:]), serve(CONTENT)
    with pytest.raises(OSError, match="what came has the wrong checksum"):
        fetch([wrong.url], tmp_path / "file", MD5)
    assert not list(tmp_path.iterdir())
    fetch([wrong.url, right.url], tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_dead_mirror_is_passed_over(tmp_path, serve):
    fetch([DEAD, serve(CONTENT).url], tmp_path / "new" / "file", MD5)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT


def test_a_server_that_has_no_such_file_is_named(tmp_path, serve):
    with pytest.raises(
        OSError, match=r"file could not be fetched \(127\.0\.0\.1:\d+: .*\); .*put it at"
    ):
        fetch([serve(b"").url], tmp_path / "file", MD5)


def test_other_bytes_than_those_that_are_missing_are_not_appended(tmp_path, serve):
    server = serve(CONTENT, shift=10)
    (tmp_path / "file.partial").write_bytes(CONTENT[:1_000])
    fetch([server.url], tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [1_000, 0]


def test_of_several_processes_one_fetches_and_the_others_wait(tmp_path, serve):
    server = serve(CONTENT, slow=threading.Event())
    target = tmp_path / "file"
    words = ([server.url], target, MD5)
    processes = [FORK.Process(target=fetch, args=words) for _ in range(3)]
    for process in processes:
        process.start()
    while not server.asked:
        time.sleep(0.01)
    processes[0].join(2)  # time for the others to come
    assert all(process.is_alive() for process in processes)
    server.slow.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert target.read_bytes() == CONTENT
    assert server.asked == [0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_where_the_one_that_fetches_is_killed_another_goes_on(tmp_path, serve):
    server = serve(CONTENT, slow=threading.Event())
    target, partial = tmp_path / "file", tmp_path / "file.partial"
    words = ([server.url], target, MD5)
    first, second = (FORK.Process(target=fetch, args=words) for _ in range(2))
    first.start()
    while not (partial.exists() and partial.stat().st_size):
        time.sleep(0.01)
    second.start()
    first.kill()
    first.join()
    server.slow.set()
    second.join(60)
    assert second.exitcode == 0
    assert target.read_bytes() == CONTENT
    assert server.asked[0] == 0 and 0 < server.asked[1] < len(CONTENT)
