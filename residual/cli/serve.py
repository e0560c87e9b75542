"""The command `serve`."""

from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.options import (
    Device,
    Exact,
    Model,
    Threads,
    compute_config,
    load_detectors,
    load_trained,
)
from residual.cli.progress import notify, stop_signals

if TYPE_CHECKING:
    import socket

    from residual.device import ComputeConfig
    from residual.server.served_model import ServedModel
    from residual.server.service import ServerOptions

PACKAGES = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")


def serve(
    path: Model,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: a free one.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="RESIDUAL_TOKEN", help="A bearer token that clients must send.")
    ] = "",
    batch: Annotated[int, typer.Option(min=1, help="Pictures in a forward pass.")] = 16,
    window: Annotated[
        float, typer.Option(min=0, max=60_000, help="Milliseconds a picture waits for others.")
    ] = 4,
    queue: Annotated[
        int, typer.Option(min=1, help="Waiting pictures; beyond, clients get 503.")
    ] = 64,
    megabytes: Annotated[float, typer.Option(min=0.001, max=10_000, help="Of a request.")] = 32,
    megapixels: Annotated[float, typer.Option(min=0.001, max=89, help="Of a picture.")] = 50,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds for a request.")
    ] = 30,
    device: Device = "auto",
    threads: Threads = 0,
    precision: Exact = "float32",
) -> None:
    """Serve a trained network to browsers and programs.

    Example: residual serve runs/resnet20-1 --port 8000
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(
            f"the server needs {', '.join(missing)}; pip install 'residual-learning[serve]'"
        )
    from residual.server.listener import is_loopback, listen, url_host
    from residual.server.service import ServerOptions

    if path.suffix == ".onnx" and device == "auto":
        device = "cpu"
    config = compute_config(device, threads, precision)
    if path.suffix == ".onnx" and (config.device != "cpu" or config.precision != "float32"):
        raise typer.BadParameter("an .onnx file runs in ONNX Runtime on the CPU, as it is")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise typer.BadParameter("a token has printable ASCII characters without spaces")
    options = ServerOptions(
        token,
        queue,
        batch,
        window / 1000,
        int(megabytes * 1e6),
        int(megapixels * 1e6),
        timeout,
        max(2, config.threads),
    )
    with closing(listen(host, port)) as listener, config.activate():
        model = open_model(path, config)
        address = f"http://{url_host(host)}:{listener.getsockname()[1]}"
        if not token and not is_loopback(host):
            notify(f"{host} is open to other machines, and there is no --token")
        print(f"{model.card['network']} at {address} (interface: {address}/docs)", flush=True)
        run(model, options, listener)


def open_model(path: Path, config: "ComputeConfig") -> "ServedModel":
    """The model of a run, a file of weights, or an exported .onnx file."""
    from residual.export.onnx_file import open_file
    from residual.runs.folder import is_detection
    from residual.server import served_model

    if path.suffix == ".onnx":
        return served_model.exported_model(open_file(path, config.threads))
    if is_detection(path):
        (detector,) = load_detectors([path])
        return served_model.trained_detector(detector, config)
    return served_model.trained_classifier(load_trained(path), config)


def run(model: "ServedModel", options: "ServerOptions", listener: "socket.socket") -> None:
    """Serve until a signal comes, and finish the requests that have begun."""
    from residual.server.app import create_app
    from residual.server.listener import serve_until

    with stop_signals() as signals:
        serve_until(lambda: bool(signals), create_app(model, options), listener, options.timeout)
    with suppress(OSError):  # whoever read the output may have gone
        print("stopped", flush=True)
    raise typer.Exit(128 + signals[0] if signals else 1)
