"""The local server of the viewer: this machine only, a token in the address, and nothing that writes."""

from __future__ import annotations

import gzip
import hmac
import threading
from collections.abc import Callable
from pathlib import Path
from socket import socket

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from harness.view.addresses import Addresses
from harness.view.library import Library
from harness.view.live import events
from harness.view.pages import INDEX, POLICY, assets, kind_of

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LARGE = 1_000_000  # bytes from which an answer is compressed: the leaderboard's JSON, with all provenance
NO_STORE, KEEP = "no-store", "private, max-age=604800, immutable"
WRONG_TOKEN = "Open the address that `python -m harness view` printed: it ends in a token."


def application(results: Path, token: str, hosts: frozenset[str] | None, cache: Path | None = None) -> Starlette:
    """Return the viewer of a results folder; `hosts` are the names that a browser may call this machine by, None any.

    `cache` is the folder for what was read of images; None keeps nothing.
    """
    library = Library(results)
    addresses = Addresses(library, live=True, cache=cache)

    async def data(request: Request) -> Response:
        answer = await run_in_threadpool(addresses.answer, request.path_params["address"])
        if answer is None:
            return _refused(404, "There is nothing at this address.")
        if len(answer.content) > LARGE and "gzip" in request.headers.get("accept-encoding", ""):
            return _sent(await run_in_threadpool(gzip.compress, answer.content, 5), answer.kind, NO_STORE, "gzip")
        is_image = answer.kind.startswith("image/") and "v" in request.query_params
        return _sent(answer.content, answer.kind, KEEP if is_image else NO_STORE)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name") or INDEX
        content = assets().get(name)
        return _refused(404, "There is no such page.") if content is None else _sent(content, kind_of(name), NO_STORE)

    async def live(request: Request) -> Response:
        told = events(library, ended, made=lambda: addresses.ranking.made)
        return StreamingResponse(told, media_type="text/event-stream",
                                 headers={**HEADERS, "Cache-Control": NO_STORE})

    def ended() -> bool:
        return app.state.server is not None and app.state.server.should_exit

    def guarded(answer: Callable[[Request], object]) -> Callable[[Request], object]:
        async def guard(request: Request) -> Response:
            if hosts is not None and request.url.hostname not in hosts:  # a name that someone else pointed here
                return _refused(421, "This server answers this machine only.")
            if not hmac.compare_digest(request.path_params["token"].encode(), token.encode()):
                return _refused(403, WRONG_TOKEN)
            return await answer(request)  # type: ignore[misc]

        return guard

    async def lost(request: Request) -> Response:
        return _refused(403, WRONG_TOKEN)

    routes = [
        Route("/{token}/", guarded(page)),
        Route("/{token}/events", guarded(live)),
        Route("/{token}/data/{address:path}", guarded(data)),
        Route("/{token}/{name}", guarded(page)),
        Route("/{rest:path}", lost),
    ]
    app = Starlette(routes=routes)
    app.state.addresses, app.state.server = addresses, None
    return app


def server_of(app: Starlette) -> uvicorn.Server:
    """Return what serves the viewer; once it is to end, its live lines end, too."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                            timeout_graceful_shutdown=3, lifespan="off")
    server = app.state.server = uvicorn.Server(config)
    return server


def serve(app: Starlette, listening: socket) -> None:
    """Serve on a socket that listens already, until a signal ends it."""
    threading.Thread(target=app.state.addresses.board, daemon=True).start()  # read before the first page asks
    try:
        server_of(app).run(sockets=[listening])
    finally:
        app.state.addresses.close()


def _sent(content: bytes, kind: str, cache: str, encoding: str = "") -> Response:
    encoded = {"Content-Encoding": encoding} if encoding else {}
    return Response(content, media_type=kind, headers={**HEADERS, "Cache-Control": cache, **encoded})


def _refused(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers={**HEADERS, "Cache-Control": NO_STORE})
