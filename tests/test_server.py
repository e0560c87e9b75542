"""What `residual serve` promises: the answers of `predict`, limits, a graceful shutdown."""

import json
import shutil
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
from made_detectors import detector, picture, run_of
from made_servers import Reply, Server, read, serving
from PIL import Image

from residual.tasks.classification.load import load
from residual.tasks.detection.load import load as load_detector

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("onnxruntime", reason="needs the extra deploy")

EXACT = ("--json", "--threads", 1)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of two sizes, and one that is cut."""
    folder = tmp_path_factory.mktemp("photos")
    for i, size in enumerate([(8, 8), (30, 20), (8, 8)]):
        picture(size, seed=i).save(folder / f"{i}.png")
    (folder / "cut.png").write_bytes((folder / "1.png").read_bytes()[:-200])
    return folder


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), finished) as server:
        yield server


@pytest.fixture(scope="module")
def models(command, finished, tmp_path_factory) -> dict[str, Path]:
    """A classifier and a detector, as runs and as exported files."""
    folder = tmp_path_factory.mktemp("models")
    run = run_of(detector(), folder / "detector")
    for path, name in ((finished, "classifier"), (run, "detector")):
        assert command("export", path, "--out", folder / f"{name}.onnx").status == 0
    return {
        "classifier.onnx": folder / "classifier.onnx",
        "detector": run,
        "detector.onnx": folder / "detector.onnx",
    }


def test_the_answers_are_those_of_predict(command, server, finished, photos):
    words = ("predict", finished, *sorted(p.name for p in photos.iterdir()), "--top", 3, *EXACT)
    expected = command(*words, cwd=photos)
    reply = server.post("/predict?top=3", *sorted(photos.iterdir()))
    assert reply.status == 200 and reply.json == expected.json
    assert [list(answer) for answer in reply.json] == [["image", "labels"]] * 3 + [
        ["image", "error"]
    ]
    whole = server.ask("POST", "/predict", (photos / "0.png").read_bytes())
    assert whole.json == [{"image": "image 0", "labels": whole.json[0]["labels"]}]
    assert whole.json[0]["labels"][:3] == reply.json[0]["labels"]


@pytest.mark.parametrize("name", ["classifier.onnx", "detector", "detector.onnx"])
def test_other_models_answer_as_their_commands_do(
    command, models, finished, photos, name, tmp_path
):
    detects = "detector" in name
    names = sorted(path.name for path in photos.iterdir())
    words = ("detect", "predict") if detects else ("predict",)
    options = ("--score", 0.1) if detects else ()
    expected = command(*words, models[name], *names, *options, *EXACT, cwd=photos)
    with serving(tmp_path, models[name]) as server:
        reply = server.post("/predict?score=0.1", *(photos / name for name in names))
        assert reply.status == 200 and reply.json == expected.json
        card = server.ask("GET", "/model").json
        assert card["task"] == ("detection" if detects else "classification")
        error = json.loads((finished / "result.json").read_text())["error_top1"]
        assert (card["error"] or {}).get("error_top1") == (None if detects else error)
        assert card["classes"] and card["source"].startswith("trained by residual")
        assert server.ask("POST", "/explain", b"x").status == 404
        assert server.stop() == 143
    if detects:
        assert any(answer.get("objects") for answer in reply.json)


def test_requests_at_the_same_time_share_batches_and_are_not_mixed_up(server, photos):
    expected = {path: server.post("/predict", path).json for path in sorted(photos.glob("?.png"))}
    replies: list[tuple[Path, object]] = []

    def client(path: Path) -> None:
        replies.extend((path, server.post("/predict", path).json) for _ in range(10))

    threads = [threading.Thread(target=client, args=(path,)) for path in [*expected] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 90
    for path, rows in replies:
        for label, other in zip(rows[0]["labels"], expected[path][0]["labels"], strict=True):
            assert label["label"] == other["label"]
            assert label["probability"] == pytest.approx(other["probability"], abs=1e-6)
    text = server.ask("GET", "/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    passes = float(values["residual_batch_pictures_count"])
    assert float(values["residual_batch_pictures_sum"]) == float(values["residual_pictures_total"])
    assert passes < float(values["residual_pictures_total"])
    assert float(values["residual_waiting_pictures"]) == 0


def test_a_picture_that_cannot_be_read_gets_the_sentence_of_the_command(
    command, server, finished, photos
):
    complaint = command("predict", finished, "cut.png", cwd=photos).complaint
    reply = server.post("/predict", photos / "cut.png")
    assert reply.status == 422
    assert f"residual: {reply.json['error']}" == complaint
    for body, says in ((b"", "no picture"), (b"text", "image 0 is no picture in a known format")):
        reply = server.ask("POST", "/predict", body)
        assert reply.status == 422 and says in reply.json["error"]


def test_a_name_in_any_charset_is_answered(server, photos):
    """In UTF-7 the name is half a character, which UTF-8 cannot write."""
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="+2AA-.png"\r\n\r\n'
    body = start + (photos / "0.png").read_bytes() + b"\r\n--x--\r\n"
    for charset, name in (("utf-7", "?.png"), ("utf-8", "+2AA-.png")):
        kind = f"Multipart/Form-Data; boundary=x; charset={charset}"
        reply = server.ask("POST", "/predict", body, Content_Type=kind)
        assert reply.status == 200 and reply.json[0]["image"] == name


def test_misspelt_parameters_empty_and_huge_pictures_are_named(server, photos, tmp_path):
    reply = server.post("/predict?topp=1", photos / "0.png")
    assert reply.status == 422 and "no parameter 'topp'; there is top, score" in reply.json["error"]
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    for name, says in (("empty", "damaged: it is empty"), ("huge", "too large: it has more than")):
        reply = server.post("/predict", tmp_path / f"{name}.png")
        assert reply.status == 422 and f"{name}.png is {says}" in reply.json["error"]
    assert server.ask("HEAD", "/health").status == server.ask("HEAD", "/").status == 200


def test_a_map_is_a_picture_and_needs_a_class_of_the_network(server, photos):
    reply = server.post("/explain?class=3", photos / "1.png")
    assert reply.status == 200 and reply.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(reply.body)).size == (512, 341)
    for path, says in (("/explain?class=x", "knows no class 'x'"), ("/explain?class=", "class ''")):
        reply = server.post(path, photos / "1.png")
        assert reply.status == 422 and says in reply.json["error"]
    assert "cut.png is damaged" in server.post("/explain", photos / "cut.png").json["error"]
    assert server.post("/explain", photos / "1.png", photos / "0.png").status == 422


def test_nothing_of_this_machine_reaches_a_client(server, finished, photos):
    for reply in (
        server.ask("GET", "/model"),
        server.ask("GET", "/openapi.json"),
        server.ask("GET", "/none"),
        server.ask("POST", "/predict", b"x", Content_Type="multipart/form-data"),
        server.ask("POST", "/predict", b"x", Content_Type="multipart/form-data; boundary=y"),
        server.ask("POST", "/predict?top=0", b"x"),
        server.ask("DELETE", "/predict"),
        server.ask("GET", "/static/../app.py"),
    ):
        assert reply.status < 500
        for word in (str(finished.parent), "Traceback", "site-packages", "/residual/"):
            assert word not in reply.body.decode()
        assert reply.status == 200 or "error" in reply.json
    page = server.ask("GET", "/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/docs", "/static/page.js", "/static/page.css", "/static/icon.svg"):
        assert server.ask("GET", path).status == 200
    assert b"https://cdn" not in server.ask("GET", "/docs").body


def test_the_card_has_the_error_of_the_run(server, finished):
    card = server.ask("GET", "/model").json
    result = json.loads((finished / "result.json").read_text())
    assert card["error"]["error_top1"] == result["error_top1"]
    assert card["error"]["seen"] == result["seen"] and card["error"]["data"] == "digits"
    assert card["classes"] == [str(i) for i in range(10)]
    assert card["weights_sha256"] == result["weights_sha256"]
    assert card["map"] is True and card["input"] == {"shorter": None, "size": [8, 8]}


@pytest.mark.parametrize(
    "text", ["{}", '{"data": "digits"}', '{"ap": 1, "data": {"name": "a"}}', "{", "[]"]
)
def test_a_damaged_result_leaves_a_run_without_a_stated_error(finished, tmp_path, text):
    run = shutil.copytree(finished, tmp_path / "run")
    assert load(run).error["error_top1"] is not None
    (run / "result.json").write_text(text)
    assert load(run).error is None


def test_an_average_precision_without_objects_is_not_stated(tmp_path):
    run = run_of(detector(), tmp_path / "run")
    ap = {"AP50-area": {"mean": 61.5}, "AP[.5:.95]": {"mean": None}, "pictures": 3}
    (run / "result.json").write_text(json.dumps({"ap": ap, "data": {"name": "scenes test"}}))
    stated = {"ap": {"AP50-area": 61.5}, "data": "scenes test", "split": None}
    assert load_detector(run).error == stated


def half(server: Server, raw: bytes):
    """A connection on which half a picture was sent."""
    connection = server.connect()
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(raw)))
    connection.endheaders()
    connection.send(raw[: len(raw) // 2])
    return connection


def test_limits_are_answered_by_a_sentence(finished, photos, tmp_path):
    raw = (photos / "1.png").read_bytes()
    limits = ("--queue", 1, "--megabytes", 0.1, "--megapixels", 0.01, "--timeout", 3)
    limits += ("--window", 1000)  # milliseconds for which a picture keeps the queue full
    with serving(tmp_path, finished, *limits, "--token", "open") as server:
        token = {"Authorization": "Bearer open"}
        for path, method in (("/predict", "POST"), ("/model", "GET"), ("/metrics", "GET")):
            for headers in ({}, {"Authorization": "Bearer shut"}, {"Authorization": "open"}):
                reply = server.ask(method, path, raw if method == "POST" else None, **headers)
                assert reply.status == 401 and "token" in reply.json["error"]
        assert server.ask("GET", "/").status == server.ask("GET", "/health").status == 200
        assert server.ask("GET", "/model", **token).json["limits"]["pixels"] == 10_000

        slow = half(server, raw)  # the token is checked before the body is read: it goes at once
        assert read(slow).status == 401
        slow = server.connect()
        slow.putrequest("POST", "/predict")
        slow.putheader("Content-Length", str(len(raw)))
        slow.putheader("Authorization", "Bearer open")
        slow.endheaders()  # and nothing more: it keeps nobody waiting

        both = [threading.Thread(target=lambda: busy.append(ask())) for _ in range(2)]
        busy: list[Reply] = []

        def ask() -> Reply:
            return server.ask("POST", "/predict", raw, **token)

        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        second, first = sorted(busy, key=lambda reply: -reply.status)
        assert (first.status, second.status, second.headers["retry-after"]) == (200, 503, "1")
        assert "busy" in second.json["error"]
        reply = read(slow)
        assert reply.status == 408 and "3 s" in reply.json["error"]

        assert server.ask("POST", "/predict", bytes(100_001), **token).status == 413
        pieces = (bytes(1000) for _ in range(101))
        assert server.ask("POST", "/predict", pieces, **token).status == 413  # of unknown length
        both = server.post("/predict", photos / "0.png", photos / "1.png", **token)
        assert both.status == 422 and "Too many files" in both.json["error"]
        large = BytesIO()
        Image.new("L", (101, 100)).save(large, "PNG")
        reply = server.ask("POST", "/predict", large.getvalue(), **token)
        assert reply.status == 422 and "101x100 pixels, more than 10,000" in reply.json["error"]


def test_a_signal_lets_a_request_end(finished, photos, tmp_path):
    raw = (photos / "1.png").read_bytes()
    with serving(tmp_path, finished) as server:
        begun = half(server, raw)
        time.sleep(0.3)
        threading.Timer(0.7, begun.send, [raw[len(raw) // 2 :]]).start()
        assert server.stop() == 143
        assert read(begun).status == 200
        assert (server.folder / "err").read_text() == ""


def test_what_cannot_be_served_is_refused_in_a_sentence(
    command, server, finished, models, tmp_path
):
    taken = command("serve", finished, "--port", server.port)
    assert taken.status == 1 and f"port {server.port}" in taken.complaint
    assert "192.0.2.1" in command("serve", finished, "--host", "192.0.2.1").complaint
    assert "no name of a host" in command("serve", finished, "--host", "a" * 70).complaint
    assert str(tmp_path / "none") in command("serve", tmp_path / "none", "--port", 0).complaint
    wrong = command("serve", models["classifier.onnx"], "--precision", "bf16", "--port", 0)
    assert wrong.status == 2
    for token in ("schlüssel", "two words"):  # which no client could send
        wrong = command("serve", finished, "--token", token, "--port", 0)
        assert wrong.status == 2 and "printable ASCII" in wrong.err


def test_an_open_server_without_a_token_is_warned_of(finished, tmp_path):
    with serving(tmp_path, finished, "--host", "0.0.0.0") as server:
        assert "open to other machines" in (server.folder / "err").read_text()


def test_the_interface_keeps_its_own_description(server, tmp_path):
    """Random requests that fit the schema, and such that do not. Random bytes of a picture's type
    are no picture, so that valid requests are refused, too."""
    pytest.importorskip("schemathesis", reason="needs schemathesis")
    program = Path(sys.executable).parent / "schemathesis"
    words = ("run", f"{server.address}/openapi.json", "--max-examples", "10", "--seed", "1")
    words += ("--exclude-checks", "positive_data_acceptance", "--generation-database", "none")
    done = subprocess.run(
        [program, *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[:2000]


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_drops_a_picture_and_reads_the_label(server, photos):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    answer = server.post("/predict", photos / "1.png").json[0]["labels"][0]
    raw = list((photos / "1.png").read_bytes())
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url))
        page.goto(server.address)
        sync_api.expect(page.locator("#count")).to_have_text("10 classes")
        sync_api.expect(page.locator("#summary")).to_contain_text("% error on digits (test)")
        dropped = page.evaluate_handle(
            """raw => { const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(raw)], "two.png", {type: "image/png"}));
            return data; }""",
            raw,
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
        row = page.locator("#pictures li .row").first
        sync_api.expect(row).to_contain_text(f"{100 * answer['probability']:.1f} %")
        sync_api.expect(row).to_contain_text(answer["label"])
        for _ in range(3):  # to the classes, the files, and the map's switch
            page.keyboard.press("Tab")
        page.keyboard.press("Space")
        image = page.get_by_alt_text(f"Where the network sees {answer['label']} in two.png")
        sync_api.expect(image).to_be_visible()
        page.locator("#files").set_input_files(photos / "cut.png")
        sync_api.expect(page.locator(".error")).to_contain_text("cut.png is damaged")
        browser.close()
    assert not errors
    assert all(url.startswith((server.address, "blob:")) for url in outside)


def test_one_input_that_the_network_refuses_spoils_no_other():
    import asyncio

    from residual.server.batcher import Batcher

    sizes: list[int] = []

    def infer(values):
        if "bad" in values:
            raise ValueError("bad")
        return [value.upper() for value in values]

    async def ask() -> list[object]:
        batcher = Batcher(infer, 8, 0.01, sizes.append)
        running = asyncio.create_task(batcher.run())
        values = [batcher.submit(value) for value in ("a", "bad", "b")]
        results = await asyncio.gather(*values, return_exceptions=True)
        running.cancel()
        return results

    first, error, last = asyncio.run(ask())
    assert (first, last) == ("A", "B") and str(error) == "bad" and sizes == [3]
