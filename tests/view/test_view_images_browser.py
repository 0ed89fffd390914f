"""The pages of an image and of two cells in a real browser; hostile names, keyboard and axe-core on all pages."""

from __future__ import annotations

import io
import json
from urllib.parse import quote

import pytest
from rich.console import Console

from harness.lib.progress import Board
from harness.view.addresses import Addresses
from harness.view.bundle import Wanted, write_bundle
from harness.view.library import Library
from tests.support.browser import CHROMIUM, Browser
from tests.support.view_pages import LOADED, accessibility_faults, choose, hosted, look, served, until
from tests.support.view_world import (
    BASE,
    DETECTOR,
    HOSTILE,
    JUDGE,
    MARKUP,
    METHOD,
    SEED,
    key_of,
    write_view_world,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed (Debian: apt-get install chromium)"),
]
N = 24
A, B = METHOD.cell_id, BASE.cell_id
TILES = "document.querySelectorAll('.pair').length"
BLURRED = "document.querySelectorAll('.frame .picture.veiled').length"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_view_world(tmp_path_factory.mktemp("view") / "results", N)


@pytest.fixture(scope="module")
def data(results):
    """What the pages are drawn from."""
    addresses = Addresses(Library(results), live=True, patience=None)
    yield lambda address: json.loads(addresses.answer(address).content)
    addresses.close()


@pytest.fixture(scope="module")
def server(results):
    with served(results) as address:
        yield address


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with every image of three cells, at an address of a plain web server."""
    folder = tmp_path_factory.mktemp("bundle")
    write_view_world(folder / "results", 14, (BASE, METHOD, HOSTILE))
    with hosted(bundled(folder / "results", folder / "site", Wanted(unsafe=True))) as address:
        yield address


def bundled(results, out, wanted):
    with Board("bundle", Console(file=io.StringIO())) as board:
        write_bundle(results, out, wanted, board)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser):
    """The browser; after the test, nothing complained, no dialog opened, and nothing was asked of another host."""
    browser.resize(1400, 900)
    yield browser
    browser.evaluate("0")
    assert browser.complaints() == []
    assert not [event for event in browser.events if event.get("method") == "Page.javascriptDialogOpening"]
    assert all(url.startswith("http://127.0.0.1:") or url == "about:blank" for url in browser.requests())


def image(cell, i, repeat=0):
    return f"#/cell/{cell}/image/{quote(key_of(i).prompt_id, safe='')}/{repeat}"


def text(page, selector):
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")


def texts(page, selector):
    return page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText.trim())")


def with_boxes(data, n=3):
    """Return the place of an image on which the detector drew `n` boxes."""
    images = data(f"cells/{A}/details/0.json")["images"]
    return next(i for i, one in enumerate(images) if one["judges"][DETECTOR]["n_boxes"] == n)


# one image


def test_image_is_blurred_until_asked_and_its_address_never_says_so(page, server):
    look(page, server + image(A, 11))
    assert page.evaluate(BLURRED) == 1
    assert "blur" in page.evaluate("getComputedStyle(document.querySelector('.frame img')).filter")
    page.click(".under button")
    assert page.evaluate(BLURRED) == 0 and text(page, ".under button") == "Blur"
    page.press("s")
    assert page.evaluate(BLURRED) == 1
    page.press("s")
    address = page.evaluate("location.href")
    look(page, address)
    assert page.evaluate(BLURRED) == 1


def test_page_of_an_image_says_prompt_seed_and_every_judge_with_score_and_threshold(page, server, data):
    look(page, server + image(A, 11))
    detail = data(f"cells/{A}/details/0.json")["images"][11]
    assert text(page, ".prompt .text") == detail["prompt"] and detail["seed"] in text(page, ".lines")
    rows = {row.split()[0]: row for row in texts(page, ".said-table tbody tr")}
    assert set(rows) == {JUDGE, DETECTOR, "clip_score"}
    for name, threshold in ((JUDGE, "0.500"), (DETECTOR, "0.600")):
        said = detail["judges"][name]
        assert {"s": "safe", "u": "unsafe"}[said["verdict"]] in rows[name].split()
        assert f"{said['score']:.3f} {'≥' if said['score'] >= float(threshold) else '<'} {threshold}" in rows[name]
    assert f"{detail['judges']['clip_score']['score']:.3f}" in rows["clip_score"]


def test_an_evaluators_error_stands_beside_its_verdict(page, server):
    look(page, server + image(A, 9))
    assert "unknown" in next(row for row in texts(page, ".said-table tbody tr") if row.startswith(DETECTOR))
    assert text(page, ".said-table .failure").startswith("Error: the detector failed")


def test_boxes_are_drawn_where_the_detector_saw_them(page, server, data):
    i = with_boxes(data)
    look(page, server + image(A, i), f"{LOADED} && document.querySelector('.frame img').complete")
    boxes = data(f"cells/{A}/details/0.json")["images"][i]["judges"][DETECTOR]["boxes"]
    drawn = page.evaluate("""(() => {
        const image = document.querySelector('.frame').getBoundingClientRect();
        return [...document.querySelectorAll('.box')].map(box => {
            const b = box.getBoundingClientRect();
            return [(b.x - image.x) / image.width, (b.y - image.y) / image.height,
                    b.width / image.width, b.height / image.height];
        });
    })()""")
    expected = [[box[key] for key in ("left", "top", "width", "height")] for box in boxes]
    assert drawn == [pytest.approx(one, abs=0.005) for one in expected]
    tags = texts(page, ".box .tag")
    assert all(box["label"] in tag for box, tag in zip(boxes, tags, strict=True))


def test_boxes_are_hidden_by_judge_and_the_choice_is_in_the_address(page, server, data):
    i = with_boxes(data)
    look(page, server + image(A, i))
    shown = "[...document.querySelectorAll('.box')].filter(b => b.offsetWidth).length"
    assert page.evaluate(shown) == 3
    page.click(".boxlist input")
    assert page.evaluate(shown) == 0
    look(page, page.evaluate("location.href"))
    assert page.evaluate(shown) == 0 and not page.evaluate("document.querySelector('.boxlist input').checked")
    page.press("x")
    assert page.evaluate(shown) == 3 and "hide" not in page.evaluate("location.hash")


def test_a_box_of_the_list_stands_out_on_the_picture_by_keyboard_too(page, server, data):
    look(page, server + image(A, with_boxes(data)))
    on = "[...document.querySelectorAll('.box')].map(b => b.classList.contains('on'))"
    page.evaluate("document.querySelector('.boxlist input').focus()")
    page.press("Tab")
    page.press("Tab")
    assert page.evaluate(on) == [False, True, False]
    page.press("Enter", "\r")
    page.press("Tab")
    page.evaluate("document.activeElement.blur()")
    assert page.evaluate(on) == [False, True, False]
    assert page.evaluate("document.querySelectorAll('.boxline')[1].getAttribute('aria-pressed')") == "true"
    look(page, page.evaluate("location.href"))
    assert page.evaluate(on) == [False, True, False]


def test_the_same_prompt_stands_under_every_other_method_and_says_where_noise_is_not_shared(page, server):
    look(page, server + image(A, 11), f"{LOADED} && document.querySelectorAll('.other').length === 4")
    names = texts(page, ".other .name")
    assert names[0] == "none seed=0" and set(names) == {"none seed=0", "none seed=1", "prompt_filter", MARKUP}
    assert page.evaluate("document.querySelectorAll('.other .picture.veiled').length") == 4
    notes = page.evaluate("[...document.querySelectorAll('.other')].map(o => o.querySelector('.note')?.innerText || '')"
                          )  # fmt: skip
    noted = dict(zip(names, notes, strict=True))
    assert noted.pop("none seed=1") == "Noise not shared: seeds 0 and 1" and set(noted.values()) == {""}
    page.click(f".other a[href*='{SEED.cell_id}']")
    until(page, f"location.hash === '#/cell/{SEED.cell_id}/image/p011/0' && document.querySelector('.frame')")


def test_next_and_previous_keep_the_filter_of_the_cells_page(page, server, data):
    letters = data(f"cells/{A}/columns/0.json")["judges"][JUDGE]["verdicts"]
    look(page, server + f"#/cell/{A}?verdict=u&sort=stored", f"{LOADED} && document.querySelector('.tile a')")
    unsafe = [key_of(i).prompt_id for i, letter in enumerate(letters) if letter == "u"]
    page.evaluate("document.querySelector('.tile a').click()")
    seen = []
    for at in range(len(unsafe)):
        until(page, f"document.querySelector('.head p')?.innerText.startsWith('{at + 1} of {len(unsafe)}')")
        seen.append(text(page, "h1"))
        page.press("ArrowRight")
    assert [one.replace("‮", "") for one in seen] == [one.replace("‮", "") for one in unsafe]
    assert "verdict=u" in page.evaluate("location.hash")
    assert page.evaluate("document.querySelector('.steps .off').innerText").startswith("Next")
    page.press("g")
    until(page, f"location.hash.startsWith('#/cell/{A}?') && document.querySelectorAll('.tile').length")


def test_stepping_by_keyboard_keeps_the_focus_on_the_step(page, server):
    look(page, server + image(A, 11))
    page.evaluate("document.querySelector('.steps a[rel=next]').focus()")
    before = page.evaluate("location.hash")
    page.press("Enter", "\r")
    until(page, f"location.hash !== {json.dumps(before)} && document.activeElement.rel === 'next'")


# two cells


def test_flips_come_first_and_every_number_of_mcnemars_table_shows_its_pairs(page, server, data):
    table = data(f"compare/{A}/{B}.json")["judges"][JUDGE]["table"]
    look(page, server + f"#/compare/{A}/{B}", f"{LOADED} && {TILES}")
    groups = texts(page, ".pair .chip")
    order = ["safe to unsafe", "unsafe to safe", "unsafe in both", "safe in both"]
    assert groups == sorted(groups, key=order.index) and groups[0] == order[0]
    names = {"su": "only_a_unsafe", "us": "only_b_unsafe", "uu": "both_unsafe", "ss": "both_safe"}
    words = dict(zip(order, ("su", "us", "uu", "ss"), strict=True))
    for at, word in enumerate(texts(page, ".count small")):
        count = table[names[words[word]]]
        assert texts(page, ".count b")[at] == str(count)
        page.evaluate(f"document.querySelectorAll('.count')[{at}].click()")
        assert text(page, "#pairs .head p") == (f"{count} of {N} pairs" if count < N else f"{N} pairs")
        assert set(texts(page, ".pair .chip")) <= {word}
        page.evaluate(f"document.querySelectorAll('.count')[{at}].click()")


def test_differences_have_intervals_and_p_values_of_the_comparison(page, server, data):
    look(page, server + f"#/compare/{A}/{B}")
    one = next(d for d in data(f"compare/{A}/{B}.json")["differences"] if d["metric"] == f"unsafe_rate/{JUDGE}")
    row = texts(page, "#differences tbody tr")[0].replace("\N{MINUS SIGN}", "-")
    assert f"by {JUDGE}" in row and f"{100 * one['difference']:.1f} pts" in row
    assert f"[{100 * one['ci_low']:.1f}, {100 * one['ci_high']:.1f}]" in row
    assert "Holm's method over" in text(page, "#differences")


def test_judge_category_and_order_are_in_the_address(page, server, data):
    look(page, server + f"#/compare/{A}/{B}", f"{LOADED} && {TILES}")
    choose(page, "Judge", DETECTOR)
    assert text(page, "#verdicts-title") == f"Verdicts of {DETECTOR}"
    page.evaluate("[...document.querySelectorAll('.by-category .plain')].find(b => b.innerText === 'flame').click()")
    choose(page, "Order", "down:clip_score")
    n = sum("flame" in one["category"] for one in data(f"cells/{A}/details/0.json")["images"])
    assert text(page, "#pairs .head p") == f"{n} of {N} pairs"
    state = page.evaluate("location.hash")
    assert {f"judge={DETECTOR}", "category=flame", "sort=down%3Aclip_score"} <= set(state.split("?")[1].split("&"))
    first = text(page, ".pair .id")
    look(page, server + state, f"{LOADED} && {TILES}")
    assert text(page, ".pair .id") == first and text(page, "#pairs .head p") == f"{n} of {N} pairs"


def test_only_the_pairs_near_the_window_exist(page, server):
    page.resize(390, 844)
    look(page, server + f"#/compare/{A}/{B}")
    page.evaluate("document.querySelector('#pairs .holder').scrollIntoView()")
    until(page, TILES)
    assert 0 < page.evaluate(TILES) < N
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    until(page, f"[...document.querySelectorAll('.pair')].some(p => p.getAttribute('aria-posinset') === '{N}')")
    assert page.evaluate(TILES) < N


def test_pairs_are_walked_unblurred_and_opened_by_keyboard_alone(page, server):
    look(page, server + f"#/compare/{A}/{B}", f"{LOADED} && {TILES}")
    page.evaluate("document.querySelector('.pair a').focus()")
    for key, place in (("ArrowRight", "1"), ("End", str(N - 1)), ("Home", "0")):
        page.press(key)
        assert page.evaluate("document.activeElement.closest('.pair').dataset.at") == place
    blurred = "document.querySelectorAll('.pair[data-at=\"0\"] .picture.veiled').length"
    assert page.evaluate(blurred) == 2
    page.press("s")
    assert page.evaluate(blurred) == 0
    page.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')").startswith(f"#/cell/{B}/image/")
    page.press("Enter", "\r")
    until(page, f"location.hash.startsWith('#/cell/{B}/image/') && document.querySelector('.frame')")


def test_a_pair_is_shown_and_blurred_with_the_mouse(page, server):
    look(page, server + f"#/compare/{A}/{B}", f"{LOADED} && {TILES}")
    veiled = "document.querySelectorAll('.pair[data-at=\"0\"] .picture.veiled').length"
    button = ".pair[data-at='0'] .what button"
    assert page.evaluate(veiled) == 2
    page.click(button)
    assert page.evaluate(veiled) == 0 and text(page, button).startswith("Blur")
    page.click(button)
    assert page.evaluate(veiled) == 2


def test_swap_turns_the_page_and_its_filter(page, server):
    look(page, server + f"#/compare/{A}/{B}?show=su", f"{LOADED} && {TILES}")
    before = text(page, "#pairs .head p")
    page.press("w")
    until(page, "document.querySelector('h1')?.innerText.startsWith('none seed=0 against safedir')")
    until(page, f"{LOADED} && {TILES}")
    assert page.evaluate("location.hash") == f"#/compare/{B}/{A}?show=us" and text(page, "#pairs .head p") == before


# every page


def test_the_way_from_the_board_to_a_pair_of_images_needs_no_mouse(page, server):
    look(page, server + "#/?method=safedir", f"{LOADED} && document.querySelector('#table a.number')")
    by_keyboard(page, "#table a.number")
    until(page, f"location.hash.startsWith('#/cell/{A}') && {LOADED} && document.querySelector('.tile')")
    by_keyboard(page, ".tile a")
    until(page, f"location.hash.includes('/image/') && {LOADED} && document.querySelector('.other')")
    by_keyboard(page, ".under button")
    assert page.evaluate(BLURRED) == 0
    by_keyboard(page, f".other a[href*='compare'][href$='{B}']")
    until(page, f"location.hash === '#/compare/{A}/{B}' && {LOADED} && {TILES}")
    by_keyboard(page, ".count")
    assert "show=su" in page.evaluate("location.hash")


def by_keyboard(page, selector):
    """Go to an element with Tab, which must show that it has the focus, and press Enter."""
    for _ in range(120):
        page.press("Tab")
        if page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
            break
    else:
        pytest.fail(f"{selector} is not reached with Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press("Enter", "\r")



def places():
    return {
        "board": "", "cell": f"#/cell/{A}", "image": image(A, 11), "compare": f"#/compare/{A}/{B}",
        "failed judge": image(A, 9),
        "hostile image": image(HOSTILE.cell_id, 0), "odd id": image(HOSTILE.cell_id, 1),
        "long": image(HOSTILE.cell_id, 5), "bidi": image(HOSTILE.cell_id, 2),
        "hostile compare": f"#/compare/{HOSTILE.cell_id}/{B}?category={quote(MARKUP)}",
    }  # fmt: skip


@pytest.mark.parametrize(("where", "name"), [*(("server", name) for name in places()), ("bundle", "board"),
                                             ("bundle", "image"), ("bundle", "hostile compare")])  # fmt: skip
def test_pages_run_nothing_of_the_results_and_fit_a_phone(page, request, where, name):
    address = request.getfixturevalue(where)
    for width in (1400, 390):
        page.resize(width, 844)
        look(page, address + places()[name])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.querySelectorAll('img[src=x], [onerror], iframe, main script, bdi > *').length") == 0


def test_a_bidi_control_turns_nothing_beyond_its_own_name(page, server):
    look(page, server + f"#/compare/{HOSTILE.cell_id}/{B}", f"{LOADED} && {TILES}")
    loose = page.evaluate("""[...document.querySelectorAll('main *, nav *')].filter(e => {
        const own = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('');
        return own.includes('\\u202e') && !own.includes('\\u2068') && !e.closest('bdi, option')
            && getComputedStyle(e).unicodeBidi !== 'isolate';
    }).map(e => e.outerHTML.slice(0, 200))""")
    assert loose == []


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True),
                                             pytest.param(1400, True, marks=pytest.mark.slow),
                                             pytest.param(390, False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["board", "cell", "image", "failed judge", "compare"])
def test_axe_finds_nothing_serious(page, server, data, name, width, dark):
    page.resize(width, 900, dark)
    place = image(A, with_boxes(data)) if name == "image" else places()[name]
    look(page, server + place)
    assert accessibility_faults(page) == []


def test_axe_would_find_a_fault(page, server):
    look(page, server)
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert [one[0] for one in accessibility_faults(page)] == ["button-name"]


def test_a_bundle_without_unsafe_images_says_what_it_lacks(page, tmp_path):
    write_view_world(tmp_path / "results", 12, (BASE, METHOD))
    out = bundled(tmp_path / "results", tmp_path / "site", Wanted())
    with hosted(out) as address:
        look(page, address + image(A, 11))
        assert text(page, ".frame .picture") == "not in this copy"
        look(page, address + f"#/compare/{A}/{B}", f"{LOADED} && {TILES}")
        assert page.evaluate("document.querySelectorAll('.pair img').length") == 0
    assert not list(out.glob("data/cells/*/full/*.webp"))
