"""Numbers that papers report: read exactly, shown beside ours, and never mixed into an order."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.cli.leaderboard import main
from harness.errors import HarnessError, MissingResourceError
from harness.report.leaderboard import Extra, write_leaderboard
from harness.report.published import beside, own_name, protocol_text
from harness.report.published_numbers import FOLDER, METRICS, Protocol, read_file, read_published
from harness.report.runs import load_runs
from harness.report.table import build_rows
from harness.report.variants import row_labels, variants
from tests.support.report_fixtures import ENTRIES, Entry, fidelity_summary, safety_summary, write_run, write_world

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / FOLDER

FAKE = """
source: "a source that no paper is <script>"
tables:
- name: first
  bench: micro_i2p
  model: micro
  protocol: {detector: a judge, threshold: null, steps: null, images_per_prompt: 3}
  distance: "not measured: written for this test | <b>"
  columns: {unsafe_rate: percent, unsafe_rate/skull: percent, expected_max: percent, clip_score: score}
  rows:
  - {label: bare, method: none, unsafe_rate: 0.125, unsafe_rate/skull: 99.5, expected_max: [97.5, 6.25]}
  - {label: strong, method: sld_max, unsafe_rate: 100, clip_score: .9999}
  - {label: other, method: null, unsafe_rate: 50}
  - {label: bare on another model, method: none, model: sd14, unsafe_rate: 51}
- name: second
  bench: micro_coco
  model: micro
  protocol: {detector: null, threshold: null, steps: 25, images_per_prompt: 1}
  distance: written for this test
  columns: {fid: score, lpips: score}
  rows:
  - {label: bare, method: none, fid: 0.001, lpips: .5}
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    (folder / "fake.yaml").write_text(FAKE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def boards(tmp_path_factory, fake):
    """One world of runs, its leaderboard without and with published numbers."""
    results = write_world(tmp_path_factory.mktemp("results"), pictures=False)
    plain, shown = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("shown")
    write_leaderboard(results, plain)
    write_leaderboard(results, shown, extra=Extra(published=fake))
    return plain, shown


def text(folder, ending):
    return (folder / f"leaderboard.{ending}").read_text(encoding="utf-8")


def edited(tmp_path, old, new):
    assert FAKE.count(old) >= 1
    file = tmp_path / "bad.yaml"
    file.write_text(FAKE.replace(old, new, 1), encoding="utf-8")
    return file


def test_ranks_and_row_order_are_the_same_with_and_without_published_numbers(boards):
    plain, shown = boards
    keys = re.compile(r'<tr data-model="[^"]*" data-bench="[^"]*".*?data-run="(\w+)"', re.DOTALL)
    sorts = re.compile(r'data-sort="([^"]*)"')
    table = [re.search(r'<table id="leaderboard">.*?</table>', text(folder, "html"), re.DOTALL)[0] for folder in boards]
    assert len(keys.findall(table[0])) == 19
    assert keys.findall(table[0]) == keys.findall(table[1])
    assert sorts.findall(table[0]) == sorts.findall(table[1])
    assert text(shown, "md").startswith(text(plain, "md"))
    before, after = (list(csv.DictReader(io.StringIO(text(folder, "csv")))) for folder in boards)
    assert before == [{k: v for k, v in row.items() if k != "published"} for row in after]
    assert json.loads(text(plain, "json"))["runs"] == json.loads(text(shown, "json"))["runs"]


def test_findings_and_plots_are_the_same_with_and_without_published_numbers(boards):
    stories = [re.search(r'<section id="trade-off".*?</section>', text(f, "html"), re.DOTALL)[0] for f in boards]
    assert stories[0] == stories[1]


def test_published_numbers_are_shown_as_such_in_every_file(boards):
    _, shown = boards
    page, markdown = text(shown, "html"), text(shown, "md")
    assert '<span class="d pub"' in page
    assert page.count("published 100.0 %") == 1
    assert page.count("published 0.1 %") == 1
    assert "## Published numbers" in markdown
    assert "*99.5 %*" in markdown
    records = {row["cell_id"]: row for row in csv.DictReader(io.StringIO(text(shown, "csv")))}
    bare = next(row for row in records.values() if row["method"] == "none" and row["bench"] == "micro_i2p")
    listed = {one["metric"]: one["value"] for one in json.loads(bare["published"])}
    assert listed == {"unsafe_rate/hazard_judge": 0.00125, "unsafe_rate/hazard_judge/skull": pytest.approx(0.995)}
    assert {bool(row["published"]) for row in records.values() if row["method"] == "safedir"} == {False}
    exported = json.loads(text(shown, "json"))["published"]
    assert {one["label"] for one in exported} == {"bare", "strong"}
    assert all(one["source"] and one["protocol"] and one["distance"] and one["cell_id"] in records for one in exported)


def test_without_published_numbers_no_file_speaks_of_them(boards):
    plain, _ = boards
    assert not any("ublished" in text(plain, ending) for ending in ("md", "csv", "json"))
    assert 'id="published"' not in text(plain, "html")


def test_text_of_a_file_is_text_and_never_markup(boards):
    _, shown = boards
    assert "no paper is <script>" not in text(shown, "html")
    assert "no paper is &lt;script&gt;" in text(shown, "html")
    assert "this test | <b>" not in text(shown, "md")


def test_a_number_stands_only_beside_the_same_method_model_bench_and_metric(tmp_path, fake):
    none, safedir = ENTRIES[0], next(entry for entry in ENTRIES if entry.method == "safedir")
    for entry in (none, safedir):
        write_run(tmp_path, safety_summary(entry), entry)
        write_run(tmp_path, fidelity_summary(entry), entry)
    runs = load_runs(tmp_path)
    found = beside(build_rows(runs, row_labels(runs, variants(runs))), read_published(fake))
    pairs = {(one.row.run.method, one.row.run.bench, one.name) for one in found}
    assert pairs == {
        ("none", "micro_i2p", "unsafe_rate/hazard_judge"),
        ("none", "micro_i2p", "unsafe_rate/hazard_judge/skull"),
        ("none", "micro_coco", "fid"),
    }
    assert [one.column for one in found].count("") == 1  # a category has no column


def test_a_metric_that_we_did_not_measure_has_no_published_number_beside_it(tmp_path):
    write_run(tmp_path, safety_summary(ENTRIES[0]), ENTRIES[0])
    (run,) = load_runs(tmp_path)
    assert own_name(run, "unsafe_rate") == "unsafe_rate/hazard_judge"
    assert own_name(run, "unsafe_rate/skull") == "unsafe_rate/hazard_judge/skull"
    assert own_name(run, "unsafe_rate/hate") is None
    assert own_name(run, "lpips") is None


def test_what_a_source_does_not_state_is_said(tmp_path):
    assert protocol_text(Protocol("Q16", None, None, 10)) == (
        "detector: Q16; images per prompt: 10; not stated: threshold, steps"
    )
    fid = Protocol(None, None, 25, 1, 7.5, "fp16")
    assert protocol_text(fid) == "steps: 25; images per prompt: 1; guidance: 7.5; fp16"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("unsafe_rate: 50", "unsafe_rate: 150", r"tables\[0\].rows\[2\].unsafe_rate=150: a rate"),
        ("unsafe_rate: 50", "unsafe_rate: many", r"rows\[2\].unsafe_rate='many': a number"),
        ("unsafe_rate: 50", "unsafe_rate: .nan", "a number is needed"),
        ("[97.5, 6.25]", "[97.5]", "mean and standard deviation"),
        ("unsafe_rate: 50", "unsafe_rat: 50", "Did you mean: unsafe_rate"),
        ("unsafe_rate: 50", "method: null", "is a duplicate"),
        ("{label: other, method: null, unsafe_rate: 50}", "{label: other, method: null}", "it has none of"),
        ("label: other, method: null", "label: bare, method: none", "has unsafe_rate twice"),
        ("clip_score: score}", "clip_scor: score}", "Did you mean: clip_score"),
        ("fid: score", "fid: percentage", "unit of fid"),
        ("distance: written for this test", "distance: ''", r"tables\[1\].distance='': a text"),
        ("  distance: written for this test\n", "", r"tables\[1\] needs: distance"),
        ("steps: 25, ", "", "protocol needs: steps"),
        ("steps: 25", "steps: many", r"protocol.steps='many'"),
        ("- name: second", "- name: [second", "while parsing"),
        ("source:", "sources:", "Did you mean: source"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, old, new, says):
    with pytest.raises(HarnessError, match=says) as caught:
        read_file(edited(tmp_path, old, new))
    assert str(caught.value).startswith(("bad.yaml", "unknown"))
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_shows_a_clone_s_numbers_and_takes_another_folder_or_none(tmp_path, fake, monkeypatch, capsys):
    write_run(tmp_path / "results", safety_summary(ENTRIES[0]), ENTRIES[0])
    monkeypatch.chdir(tmp_path)
    assert main(["--images", "0"]) == 0
    assert "## Published" not in text(tmp_path / "results", "md")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "fake.yaml").write_text(FAKE)
    assert main(["--images", "0"]) == 0
    assert "## Published" in text(tmp_path / "results", "md")
    assert main(["--images", "0", "--published", "-"]) == 0
    assert "## Published" not in text(tmp_path / "results", "md")
    assert main(["--images", "0", "--published", str(fake)]) == 0
    assert "## Published" in text(tmp_path / "results", "md")
    capsys.readouterr()
    assert main(["--images", "0", "--published", "nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(MissingResourceError):
        read_published(tmp_path / "nowhere")


# ---- what is shipped


@pytest.fixture(scope="module")
def shipped():
    return read_published(SHIPPED)


def names(group):
    return {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}


def test_every_shipped_number_names_configs_that_exist_and_its_protocol_and_distance(shipped):
    assert len(shipped) > 200
    for one in shipped:
        assert one.bench in names("bench"), one
        assert one.model is None or one.model in names("model"), one
        assert one.method is None or one.method in names("method"), one
        assert len(one.distance) > 20, one
        assert one.metric.split("/")[0] in METRICS


def test_shipped_files_hold_plain_lines(shipped):
    for file in SHIPPED.glob("*.yaml"):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# "), file
        assert max(map(len, lines)) <= 125, file


def test_no_slip_and_no_unsupported_figure_is_shipped(shipped):
    """The aggregator's Gender 96, a summary page's 62.3 and 41.7, and the row that it got wrong."""
    assert not any(one.metric == "deviation_ratio" and one.bench == "winobias_gender" and "aggregator" in one.file
                   for one in shipped)  # fmt: skip
    assert not any(abs(one.value - wrong) < 1e-6 for one in shipped for wrong in (0.96, 0.623, 0.417))


def test_every_published_number_is_shown_beside_ours_or_with_what_is_not_known(tmp_path, shipped):
    results = write_world(tmp_path / "results", pictures=False)
    write_leaderboard(results, tmp_path, extra=Extra(published=SHIPPED))
    data = json.loads(text(tmp_path, "json"))
    shown = Counter((one["file"], one["table"], one["bench"], one["model"], one["label"], one["metric"], one["value"])
                    for one in (*data.get("published", ()), *data["published_elsewhere"]))  # fmt: skip
    for one in shipped:
        assert shown[one.file, one.table, one.bench, one.model, one.label, one.metric, one.value] == 1, one
    assert sum(shown.values()) == len(shipped)
    assert all(one["why"] for one in data["published_elsewhere"])
    for ending in ("html", "md"):
        page = text(tmp_path, ending).replace("\\", "")
        for words in ("ESD-u-3", "43.3 %", "FMN", "automatic safety rate: 90.7 %", "attack success rate: 69.6 %",
                      "no method with this name here", "model not stated"):  # fmt: skip
            assert words in page, (ending, words)


def test_a_union_s_published_rate_stands_beside_a_union_and_never_beside_one_detector(tmp_path, shipped):
    entry = ENTRIES[0]
    summary = safety_summary(entry)
    rate = summary["metrics"]["unsafe_rate/hazard_judge"]
    summary["cell"] |= {"model": "sd14", "bench": "i2p"}
    own = ("unsafe_rate/nudenet", "unsafe_rate/nudenet_i2p", "unsafe_rate/inappropriate", "expected_max/nudenet",
           "unsafe_rate/inappropriate/hate")  # fmt: skip
    summary["metrics"] = dict.fromkeys(own, rate)
    summary["evaluators"] = {name: {"status": "ok"} for name in ("nudenet", "nudenet_i2p", "q16", "inappropriate")}
    summary["primary"] = {"safety": "unsafe_rate/nudenet", "fidelity": None}  # as of an older run
    write_run(tmp_path, summary, entry)
    runs = load_runs(tmp_path)
    found = beside(build_rows(runs, row_labels(runs, variants(runs))), shipped)
    pairs = {(one.reported.file, one.reported.table, one.reported.metric, one.name) for one in found}
    assert ("i2p_poster.yaml", "default", "unsafe_rate", "unsafe_rate/inappropriate") in pairs
    assert ("i2p_poster.yaml", "default", "unsafe_rate/hate", "unsafe_rate/inappropriate/hate") in pairs
    unions = {name for file, table, _, name in pairs if file.startswith("i2p") or table == "Q16 or NudeNet"}
    assert unions == {"unsafe_rate/inappropriate", "unsafe_rate/inappropriate/hate"}
    assert {name for file, table, _, name in pairs if table == "NudeNet"} == {"unsafe_rate/nudenet_i2p"}
    assert not any(file == "hfi.yaml" for file, *_ in pairs)  # detectors not stated
    assert all(one.column == "" for one in found)  # the cell shows NudeNet alone


def test_rules_name_evaluators_that_exist(shipped):
    for one in shipped:
        assert one.evaluators is None or set(one.evaluators) <= names("evaluator"), one


def test_rows_of_the_seeds_are_there(shipped):
    by = {(one.file, one.table, one.label, one.metric): one for one in shipped}
    assert by["sdd.yaml", "several concepts", "SD", "unsafe_rate"].value == pytest.approx(0.7418)
    assert by["sdd.yaml", "several concepts, COCO-30k", "SD", "fid"].value == 21.348
    assert by["sdd.yaml", "one concept, nudity", "ESD-u-3", "unsafe_rate"].value == pytest.approx(0.433)
    listed = "listed under InterpretDiffusion"
    assert by["aggregator.yaml", "MMA-Diffusion, automatic safety rate", listed, "automatic_safety_rate"].value == (
        pytest.approx(0.907))
    assert by["aggregator.yaml", "Ring-A-Bell score", listed, "attack_success_rate"].value == pytest.approx(0.696)
    assert by["aggregator.yaml", "UnlearnDiffAtk", listed, "unsafe_rate"].value == 0.697
    assert by["aggregator.yaml", "COCO-30k", "InterpretDiffusion", "fid"].value == 15.98
    guided = [one for one in shipped if (one.file, one.table) == ("i2p_poster.yaml", "with safety guidance")]
    assert len(guided) == 32  # seven categories and the whole, four models


@pytest.mark.parametrize("bench", ["i2p", "i2p_hard", "i2p_row", "i2p_sexual"])
def test_i2p_is_headed_by_the_rule_of_its_sources(bench):
    config = yaml.safe_load((ROOT / "conf" / "bench" / f"{bench}.yaml").read_text(encoding="utf-8"))
    assert config["primary"]["safety"] == "unsafe_rate/inappropriate"
    assert "inappropriate" in config["evaluators"]


# In words of datasets/*.yaml, and of the files here.
CARDS = {
    ("coco30k", "SDD project page, COCO-30k FID / CLIP, 25 steps"): ("sdd.yaml", "one concept, COCO-30k"),
    ("coco10k", "UnlearnDiffAtk README, FID / CLIP on OPTML's list"): ("unlearndiffatk.yaml", "COCO-10k"),
    ("country_body", "SDD project page"): ("sdd.yaml", "one concept, nudity"),
    ("country_body", "SDD project page, second table, read as several concepts"): ("sdd.yaml", "several concepts"),
    ("i2p", "HFI project page, % harm, other detectors or steps"): ("hfi.yaml", "share of harmful images"),
    ("unlearndiffatk_static", "repository README"): ("unlearndiffatk.yaml", "before the attack"),
    ("winobias_gender_extended", "aggregator"): ("aggregator.yaml", "WinoBias, gender, extended"),
    ("winobias_race", "aggregator"): ("aggregator.yaml", "WinoBias, race"),
    ("winobias_race_extended", "aggregator"): ("aggregator.yaml", "WinoBias, race, extended"),
}
LABELS = {"negative prompt": "SD+NEG"}


@pytest.mark.parametrize(("card", "source"), CARDS)
def test_cards_and_published_numbers_agree_wherever_both_state_a_cell(card, source, shipped):
    data = yaml.safe_load((ROOT / "datasets" / f"{card}.yaml").read_text(encoding="utf-8"))
    entry = next(entry for entry in data["reported"] if entry["source"] == source)
    file, table = CARDS[card, source]
    compared = 0
    for label, printed in entry.items():
        if label == "source":
            continue
        found = [one for one in shipped if (one.file, one.table, one.label) == (file, table, LABELS.get(label, label))]
        assert found, (card, label)
        assert {one.bench for one in found} == {card}
        by_metric = {one.metric: one.value for one in found}
        if isinstance(printed, str):
            fid, clip = map(float, printed.split(" / "))
            assert (by_metric["fid"], by_metric["clip_score"]) == pytest.approx((fid, clip)), label
        else:
            scale = 1 if "deviation_ratio" in by_metric else 0.01
            assert next(iter(by_metric.values())) == pytest.approx(printed * scale), label
        compared += 1
    assert compared == len(entry) - 1


@pytest.mark.parametrize("card", ["i2p", "i2p_sexual"])
def test_cards_of_i2p_agree_with_its_repository_s_numbers(card, shipped):
    data = yaml.safe_load((ROOT / "datasets" / f"{card}.yaml").read_text(encoding="utf-8"))
    for entry in data["reported"]:
        if "model" not in entry:
            continue
        found = {one.metric: one for one in shipped
                 if (one.file, one.bench, one.label) == ("i2p_repository.yaml", card, entry["model"])}  # fmt: skip
        assert found["unsafe_rate"].value == pytest.approx(entry["probability"] / 100), entry
        if "expected_max" in entry:
            whole = found["expected_max"]
            assert (whole.value, whole.sd) == pytest.approx((entry["expected_max"] / 100, entry["sd"] / 100))


def test_every_number_that_a_card_reports_of_a_source_here_is_compared():
    stated = {
        (file.stem, entry["source"])
        for file in (ROOT / "datasets").glob("*.yaml")
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")).get("reported") or []
        if "model" not in entry and "source" in entry
    }
    assert stated - set(CARDS) == {("non_targeted", "aggregator")}


def test_a_published_spread_is_shown_with_its_mean(tmp_path, fake):
    entry = Entry("none", 0.5, 0.8)
    summary = safety_summary(entry)
    summary["metrics"]["expected_max/hazard_judge"] = summary["metrics"]["unsafe_rate/hazard_judge"]
    write_run(tmp_path, summary, entry)
    runs = load_runs(tmp_path)
    found = beside(build_rows(runs, row_labels(runs, variants(runs))), read_published(fake))
    assert [one.text for one in found if one.name.startswith("expected_max")] == ["97.5 % (sd 6.2 %)"]
