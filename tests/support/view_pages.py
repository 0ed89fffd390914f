"""The viewer's pages at an address of this machine: served as the command does, or a bundle as any web host would."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.support.browser import Browser

TOKEN = "token"


@contextmanager
def served(results: Path) -> Iterator[str]:
    """Serve a results folder; yield the address of its pages."""
    import uvicorn

    from harness.view.server import application

    listening = socket.create_server(("127.0.0.1", 0))
    app = application(results, TOKEN, frozenset({"127.0.0.1"}))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/"
    finally:
        server.should_exit = True
        thread.join(20)
        app.state.addresses.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None: ...


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """Serve files as they are; yield the address of the folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()


LOADED = ("document.querySelector('main .page') && !document.querySelector('main .loading') && "
          "![...document.querySelectorAll('[role=status]')].some(e => e.textContent.startsWith('Loading'))")


def until(page: Browser, expression: str) -> None:
    """Wait until an expression is true on the page."""
    deadline = time.monotonic() + 20
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < deadline, expression


def look(page: Browser, address: str, ready: str = LOADED) -> Browser:
    """Open an address of the pages and wait until it is filled."""
    page.open("about:blank")  # another hash alone would load nothing
    page.open(address)
    until(page, ready)
    return page


def choose(page: Browser, label: str, value: str) -> None:
    """Choose a value of the field with this label."""
    page.evaluate(f"""(() => {{
        const fields = [...document.querySelectorAll('label.field')];
        const field = fields.find(one => one.innerText.startsWith({json.dumps(label)}));
        const select = field.querySelector('select');
        select.value = {json.dumps(value)};
        select.dispatchEvent(new Event('change', {{bubbles: true}}));
    }})()""")


def accessibility_faults(page: Browser) -> list[Any]:
    """Return what axe-core finds on the page that is serious or critical: rule and elements."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8") + ";0")
    found = page.evaluate("axe.run(document).then(found => JSON.stringify(found.violations.map(one => "
                          "[one.id, one.impact, one.nodes.map(node => node.html.slice(0, 200)).slice(0, 5)])))")
    return [one for one in json.loads(found) if one[1] in ("serious", "critical")]
