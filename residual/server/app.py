"""The HTTP interface of a trained network: prediction, model card, health, metrics, a page."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from residual import __version__
from residual.device import NON_FINITE, NonFiniteValues
from residual.server.metrics import RequestMetrics
from residual.server.served_model import ServedModel
from residual.server.service import ServerBusy, ServerOptions, Service
from residual.server.uploads import received

STATIC = Path(__file__).parent / "static"
BEARER = HTTPBearer(auto_error=False, description="The token that the server was started with.")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILE = {"type": "string", "format": "binary"}


def picture_body(most: int) -> dict[str, Any]:
    """The body of a request in OpenAPI: a form of at most so many pictures, or one picture."""
    images = {"type": "array", "minItems": 1, "maxItems": most, "items": FILE}
    form = {"type": "object", "required": ["image"], "properties": {"image": images}}
    kinds = {"multipart/form-data": form, "image/*": FILE, "application/octet-stream": FILE}
    content = {kind: {"schema": schema} for kind, schema in kinds.items()}
    return {"requestBody": {"required": True, "content": content}}


class Failure(BaseModel):
    """What was wrong, in a sentence."""

    error: str


class Label(BaseModel):
    label: str
    probability: float


class DetectedObject(BaseModel):
    label: str
    score: float
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Prediction(BaseModel):
    """Of one picture: labels, the best first, of a classifier; objects of a detector; or an
    error."""

    image: str
    labels: list[Label] | None = None
    objects: list[DetectedObject] | None = None
    error: str | None = None


class Health(BaseModel):
    status: str


FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        400: "The body is no multipart form.",
        401: "The token is missing or wrong.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "A parameter is wrong, there are too many pictures, or none can be read.",
        503: "The queue is full; Retry-After says when to try again.",
        504: "The answer took too long.",
    }.items()
}


def create_app(model: ServedModel, options: ServerOptions) -> FastAPI:
    """The application that serves a model."""
    service = Service(model, options)
    app: FastAPI = FastAPIOffline(
        title=f"residual: {model.card['network']}",
        version=__version__,
        description="Predictions of a trained network.",
        redoc_url=None,
        lifespan=lambda _: service.running(),
    )
    add_failures(app)
    add_predictions(app, service)
    add_information(app, service)
    app.add_middleware(RequestMetrics, metrics=service.metrics)
    return app


def access(options: ServerOptions) -> list[Any]:
    """The dependencies of a request that needs the token."""

    async def check(
        sent: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    ) -> None:
        token = sent.credentials if sent else ""
        if not hmac.compare_digest(token.encode(), options.token.encode()):
            raise HTTPException(
                401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"}
            )

    return [Depends(check)] if options.token else []


def parameters(*names: str) -> Any:
    """A dependency that refuses other parameters than these: they may be misspelt."""

    async def check(request: Request) -> None:
        if unknown := sorted(set(request.query_params) - set(names)):
            raise HTTPException(422, f"no parameter {unknown[0]!r}; there is {', '.join(names)}")

    return Depends(check)


def add_predictions(app: FastAPI, service: Service) -> None:
    """Add the requests that send pictures."""
    options, least = service.options, service.model.least_score

    @app.post(
        "/predict",
        response_model=list[Prediction],
        response_model_exclude_none=True,
        responses=FAILURES,
        openapi_extra=picture_body(options.queue),
        dependencies=[*access(options), parameters("top", "score")],
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="Labels per picture.")] = 5,
        score: Annotated[
            float, Query(ge=least, le=1, description="Objects of at least this score.")
        ] = 0.5,
    ) -> Response:
        """Labels or objects of pictures, as `residual predict --json` prints them.

        If no picture can be read, the status is 422; if some can, the others have an `error`.
        """
        async with received(request, service) as uploads, timeout(options):
            rows = await service.predict(uploads, top, score)
        if all("error" in row for row in rows):
            raise HTTPException(422, "; ".join(row["error"] for row in rows))
        return JSONResponse(rows)

    @app.post(
        "/explain",
        response_class=Response,
        responses=FAILURES
        | {
            200: {"content": {"image/png": {"schema": FILE}}},
            404: {"model": Failure, "description": "This model has no maps."},
        },
        openapi_extra=picture_body(1),
        dependencies=[*access(options), parameters("class")],
    )
    async def explain(
        request: Request,
        class_name: Annotated[
            str | None, Query(alias="class", description="Default: the most probable one.")
        ] = None,
    ) -> Response:
        """A picture with its class activation map, as PNG."""
        if service.model.explain is None:
            raise HTTPException(404, "detectors and exported models have no class activation maps")
        async with received(request, service) as (upload, *others), timeout(options):
            if others:
                raise HTTPException(422, f"one picture at a time, and not {1 + len(others)}")
            try:
                drawing = await service.explain(upload, class_name)
            except ValueError as error:  # also of a damaged picture
                raise HTTPException(422, str(error)) from None
        return Response(drawing, media_type="image/png")


def add_information(app: FastAPI, service: Service) -> None:
    """Add the page, and what it and machines ask about the model and the server."""
    options, model = service.options, service.model
    limits = {"bytes": options.max_bytes, "pixels": options.max_pixels, "pictures": options.queue}
    scores = {"lowest_score": model.least_score} if model.card["task"] == "detection" else {}
    card = model.card | {"map": model.explain is not None, "limits": limits} | scores
    protected: dict[str, Any] = {"dependencies": access(options), "responses": {401: FAILURES[401]}}

    @app.get("/model", **protected)
    async def model_card() -> dict[str, Any]:
        """Classes, input, error and source of the model, and the limits of a request."""
        return card

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers."""
        return Health(status="ok")

    @app.get("/metrics", response_class=Response, **protected)
    async def metrics() -> Response:
        """Counters and histograms in the text format of Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": POLICY})

    app.mount("/static", StaticFiles(directory=STATIC))


def add_failures(app: FastAPI) -> None:
    """Turn every error into a sentence and a status."""

    def failure(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return failure(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(_: Request, error: RequestValidationError) -> Response:
        texts = (f"{part['loc'][-1]}: {part['msg']}" for part in error.errors())
        return failure(422, "; ".join(texts))

    @app.exception_handler(ServerBusy)
    async def busy(_: Request, error: ServerBusy) -> Response:
        return failure(503, str(error), {"Retry-After": "1"})

    @app.exception_handler(NonFiniteValues)
    async def non_finite(_: Request, __: NonFiniteValues) -> Response:
        return failure(500, f"the model answers with {NON_FINITE}")  # the message has paths

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return failure(400, "the client has gone")  # nobody reads it

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        return failure(500, "this is a fault of the server; its log has the reason")


@asynccontextmanager
async def timeout(options: ServerOptions) -> AsyncIterator[None]:
    """Raises HTTPException if the block takes too long."""
    try:
        async with asyncio.timeout(options.timeout):
            yield
    except TimeoutError:
        raise HTTPException(504, f"no answer within {options.timeout:g} s") from None
