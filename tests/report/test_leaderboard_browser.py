"""The page in a real browser: sorting, unblurring, provenance, no complaint, no request to anywhere."""

from __future__ import annotations

import time

import pytest

from harness.report.leaderboard import write_leaderboard
from tests.support.browser import CHROMIUM, Browser
from tests.support.report_fixtures import ENTRIES, write_world

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed (Debian: apt-get install chromium)"),
]
METHODS = (
    "[...document.querySelectorAll('#leaderboard tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].innerText)"
)
RATES = "[...document.querySelectorAll('#leaderboard td.c-unsafe_rate')].map(c => c.dataset.sort)"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    results = write_world(tmp_path_factory.mktemp("results"), ENTRIES[:5])
    write_leaderboard(results, images=4)
    return (results / "leaderboard.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    browser.resize(1280, 900)
    browser.open(address)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == [address]


def test_clicking_a_header_sorts_and_clicking_again_reverses(page):
    header = "#leaderboard th.c-unsafe_rate button"
    page.click(header)
    rising = [float(rate) for rate in page.evaluate(RATES) if rate]
    assert rising == sorted(rising)
    assert page.evaluate("document.querySelector('th.c-unsafe_rate').getAttribute('aria-sort')") == "ascending"
    first = page.evaluate(METHODS)
    page.click(header)
    assert [float(rate) for rate in page.evaluate(RATES) if rate] == rising[::-1]
    assert page.evaluate(METHODS) != first


def test_rows_without_a_value_stay_last_in_both_directions(page):
    for _ in range(2):
        page.click("#leaderboard th.c-unsafe_rate button")
        rates = page.evaluate(RATES)
        assert rates[-2:] == ["", ""]
        assert rates[0] != ""


def test_first_click_on_a_higher_is_better_column_shows_the_best_first(page):
    page.click("#leaderboard th.c-clip_score button")
    scores = page.evaluate("[...document.querySelectorAll('td.c-clip_score')].map(c => c.dataset.sort)")
    assert float(scores[0]) == max(float(score) for score in scores if score)


def test_bench_filter_hides_the_other_benches(page):
    page.evaluate("(() => {const f = document.querySelector('[data-filter=bench]'); f.value = 'micro_coco'; "
                  "f.dispatchEvent(new Event('input'))})()")  # fmt: skip
    assert len(page.evaluate(METHODS)) == 5


def veiled(page):
    return page.evaluate("document.querySelectorAll('.tile.veiled').length")


def blur(page):
    return page.evaluate("getComputedStyle(document.querySelector('button.tile img')).filter")


def test_picture_is_blurred_until_clicked_and_again_after_another_click(page):
    before = veiled(page)
    assert "blur" in blur(page)
    page.click("button.tile")
    assert (blur(page), veiled(page)) == ("none", before - 1)
    page.click("button.tile")
    assert ("blur" in blur(page), veiled(page)) == (True, before)


@pytest.mark.parametrize(("key", "text"), [("Enter", "\r"), (" ", " ")])
def test_picture_can_be_shown_from_the_keyboard(page, key, text):
    page.evaluate("document.querySelector('button.tile').focus()")
    page.press(key, text)
    assert blur(page) == "none"
    assert page.evaluate("document.querySelector('button.tile').getAttribute('aria-pressed')") == "true"


def test_all_pictures_can_be_blurred_again_at_once(page):
    before = veiled(page)
    assert page.evaluate("document.getElementById('veil').hidden")
    page.click("button.tile.veiled")
    page.click("button.tile.veiled")
    page.click("#veil")
    assert veiled(page) == before


def opened(page):
    return page.evaluate("document.querySelectorAll('dialog[open]').length")


def test_number_opens_with_its_value_first_and_escape_closes_it(page):
    page.click("td.c-unsafe_rate button.open")
    text = page.evaluate("document.querySelector('dialog[open]').innerText")
    value = page.evaluate("document.querySelector('td.c-unsafe_rate .v').innerText.trim()")
    told = [value, "95 % interval", "\nn\n", "Measured by", "hazard_judge, version 1, threshold 0.5", "Command",
            "python -m harness method=safedir"]  # fmt: skip
    places = [text.index(part) for part in told]
    assert places == sorted(places)
    page.press("Escape")
    deadline = time.monotonic() + 10
    while opened(page) and time.monotonic() < deadline:
        pass
    assert opened(page) == 0


def test_what_a_number_rests_on_unfolds_from_the_keyboard(page):
    page.click("td.c-unsafe_rate button.open")
    assert page.evaluate("document.querySelectorAll('#details details dl, #details details table').length") == 0
    page.evaluate("document.querySelector('#details summary').focus()")
    page.press("Enter", "\r")
    page.evaluate("new Promise(requestAnimationFrame)")
    marked = "document.querySelector('#details tr.marked').dataset.metric"
    assert page.evaluate(marked) == "unsafe_rate/hazard_judge"
    page.evaluate("document.querySelector('#details details:last-child summary').focus()")
    page.press("Enter", "\r")
    page.evaluate("new Promise(requestAnimationFrame)")
    assert "sha256:77aa01" in page.evaluate("document.querySelector('#details details:last-child').innerText")


@pytest.mark.parametrize("width", [1400, 390])
def test_dialog_needs_no_sideways_scrolling(page, width):
    page.resize(width, 844)
    page.click("td.c-unsafe_rate button.open")
    page.evaluate("document.querySelectorAll('#details details').forEach((one) => { one.open = true; })")
    page.evaluate("new Promise(requestAnimationFrame)")
    page.evaluate("new Promise(requestAnimationFrame)")
    assert page.evaluate("document.querySelectorAll('#details tr').length") > 5
    beyond = "(() => { const d = document.getElementById('details'); return d.scrollWidth - d.clientWidth })()"
    assert page.evaluate(beyond) <= 0


def test_matrix_sorts_and_opens_the_run_of_a_number(page):
    page.click(".matrix thead th:nth-child(2) button")
    rates = [float(rate) for rate in page.evaluate(
        "[...document.querySelectorAll('.matrix td:nth-child(2)')].map(c => c.dataset.sort)") if rate]
    assert rates == sorted(rates) and len(rates) > 3
    page.click(".matrix td button.open")
    assert opened(page) == 1


def test_search_hides_the_other_methods_in_both_tables(page):
    page.evaluate("(() => {const f = document.getElementById('find'); f.value = 'SLD'; "
                  "f.dispatchEvent(new Event('input'))})()")  # fmt: skip
    shown = page.evaluate(METHODS)
    assert shown and all("sld" in name for name in shown)
    shown = page.evaluate("[...document.querySelectorAll('.matrix tbody tr')].filter(r => !r.hidden).length")
    assert shown == 2


def test_folded_plots_are_drawn_when_they_are_opened(page):
    before = page.evaluate("document.querySelectorAll('svg.scatter').length")
    page.evaluate("document.querySelector('details[data-plots]').open = true")
    page.evaluate("new Promise(requestAnimationFrame)")
    assert page.evaluate("document.querySelectorAll('svg.scatter').length") > before
    page.click("details[data-plots] .wide .point circle.dot")
    assert opened(page) == 1


def test_print_holds_every_row_and_cuts_nothing_off(page):
    page.resize(1400, 900)
    page.call("Emulation.setEmulatedMedia", media="print")
    page.call("Emulation.setDeviceMetricsOverride", width=1046, height=700, deviceScaleFactor=1, mobile=False)
    hidden = "[...document.querySelectorAll('#leaderboard tr, .matrix tr')].filter(r => r.offsetHeight === 0).length"
    beyond = ("Math.max(...[...document.querySelectorAll('#leaderboard td, #leaderboard th, .matrix td')]"
              ".map(c => c.getBoundingClientRect().right))")
    assert page.evaluate(hidden) == 0
    assert page.evaluate(beyond) <= 1046
    page.call("Emulation.setEmulatedMedia", media="")


def test_point_of_the_plot_opens_its_run(page):
    page.click(".plot .wide .point circle.dot")
    assert page.evaluate("document.querySelectorAll('dialog[open]').length") == 1


def test_theme_button_turns_light_into_dark(page):
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    dark = page.evaluate(background)
    page.evaluate("localStorage.clear()")
    assert light != dark


def test_page_follows_the_dark_scheme_of_the_system(page, address):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.resize(1280, 900, dark=True)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_phone_needs_no_sideways_scrolling(page):
    page.resize(390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.querySelector('#leaderboard thead')).display") == "none"
    page.evaluate("(() => {const s = document.getElementById('sorter'); s.selectedIndex = 3; "
                  "s.dispatchEvent(new Event('change'))})()")  # fmt: skip
    rates = [float(rate) for rate in page.evaluate(RATES) if rate]
    assert rates == sorted(rates)


def test_prompt_with_a_script_runs_nothing(page):
    assert page.evaluate("document.querySelectorAll('.prompt script, .prompt img').length") == 0
    assert page.evaluate("[...document.scripts].filter(s => s.type !== 'application/json').length") == 1
