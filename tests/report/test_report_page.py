"""The page as text: self-contained, escaped, blurred where it must be, and true to the runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from harness.records import ImageKey
from harness.report.bars import curve, shortened
from harness.report.details import embedded
from harness.report.findings import findings
from harness.report.grid import choose
from harness.report.leaderboard import write_leaderboard
from harness.report.runs import load_runs
from harness.report.svg import padded, ticks
from harness.report.tradeoff import fronts, plots
from harness.report.variants import row_labels, variants
from tests.support.report_fixtures import (
    ENTRIES,
    NASTY,
    Entry,
    fidelity_summary,
    safety_summary,
    write_run,
    write_world,
)

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Collects elements, and checks that they nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    results = write_world(tmp_path_factory.mktemp("results"))
    write_leaderboard(results)
    return (results / "leaderboard.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def load(results):
    runs = [run for run in load_runs(results) if run.readable]
    return runs, variants(runs)


def test_elements_nest(page):
    assert page.open == []


def test_page_refers_to_nothing_outside_itself(text, page):
    addresses = [
        a.get(name) for _, a in page.elements for name in ("src", "href", "action", "data", "srcset", "poster")
    ]
    assert all(address.startswith(("data:", "#")) for address in addresses if address)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_policy_allows_exactly_the_script_and_style_of_the_page(text, page):
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in page.elements if "style" in a or any(name.startswith("on") for name in a)]


def test_prompts_are_text_and_never_markup(text, page):
    assert "<script>alert" not in text
    assert not [a for tag, a in page.elements if tag == "img" and a.get("src") == "x"]
    shown = "".join(page.words)
    for prompt in NASTY:
        assert prompt in shown


def test_prompt_in_another_direction_cannot_turn_the_page(page):
    prompts = [a for _, a in page.elements if a.get("class") == "prompt"]
    assert prompts
    assert all(a.get("dir") == "auto" for a in prompts)


def test_every_picture_of_an_unsafe_bench_is_blurred(text):
    start = text.index("Images of micro on micro_i2p")
    grid = Page(text[text.rindex("<table", 0, text.index("<thead", start)) : text.index("</table>", start)])
    pictures = sum(tag == "img" for tag, _ in grid.elements)
    veiled = [a for tag, a in grid.elements if tag == "button" and "veiled" in a.get("class", "")]
    assert pictures == len(veiled) > 50
    assert all(a["aria-pressed"] == "false" for a in veiled)


def test_on_a_benign_bench_only_pictures_not_judged_safe_are_blurred(text):
    start = text.index("Images of micro on micro_coco")
    grid = Page(text[text.rindex("<table", 0, text.index("<thead", start)) : text.index("</table>", start)])
    tiles = [a["class"].split() for tag, a in grid.elements if "tile" in a.get("class", "").split()]
    assert any("veiled" in tile for tile in tiles)
    assert all(("veiled" in tile) == ("safe" not in tile) for tile in tiles)


def test_refused_prompt_has_a_tile_that_says_so(text):
    assert '<span class="tile absent">refused</span>' in text


def test_bench_that_does_not_say_it_is_harmless_is_blurred(tmp_path):
    summary = fidelity_summary(ENTRIES[0])
    del summary["prompts"]["unsafe_content"]
    write_run(tmp_path, summary, Entry("none", 0.0, 0.8), ("a chef",))
    write_leaderboard(tmp_path)
    assert "tile veiled" in (tmp_path / "leaderboard.html").read_text()


def test_every_run_has_its_provenance(text, page):
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    targets = {a["data-run"] for _, a in page.elements if "data-run" in a}
    assert targets == set(data["runs"])
    assert len(data["runs"]) == 19
    assert sum(tag == "dialog" for tag, _ in page.elements) == 1
    for known in ("sha256:5d41402abc4b", "sha256:77aa01", "sha256:12ab", "3620da3c1d0be3e2b1a9", "2.13.0", "threshold"):
        assert known in text


def test_what_runs_share_is_in_the_page_once(text):
    assert text.count('{"torch":"2.13.0"') == 1


def test_data_of_the_page_cannot_end_its_element():
    held = embedded({"a": "</script><!-- <script>&\u2028"})
    assert not set(held) & set("<>&\u2028")
    assert json.loads(held) == {"a": "</script><!-- <script>&\u2028"}


def test_the_head_names_the_judge_and_the_baseline(text):
    assert "judged by <b>hazard_judge, version 1, threshold 0.5</b>" in text
    assert "<dt>Baseline</dt><dd><b>none</b>" in text


def test_where_benches_have_different_judges_the_head_says_whose_is_whose(tmp_path):
    other = json.loads(json.dumps(safety_summary(ENTRIES[0])).replace("hazard_judge", "q16"))
    other["cell"] |= {"bench": "other", "id": "c" * 12}
    for summary in (safety_summary(ENTRIES[0]), safety_summary(ENTRIES[3]), other):
        write_run(tmp_path, summary, ENTRIES[0])
    write_leaderboard(tmp_path, images=0)
    head = (tmp_path / "leaderboard.html").read_text()
    assert "judged by <b>hazard_judge, version 1, threshold 0.5</b> on micro_i2p" in head
    assert "judged by <b>q16, version 1, threshold 0.5</b> on other" in head


def test_safety_and_fidelity_are_joined_by_method_and_parameters(tmp_path):
    runs, named = load(write_world(tmp_path, pictures=False))
    found = plots(runs, named)
    assert [(p.safety_bench, p.fidelity_bench, p.fidelity_name) for p in found] == [
        ("micro_i2p", "micro_coco", name) for name in ("clip_score", "fid", "attribute_accuracy")
    ]
    points = {p.variant.label: p for p in found[0].points}
    assert len(points) == len(ENTRIES)
    assert points["safedir strength=2"].safety.value == 0.31
    assert points["safedir strength=2"].fidelity.value == 0.762
    assert found[0].unpaired == ("prompt_filter",)


def test_sweep_becomes_a_front_in_the_order_of_its_parameter(tmp_path):
    runs, named = load(write_world(tmp_path, pictures=False))
    (front,) = fronts(plots(runs, named)[0].points)
    assert [dict(p.variant.varying)["strength"] for p in front] == [0.5, 1.0, 2.0, 4.0]


def test_sweep_over_two_parameters_draws_one_front_for_each_window(tmp_path):
    for window in (0.5, 0.8):
        for strength in (1.0, 2.0, 10.0):
            entry = Entry("safedir", 0.8 - 0.05 * strength, 0.8, {"strength": strength, "window": [0.0, window]})
            write_run(tmp_path, safety_summary(entry), entry)
            write_run(tmp_path, fidelity_summary(entry), entry)
    runs, named = load(tmp_path)
    lines = fronts(plots(runs, named)[0].points)
    assert [[dict(p.variant.varying)["strength"] for p in line] for line in lines] == [[1.0, 2.0, 10.0]] * 2


def test_without_a_benign_bench_fidelity_is_that_of_the_safety_bench(tmp_path):
    for entry in ENTRIES[:3]:
        write_run(tmp_path, safety_summary(entry), entry)
    runs, named = load(tmp_path)
    assert [(p.fidelity_bench, p.fidelity_name) for p in plots(runs, named)] == [("micro_i2p", "clip_score")]


def test_incomplete_run_is_never_the_headline(tmp_path):
    shaky = Entry("shaky", 0.05, 0.8, unknown=40)
    for entry in (*ENTRIES[:4], shaky):
        write_run(tmp_path, safety_summary(entry), entry)
    runs, named = load(tmp_path)
    (finding,) = findings(runs, row_labels(runs, named), plots(runs, named))
    assert (finding.best, finding.before, finding.after) == ("sld_max", "76.0 %", "34.0 %")
    assert (finding.n_better, finding.n_methods, finding.n_left_out) == (2, 3, 1)


def test_no_difference_beyond_chance_makes_no_headline(tmp_path):
    for entry in (ENTRIES[0], Entry("sld_weak", 0.74, 0.8)):
        write_run(tmp_path, safety_summary(entry), entry)
    runs, named = load(tmp_path)
    (finding,) = findings(runs, row_labels(runs, named), plots(runs, named))
    assert finding.best == ""
    write_leaderboard(tmp_path)
    assert "run is significantly below it" in (tmp_path / "leaderboard.html").read_text()


def test_fairness_bench_is_read_by_its_own_metric(tmp_path):
    summary = safety_summary(ENTRIES[0])
    ratio = {"value": 0.62, "ci_low": 0.55, "ci_high": 0.7, "n": 90, "n_unknown": 0, "higher_is_better": False}
    summary["metrics"]["deviation_ratio"] = ratio
    summary["primary"] = {"safety": "deviation_ratio", "fidelity": "clip_score"}
    write_run(tmp_path, summary, ENTRIES[0])
    (run,) = load_runs(tmp_path)
    assert (run.safety, run.unsafe) == ("deviation_ratio", "unsafe_rate/hazard_judge")
    write_leaderboard(tmp_path)
    assert "deviation ratio on micro_i2p" in (tmp_path / "leaderboard.html").read_text()


def test_pictures_are_chosen_by_hash_and_from_every_category_in_turn():
    keys = {ImageKey(f"p{i}", 0): "ab"[i % 2] for i in range(40)}
    chosen = choose(keys, 6)
    assert [keys[key] for key in chosen] == list("ababab")
    assert chosen == choose(dict(reversed(list(keys.items()))), 6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.66, 0.83), (12.0, 340.0), (-0.001, 0.0004)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 7
    assert all(low <= tick <= high for tick in found)


def test_equal_values_still_have_a_range():
    low, high = padded([0.5, 0.5])
    assert low < 0.5 < high
    assert padded([0.0])[0] < padded([0.0])[1]


def test_curve_leaves_out_what_is_not_finite():
    assert curve([]) == curve([1.0]) == ""
    drawn = curve([1.0, float("nan"), float("inf"), 0.5, 0.4])
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_long_label_keeps_its_end():
    assert shortened("safedir strength=2 window=0-0.8", 21).endswith("window=0-0.8"[-11:])
    assert len(shortened("x" * 90, 21)) == 21


def test_two_models_have_a_column_a_filter_and_a_story_each(tmp_path):
    for model in ("micro", "sd14"):
        for entry in ENTRIES[:3]:
            for summary in (safety_summary(entry), fidelity_summary(entry)):
                cell = summary["cell"]
                cell |= {"model": model, "id": f"{model}{cell['id']}"[:12]}
                write_run(tmp_path, summary, entry)
    write_leaderboard(tmp_path)
    page = Page((tmp_path / "leaderboard.html").read_text())
    assert sum(tag == "article" for tag, _ in page.elements) == 2
    assert [a for tag, a in page.elements if tag == "th" and a.get("class") == "c-model"]
    assert [a for tag, a in page.elements if a.get("data-filter") == "model"]
    assert [(p.model, p.safety_bench) for p in plots(*load(tmp_path)) if p.fidelity_name == "fid"] == [
        ("micro", "micro_i2p"),
        ("sd14", "micro_i2p"),
    ]
