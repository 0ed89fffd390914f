"""The viewer's server: this machine only, a token, a strict policy, and nothing outside the results folder."""

from __future__ import annotations

import asyncio
import os

import pytest
from PIL import Image

from harness.view.pages import assets
from harness.view.server import application
from tests.support.asgi import get
from tests.support.report_fixtures import ENTRIES, write_world

HOSTS = frozenset({"127.0.0.1", "localhost"})
SECRET = b"not for everyone"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = write_world(tmp_path_factory.mktemp("world") / "results", ENTRIES[:2])
    (folder.parent / "secret.json").write_bytes(SECRET)
    Image.new("RGB", (8, 8)).save(folder.parent / "secret.png")
    return folder


@pytest.fixture(scope="module")
def app(results):
    return application(results, "token", HOSTS)


@pytest.fixture(scope="module")
def cell(app):
    rows = get(app, "/token/data/board.json").json["rows"]
    return next(row["cell"] for row in rows if row["label"] == "none" and row["bench"] == "micro_i2p")


@pytest.mark.parametrize("path", ["/", "/tokem/", "/tokem/data/board.json", "/tokem/app.js", "/data/board.json",
                                  "/token", "/tok%C3%A9n/", "/tokem/events"])  # fmt: skip
def test_without_the_token_nothing_is_told(app, path):
    reply = get(app, path)
    assert reply.status in (403, 404, 307) and b"rows" not in reply.body and b"import" not in reply.body


def test_a_name_that_points_here_from_elsewhere_is_refused(app):
    assert get(app, "/token/data/board.json", host="evil.example:8642").status == 421
    assert get(app, "/token/data/board.json", host="localhost:1").status == 200


def test_a_server_for_others_answers_to_any_name_and_still_needs_the_token(results):
    app = application(results, "token", None)
    assert get(app, "/token/data/board.json", host="node17.cluster:8642").status == 200
    assert get(app, "/other/data/board.json", host="node17.cluster:8642").status == 403


@pytest.mark.parametrize("path", ["", "app.js", "data/board.json", "data/nothing.json"])
def test_every_answer_has_the_strict_policy(app, path):
    headers = get(app, f"/token/{path}").headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe-inline" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_only_reading_is_possible(app):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert get(app, "/token/data/board.json", method=method).status == 405


@pytest.mark.parametrize("path", [
    "data/../../secret.json", "data/%2e%2e/%2e%2e/secret.json", "data/cells/../../../secret.json",
    "data/cells/..%2f..%2fsecret.json", "data/cells/%2e%2e.json", "..%2fsecret.json", "%2e%2e/secret.json",
    "data/cells/{cell}/thumb/..%2f..%2fsecret.webp", "data/cells/{cell}/thumb/0.webp/..", "data//etc/passwd",
    "data/cells/runs%2fmicro.json", "data/cells/{cell}/thumb/-1.webp", "data/cells/{cell}/thumb/99.webp",
    "data/cells/{cell}/columns/99999999.json", "data/cells/{cell}%00.json", "style.css%00", "__init__.py",
    "%5c..%5csecret.json",
    "data/compare/{cell}/..%2f.json",
])  # fmt: skip
def test_no_address_leads_out_of_what_was_listed(app, cell, path):
    reply = get(app, f"/token/{path.format(cell=cell)}")
    assert reply.status in (403, 404) and SECRET not in reply.body


def test_a_link_out_of_a_cell_is_not_followed(results, tmp_path):
    world = write_world(tmp_path / "results", ENTRIES[:1])
    folder = next(world.glob("runs/micro/none/micro_i2p/*"))
    first = sorted(folder.glob("images/*/p000_00.png"))[0]
    first.unlink()
    os.symlink(results.parent / "secret.png", first)
    again = application(world, "token", HOSTS)
    assert get(again, f"/token/data/cells/{folder.name}/thumb/0.webp").status == 404
    assert get(again, f"/token/data/cells/{folder.name}/thumb/1.webp").status == 200


def test_images_are_scaled_and_encoded_anew(app, cell):
    reply = get(app, f"/token/data/cells/{cell}/thumb/0.webp?v=1")
    assert reply.headers["content-type"] == "image/webp" and reply.body[8:12] == b"WEBP"
    assert "immutable" in reply.headers["cache-control"]


def test_every_page_file_is_sent_and_no_page_has_inline_code(app):
    assert {"index.html", "app.js", "style.css", "board.js", "cell.js"} <= assets().keys()
    index = get(app, "/token/").body.decode()
    assert "<script>" not in index and "style=" not in index and "onclick" not in index
    for name in assets():
        assert get(app, f"/token/{name}").status == 200


@pytest.mark.parametrize("name", [name for name in assets() if name.endswith(".js")])
def test_no_page_makes_markup_of_data(name):
    code = assets()[name].decode()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "new Function", "DOMParser"):
        assert word not in code


def test_a_change_of_the_folder_is_an_event(tmp_path):
    from harness.view.library import Library
    from harness.view.live import events

    world = write_world(tmp_path / "results", ENTRIES[:1], pictures=False)
    folder = next(world.glob("runs/micro/none/micro_i2p/*"))

    async def watch():
        told = events(Library(world), lambda: False, seconds=0)
        assert "ready" in await anext(told)
        os.utime(folder / "summary.json", ns=(1, 1))
        return await anext(told)

    assert asyncio.run(watch()) == f'event: changed\ndata: {{"cells": ["{folder.name}"]}}\n\n'


def test_a_live_line_ends_with_the_server(tmp_path):
    from harness.view.library import Library
    from harness.view.live import events

    world = write_world(tmp_path / "results", ENTRIES[:1], pictures=False)

    async def watch():
        return [told async for told in events(Library(world), lambda: True)]

    assert len(asyncio.run(watch())) == 1
