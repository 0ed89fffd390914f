"""The viewer's board and cell in a real browser: what is shown, found, kept in the address, and asked for."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from tests.support.browser import CHROMIUM, Browser
from tests.support.report_fixtures import ENTRIES, write_world

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed (Debian: apt-get install chromium)"),
]
ROWS = "[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[0].innerText.split('\\n')[0])"
HEADS = "[...document.querySelectorAll('#table thead th')].map(h => h.innerText)"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "results", ENTRIES[:5])


@pytest.fixture(scope="module")
def address(results):
    from harness.view.server import application, server_of

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    app = application(results, "token", frozenset({"127.0.0.1"}))
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}/token/"
    server.should_exit = True
    thread.join(10)
    app.state.addresses.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def until(page, expression):
    """Wait until an expression is true on the page."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression


@pytest.fixture
def page(browser, address):
    browser.resize(1280, 900)
    yield browser
    assert browser.complaints() == []
    assert all(url.startswith(address) for url in browser.requests())


def opened(page, address, place="", ready="!document.querySelector('.loading')"):
    page.open("about:blank")  # another hash alone would load nothing
    page.open(address + place)
    until(page, ready)
    return page


def cell_of(page, address, method, bench):
    opened(page, address)
    rows = json.loads(page.evaluate("fetch('data/board.json').then(r => r.text())"))["rows"]
    return next(row["cell"] for row in rows if (row["method"], row["bench"]) == (method, bench))


def choose(page, label, value):
    page.evaluate(f"""(() => {{
        const field = [...document.querySelectorAll('label.field')].find(l => l.innerText.startsWith({label!r}));
        const select = field.querySelector('select'); select.value = {value!r};
        select.dispatchEvent(new Event('change', {{bubbles: true}}));
    }})()""")


def test_board_filters_sorts_and_keeps_its_state_in_the_address(page, address):
    opened(page, address, "#/?bench=micro_i2p&sort=-rate")
    assert page.evaluate(ROWS)[:2] == ["none", "sld_medium"]
    choose(page, "Status", "complete")
    page.click("#table thead th:nth-child(3) button")
    assert page.evaluate(ROWS)[0] == "sld_max" and len(page.evaluate(ROWS)) == 5
    state = page.evaluate("location.hash")
    assert {"bench=micro_i2p", "status=complete", "sort=rate"} <= set(state.partition("?")[2].split("&"))
    opened(page, address, state)
    assert page.evaluate(ROWS)[0] == "sld_max"


def test_header_names_the_judge_that_the_unsafe_rate_is_by(page, address):
    opened(page, address, "#/?judge=hazard_judge")
    assert any(head.startswith("Unsafe rate") and "by hazard_judge" in head for head in page.evaluate(HEADS))


def test_search_finds_rows_by_any_word(page, address):
    opened(page, address)
    page.evaluate("(() => {const s = document.getElementById('search'); s.value = 'safedir coco'; "
                  "s.dispatchEvent(new Event('input'))})()")  # fmt: skip
    until(page, f"{ROWS}.length === 1")
    assert "of 13 rows" in page.evaluate("document.querySelector('[role=status].muted').innerText")


def test_columns_are_chosen_and_kept_in_the_address(page, address):
    opened(page, address, "#/?columns=rate,degenerate_rate")
    assert [head.split("\n")[0].strip() for head in page.evaluate(HEADS)] == ["Method", "Unsafe rate", "Degenerate"]


def test_front_is_on_an_axis_that_separates_and_holds_what_nothing_beats(page, address):
    opened(page, address)
    assert "CLIP score" in page.evaluate("document.querySelector('#front select').selectedOptions[0].innerText")
    said = page.evaluate("document.querySelector('#front figcaption').innerText")
    assert "safedir" in said and "sld_medium" not in said


def test_a_number_leads_to_its_cell_and_shows_value_interval_n_and_judge(page, address):
    opened(page, address, "#/?bench=micro_i2p&method=sld_max")
    page.click("#table a.number")
    until(page, "document.querySelectorAll('.tile').length === 8")
    card = page.evaluate("document.querySelector('.headline').innerText")
    assert card.index("34.0 %") < card.index("[28.9") < card.index("n 300") and "by hazard_judge" in card


def test_images_are_blurred_until_asked_and_nobody_is_sent_them_unblurred(page, address):
    cell = cell_of(page, address, "none", "micro_i2p")
    opened(page, address, f"#/cell/{cell}", "document.querySelectorAll('.tile').length === 8")
    veiled = "document.querySelectorAll('.picture.veiled').length"
    assert page.evaluate(veiled) == 8
    assert "blur" in page.evaluate("getComputedStyle(document.querySelector('.tile img')).filter")
    page.click(".tile .reveal")
    assert page.evaluate(veiled) == 7
    page.evaluate("document.getElementById('veil').click()")
    assert page.evaluate(veiled) == 0
    page.evaluate("document.getElementById('veil').click()")
    assert page.evaluate(veiled) == 8
    assert "veil" not in page.evaluate("location.hash") and "show" not in page.evaluate("location.hash")


def test_images_are_in_the_order_worst_first_and_filters_are_in_the_address(page, address):
    cell = cell_of(page, address, "none", "micro_i2p")
    opened(page, address, f"#/cell/{cell}", "document.querySelectorAll('.tile').length === 8")
    marks = page.evaluate("[...document.querySelectorAll('.tile .mark')].map(m => m.title)")
    assert marks == sorted(marks, key=["unsafe", "unknown", "safe"].index) and len(set(marks)) == 2
    choose(page, "Category", "bomb")
    until(page, "document.querySelectorAll('.tile').length === 3")
    assert page.evaluate("location.hash").endswith("?category=bomb")
    choose(page, "Verdict", "s")
    assert page.evaluate("document.querySelectorAll('.tile .mark.unsafe').length") == 0


def test_grid_is_walked_and_unblurred_by_keyboard_alone(page, address):
    cell = cell_of(page, address, "none", "micro_i2p")
    opened(page, address, f"#/cell/{cell}", "document.querySelectorAll('.tile').length === 8")
    page.evaluate("document.querySelector('.tile a').focus()")
    at = "document.activeElement.closest('.tile').dataset.at"
    for key, place in (("ArrowRight", "1"), ("ArrowRight", "2"), ("ArrowLeft", "1"), ("End", "7"), ("Home", "0")):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        assert page.evaluate(at) == place
    page.call("Input.dispatchKeyEvent", type="keyDown", key="s", text="s")
    assert page.evaluate("document.querySelectorAll('.picture.veiled').length") == 7


def test_a_change_of_the_results_is_shown_while_one_looks(page, address, results):
    opened(page, address, "#/?bench=micro_i2p&method=sld_max", "!!document.querySelector('.dot.on')")
    file = next(results.glob("runs/micro/sld_max/micro_i2p/*/summary.json"))
    before = file.read_text()
    summary = json.loads(before)
    summary["metrics"]["unsafe_rate/hazard_judge"]["value"] = 0.3333
    file.write_text(json.dumps(summary))
    until(page, "document.querySelector('#table a.number b').innerText === '33.3 %'")
    file.write_text(before)
    until(page, "document.querySelector('#table a.number b').innerText === '34.0 %'")


@pytest.mark.parametrize("place", ["", "#/cell/{cell}"])
def test_phone_needs_no_sideways_scrolling(page, address, place):
    cell = cell_of(page, address, "none", "micro_i2p")
    page.resize(390, 844)
    opened(page, address, place.format(cell=cell), "!!document.querySelector('#table, #images .tools')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_address_that_leads_nowhere_says_so(page, address):
    opened(page, address, "#/nowhere/at/all")
    assert page.evaluate("document.querySelector('[role=alert]').innerText") == "There is no such page."


@pytest.fixture(scope="module")
def site(results, tmp_path_factory):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from harness.__main__ import main

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    out = tmp_path_factory.mktemp("site")
    assert main(["view", str(results), "--bundle", str(out)]) == 0
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(out))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_bundle_on_any_web_host_is_the_same_pages_without_unsafe_images(browser, site):
    browser.resize(1280, 900)
    opened(browser, site, "#/?bench=micro_i2p&method=none")
    assert browser.evaluate(ROWS) == ["none"]
    browser.click("#table a.number")
    until(browser, "document.querySelectorAll('.tile').length === 8")
    assert browser.evaluate("document.querySelectorAll('.tile img').length") == 0
    assert "not in this copy" in browser.evaluate("document.querySelector('.tile').innerText")
    assert browser.complaints() == [] and all(url.startswith(site) for url in browser.requests())
