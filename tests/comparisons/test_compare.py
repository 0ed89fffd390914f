"""Any two cells: what is paired, each number held against another library, one named family of p values."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import HarnessError
from harness.comparisons.cells import compare_cells
from harness.comparisons.compared import Asked, compare_folders
from harness.records import Metric
from tests.support.comparison_fixtures import CLIP, JUDGE, Cell, write_cell

RATE = f"unsafe_rate/{JUDGE}"


def drawn(rng: np.random.Generator, rate: float, prompts: int = 60, repeats: int = 1) -> list[list[bool]]:
    return (rng.random((prompts, repeats)) < rate).tolist()


def clip(rng: np.random.Generator, mean: float, prompts: int = 60, repeats: int = 1) -> list[list[float]]:
    return rng.normal(mean, 0.02, (prompts, repeats)).tolist()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """Four cells of one bench: two methods, another seed, another model; one has a refusal and an unknown."""
    rng, results = np.random.default_rng(0), tmp_path_factory.mktemp("compare") / "results"
    cells = {
        "mine": Cell("mine", drawn(rng, 0.2), clip(rng, 0.30)),
        "none": Cell("none", drawn(rng, 0.6), clip(rng, 0.31)),
        "seed": Cell("none", drawn(rng, 0.6), clip(rng, 0.31), seed=1),
        "model": Cell("none", [["refused"], [None], *drawn(rng, 0.5, 58)], model="large", weights="v"),
    }
    return {name: write_cell(results, cell) for name, cell in cells.items()} | {"results": results}


def by_metric(record) -> dict[str, dict]:
    return {one["metric"]: one for one in record["differences"]}


def verdicts(folder: Path) -> np.ndarray:
    from harness.comparisons.sides import load_sides

    (side,) = load_sides([folder])
    return np.array([row.verdict == "unsafe" for row in side.scores[JUDGE].rows])


def test_one_image_a_prompt_is_compared_by_mcnemars_exact_test_as_statsmodels_has_it(world):
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = verdicts(world["mine"]), verdicts(world["none"])
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    record = compare_cells(world["mine"], world["none"])
    one = by_metric(record)[RATE]
    assert one["p_value"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert one["difference"] == pytest.approx(a.mean() - b.mean())
    assert one["ci_low"] < one["difference"] < one["ci_high"] < 0
    assert one["better"] == "a"
    assert record["flips"][JUDGE]["table"] == {
        "both_unsafe": table[0][0], "only_a_unsafe": table[0][1], "only_b_unsafe": table[1][0],
        "both_safe": table[1][1], "unknown": 0}  # fmt: skip
    assert len(record["flips"][JUDGE]["only_b_unsafe"]) == table[1][0]
    assert record["flips"][JUDGE]["p_value"] == one["p_value"]


def test_values_are_compared_by_a_permutation_test_as_scipy_has_it(world):
    from scipy.stats import permutation_test

    from harness.comparisons.sides import load_sides

    sides = load_sides([world["mine"], world["none"]])
    a, b = (np.array([row.value for row in side.scores[CLIP].rows]) for side in sides)
    found = permutation_test((a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
                             n_resamples=20_000, rng=np.random.default_rng(1), vectorized=True)
    one = by_metric(compare_cells(world["mine"], world["none"]))["clip_score"]
    assert one["p_value"] == pytest.approx(found.pvalue, abs=0.01)
    assert one["difference"] == pytest.approx((a - b).mean())


def test_p_values_are_adjusted_over_all_tests_of_the_call_as_statsmodels_does(world):
    from statsmodels.stats.multitest import multipletests

    found = harness.compare(world["mine"], world["none"], world["seed"])
    records = found.records()
    expected = multipletests([one["p_value"] for one in records], method="holm")[1]
    assert [one["p_adjusted"] for one in records] == pytest.approx(list(expected))
    assert {one["n_family"] for one in records} == {len(records)}
    assert found.family == f"Holm's method over {len(records)} tests: 2 pairs of cells, {len(records) // 2} metrics"
    assert found.family in str(found)


def test_all_pairs_and_chosen_metrics_make_the_family(world):
    cells = [world["mine"], world["none"], world["seed"]]
    found = harness.compare(*cells, metrics=["unsafe_rate"], all_pairs=True)
    assert found.family == "Holm's method over 3 tests: 3 pairs of cells, 1 metric"
    assert [pair.name for pair in found.pairs] == [
        "mine \N{MINUS SIGN} none seed=0", "mine \N{MINUS SIGN} none seed=1",
        "none seed=0 \N{MINUS SIGN} none seed=1"]  # fmt: skip


def test_what_is_paired_is_said_and_noise_is_shared_only_where_it_is(world):
    shared = compare_cells(world["mine"], world["none"], ["unsafe_rate"])["pairing"]
    assert (shared["noise"], shared["n_pairs"], shared["why"]) == ("shared", 60, None)
    seeds = compare_cells(world["none"], world["seed"], ["unsafe_rate"])["pairing"]
    assert (seeds["noise"], seeds["why"]) == ("not shared", "seeds 0 and 1")
    models = compare_cells(world["none"], world["model"], ["unsafe_rate"])["pairing"]
    assert (models["noise"], models["why"]) == ("not shared", "models micro and large")
    assert models["words"] == ("60 pairs by prompt and repeat, 60 prompts, noise not shared (models micro and large)")


def test_other_weights_of_one_model_are_named_and_share_their_noise(tmp_path):
    rng = np.random.default_rng(0)
    cells = [write_cell(tmp_path, Cell("none", drawn(rng, 0.5), weights=weights)) for weights in ("base", "tuned")]
    found = compare_cells(*cells, ["unsafe_rate"])["pairing"]
    assert (found["noise"], found["differs"]) == ("shared", "weights base and tuned")


def test_refused_and_unknown_images_are_in_no_pair_but_in_the_flips_count_of_unknown(world):
    record = compare_cells(world["model"], world["none"])
    found = by_metric(record)
    assert found[RATE]["n"] == 58
    assert record["flips"][JUDGE]["table"]["unknown"] == 2
    assert found["refusal_rate"]["n"] == 60
    assert found["refusal_rate"]["difference"] == pytest.approx(1 / 60)
    assert found[f"shown_{RATE}"]["n"] == 59  # refused counts as safe, unknown does not
    assert "clip_score" not in found  # only one of them has it


def test_what_was_said_of_an_image_before_it_was_refused_is_in_no_pair(world):
    from harness.comparisons.matched import match
    from harness.comparisons.pairs import paired_scores
    from harness.comparisons.sides import load_sides
    from harness.records import Status

    a, b = load_sides([world["mine"], world["none"]])
    first, second, *_ = b.images
    refused = {first: replace(a.images[first], status=Status.REFUSED)}, {second: replace(b.images[second],
                                                                                        status=Status.ERROR)}
    a, b = (replace(side, images={**side.images, **other}) for side, other in zip((a, b), refused, strict=True))
    keys = {image.key for image, _, _ in paired_scores(a, b, match(a, b), JUDGE)}
    assert keys == set(a.images) - {first, second}


def test_several_images_a_prompt_are_compared_by_prompt(tmp_path):
    rng = np.random.default_rng(3)
    shares = rng.beta(0.5, 0.5, 40)
    unsafe = [[(rng.random(5) < share).tolist() for share in shares] for _ in range(2)]
    cells = [write_cell(tmp_path, Cell(name, rows)) for name, rows in zip("ab", unsafe, strict=True)]
    record = compare_cells(*cells)
    one = by_metric(record)[RATE]
    assert (one["n"], record["pairing"]["n_prompts"]) == (200, 40)
    assert one["test"].startswith("sign-flip by prompt")
    assert record["flips"][JUDGE]["p_value"] == one["p_value"]  # McNemar's would take the images as independent
    from scipy.stats import permutation_test

    sums = np.subtract(*[np.array([sum(row) for row in rows]) for rows in unsafe])
    found = permutation_test((sums, np.zeros(40)), lambda x, y, axis: np.mean(x - y, axis=axis), vectorized=True,
                             permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1))
    assert one["p_value"] == pytest.approx(found.pvalue, abs=0.02)


def test_categories_are_families_of_their_own(world):
    (found,) = compare_cells(world["mine"], world["none"])["categories"].values()
    assert [one["metric"] for one in found] == [f"{RATE}/flame", f"{RATE}/skull"]
    assert {one["n_family"] for one in found} == {2}
    assert sum(one["n"] for one in found) == 60


def test_a_judge_that_differs_is_not_compared_and_the_reason_is_said(tmp_path):
    rng = np.random.default_rng(0)
    rows, values = drawn(rng, 0.5), clip(rng, 0.3)
    cells = [write_cell(tmp_path, Cell(name, rows, values, threshold=threshold))
             for name, threshold in (("a", 0.5), ("b", 0.7))]
    record = compare_cells(*cells)
    left = {one["metric"]: one["reason"] for one in record["not_compared"]}
    assert left[RATE] == f"{JUDGE} is not the same in both: threshold 0.5 and 0.7"
    assert "clip_score" in by_metric(record)


def test_numbers_of_whole_sets_are_compared_from_their_intervals_and_said_to_be_unpaired(tmp_path):
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    fid = {"a": Metric(40.0, 38.0, 42.0, 60, 0, False), "b": Metric(43.0, 41.0, 45.0, 60, 0, False)}
    cells = [write_cell(tmp_path, Cell(name, drawn(rng, 0.5), metrics={"fid": one})) for name, one in fid.items()]
    one = by_metric(compare_cells(*cells))["fid"]
    assert not one["paired"]
    assert (one["ci_low"], one["ci_high"]) == pytest.approx((-3 - math.sqrt(8), -3 + math.sqrt(8)))
    assert one["p_value"] == pytest.approx(2 * norm.sf(3 / (math.sqrt(8) / norm.ppf(0.975))))
    assert "not paired" in one["note"]


@pytest.mark.parametrize(("n", "reference", "reason"), [
    (50, "a" * 12, "of 60 and 50 images: its bias depends on their number"),
    (60, "b" * 12, "the two have other reference sets: reference coco aaaaaaaaaaaa (n=9) and reference coco bbbbbbb"),
])  # fmt: skip
def test_a_fid_of_another_number_of_images_or_reference_is_not_compared(tmp_path, n, reference, reason):
    rng = np.random.default_rng(0)
    told = [Metric(40.0, 38.0, 42.0, count, 0, False, note=f"few; x features; reference coco {sha} (n=9)")
            for count, sha in ((60, "a" * 12), (n, reference))]
    cells = [write_cell(tmp_path, Cell(name, drawn(rng, 0.5), metrics={"fid": one}))
             for name, one in zip("ab", told, strict=True)]
    (left,) = [one["reason"] for one in compare_cells(*cells)["not_compared"] if one["metric"] == "fid"]
    assert left.startswith(reason)


def test_margins_are_decided_by_the_interval_of_their_level(tmp_path):
    rng = np.random.default_rng(5)
    base = rng.normal(0.3, 0.02, (80, 1))
    near = base - 0.004 + rng.normal(0, 0.01, base.shape)
    cells = [write_cell(tmp_path, Cell(name, drawn(rng, 0.5, 80), values.tolist()))
             for name, values in (("near", near), ("none", base))]

    def claims(**margins):
        (pair,) = compare_folders(cells, Asked(("clip_score",), **margins)).pairs
        return pair.claims

    (first,) = claims(noninferior={"clip_score": 0.008})
    low = by_metric(compare_cells(*cells))["clip_score"]["ci_low"]
    assert (first.low, first.level, first.holds) == (pytest.approx(low), 0.95, True)
    assert claims(noninferior={"clip_score": -low * 0.99})[0].holds is False
    (equal,) = claims(equivalent={"clip_score": 0.01})
    assert (equal.level, equal.holds, equal.test) == (0.9, True, "two one-sided tests at 5 %")
    assert low < equal.low < equal.high < -low
    assert claims(equivalent={"clip_score": -equal.low * 0.99})[0].holds is False


def test_a_margin_of_what_cannot_be_compared_is_said_to_be_undecided(tmp_path):
    rng = np.random.default_rng(0)
    fid = Metric(40.0, None, None, 60, 0, False, note="few images")
    cells = [write_cell(tmp_path, Cell(name, drawn(rng, 0.5), metrics={"fid": fid})) for name in "ab"]
    found = harness.compare(*cells, noninferior={"fid": 1})
    (one,) = found.pairs[0].claims
    assert one.holds is None
    assert "fid: a is not inferior to b by 1 or more: no interval decides (no pair of images has it, and" in str(found)


def test_an_equivalence_is_found_as_statsmodels_two_one_sided_tests_find_it():
    from statsmodels.stats.weightstats import ttost_paired

    from harness.comparisons.difference import Difference
    from harness.comparisons.margins import EQUIVALENT, claim
    from harness.metrics.aggregate import value_comparison
    from harness.records import ImageRow, ScoreRow, Status

    rng, agree, n = np.random.default_rng(2), 0, 30
    for trial in range(n):
        a = rng.normal(0.0, 1.0, 200)
        b = a + rng.normal(0.1, 1.0, 200)
        rows = [(ImageRow(str(i), 0, f"p{i}", (), 0, 1.0, None, None, None, Status.OK, None, 0.0, 1, "w"),
                 ScoreRow(str(i), 0, value=x), ScoreRow(str(i), 0, value=y))
                for i, (x, y) in enumerate(zip(a, b, strict=True))]  # fmt: skip

        def again(level, rows=rows, trial=trial):
            return value_comparison(rows, "b", trial, level)

        held = claim(EQUIVALENT, Difference("x", True, again(0.95), True, again), 0.22).holds
        agree += held == (ttost_paired(a, b, -0.22, 0.22)[0] < 0.05)
    assert agree >= 0.93 * n


def test_a_margin_of_a_rate_is_in_percentage_points(world):
    (pair,) = compare_folders([world["none"], world["mine"]], Asked(noninferior={"unsafe_rate": 5})).pairs
    (one,) = pair.claims
    assert (one.margin, one.holds) == (0.05, False)
    (pair,) = compare_folders([world["mine"], world["none"]], Asked(noninferior={"unsafe_rate": 5})).pairs
    assert pair.claims[0].holds is True


@pytest.mark.parametrize("margin", ["0", "-1", "x", "nan", "inf"])
def test_a_margin_that_is_none_is_refused(world, margin):
    with pytest.raises(HarnessError, match="a margin above 0 is needed"):
        compare_folders([world["none"], world["mine"]], Asked(noninferior={"clip_score": margin}))


def test_other_benches_models_and_metrics_are_refused_in_one_line(world, tmp_path):
    other = write_cell(tmp_path, Cell("none", [[True]], bench="i2p"))
    with pytest.raises(HarnessError, match="need the same bench"):
        compare_cells(world["none"], other)
    with pytest.raises(HarnessError, match=r"unknown metric of both cells 'clip_scor'.*clip_score"):
        harness.compare(world["none"], world["mine"], metrics=["clip_scor"])
    with pytest.raises(HarnessError, match="Name two at least"):
        harness.compare(world["none"])
    with pytest.raises(HarnessError, match="given twice"):
        harness.compare(world["none"], world["none"])


def test_cells_are_found_by_id_words_and_folder(world):
    results = world["results"]

    def names(*cells, **options):
        (pair,) = harness.compare(*cells, results=results, metrics=["unsafe_rate"], **options).pairs
        return pair.a.run.folder, pair.b.run.folder

    assert names(world["mine"].name[:5], str(world["none"])) == (world["mine"], world["none"])
    assert names("method=mine", "method=none seed=1 model=micro") == (world["mine"], world["seed"])
    assert names("method=mine", "method=none") == (world["mine"], world["none"])  # of the first one's model and seed
    with pytest.raises(HarnessError, match=r"method=none fits 3 cells\. Which one: .*large.*micro"):
        harness.compare("method=none", "method=none seed=0", results=results)
    assert names("method=none", "method=none seed=1") == (world["none"], world["seed"])
    with pytest.raises(HarnessError, match="unknown method 'mne'"):
        harness.compare("method=mne", "method=none", results=results)
    with pytest.raises(HarnessError, match="Write method=mine"):
        harness.compare("mine", "method=none", results=results)


def test_a_broken_cell_is_named(world, tmp_path):
    broken = write_cell(tmp_path, Cell("none", [[True]]))
    (broken / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(HarnessError, match="cannot be compared: summary"):
        compare_cells(world["none"], broken)


def test_the_record_is_plain_json_without_prompts(world):
    text = json.dumps(compare_cells(world["model"], world["none"]), allow_nan=False)
    assert "prompt 1" not in text
    assert "p0059" in text


def test_a_notebook_shows_a_table_whose_texts_are_escaped(tmp_path):
    rng = np.random.default_rng(0)
    cells = [write_cell(tmp_path, Cell("mine", drawn(rng, 0.5, 20), overrides={"x": x})) for x in ("<b>", "y")]
    text = harness.compare(*cells, metrics=["unsafe_rate"])._repr_html_()
    assert text.startswith("<table>") and f"<td>{RATE}</td>" in text
    assert "&lt;b&gt;" in text and "<b>" not in text


def test_runs_of_earlier_releases_are_compared_by_their_stored_scores(tmp_path):
    from harness.cells.store import CellStore, EvaluatorKey, StoredScore
    from harness.comparisons.sides import load_sides

    rng = np.random.default_rng(1)
    folders = [write_cell(tmp_path, Cell(name, drawn(rng, 0.5))) for name in "ab"]
    before = by_metric(compare_cells(*folders))[RATE]
    for folder, side in zip(folders, load_sides(folders), strict=True):
        hashes = {key: image.sha256 for key, image in side.images.items()}
        CellStore(folder).append_scores(EvaluatorKey(JUDGE, "judge-0.5"), "attempt-0",
                                        [StoredScore(row, hashes[row.key]) for row in side.scores[JUDGE].rows])
        (folder / "verdicts.parquet").unlink()
    assert by_metric(compare_cells(*folders))[RATE] == before


HOSTILE = [
    {"evaluators": {JUDGE: {"metrics": 7, "identity": {"classes": 3}, "scores": "x"}}},
    {"evaluators": {JUDGE: {"metrics": ["a", {}], "fingerprint": []}}}, {"evaluators": {"../../x": {"scores": {}}}},
    {"evaluators": {JUDGE: {"scores": {"folder": "../../..", "fingerprint": "x"}}}},
    {"cell": {"settings": {"seed": "x", "method_overrides": [1]}}}, {"cell": {"conditions": [1], "settings": None}},
    {"prompts": {"limit": "x"}}, {"primary": {"safety": "../x"}}, {"statistics": "x"},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=range(len(HOSTILE)))
def test_a_summary_from_elsewhere_is_compared_or_refused_but_breaks_nothing(change, tmp_path, capsys):
    from harness.__main__ import main

    rng = np.random.default_rng(0)
    folders = [write_cell(tmp_path, Cell(name, drawn(rng, 0.5, 12), clip(rng, 0.3, 12))) for name in "ab"]
    summary = json.loads((folders[0] / "summary.json").read_text())
    for key, value in change.items():
        summary[key] = {**summary[key], **value} if isinstance(value, dict) else value
    (folders[0] / "summary.json").write_text(json.dumps(summary))
    assert main(["compare", *map(str, folders), "--categories"]) in (0, 2)
    assert main(["gate", *map(str, folders)]) in (0, 1, 2)
    assert main(["history", str(tmp_path)]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_cell_that_changed_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    folders = [write_cell(tmp_path, Cell(name, drawn(rng, 0.5, 12))) for name in "ab"]
    assert compare_cells(*folders)["a"]["status"] == "complete"
    text = (folders[0] / "summary.json").read_text()
    (folders[0] / "summary.json").write_text(text.replace('"status": "complete"', '"status": "incomplete"'))
    os.utime(folders[0] / "summary.json", ns=(1, 1))
    assert compare_cells(*folders)["a"]["status"] == "incomplete"


def test_the_command_prints_one_table_and_writes_json_and_csv(world, tmp_path, capsys, monkeypatch):
    from harness.__main__ import main

    monkeypatch.setenv("COLUMNS", "200")
    words = ["compare", "method=mine,none", "model=micro", "seed=0", f"results={world['results']}", "--categories",
             "noninferior=clip_score=0.02", f"json={tmp_path / 'x.json'}", "--csv", str(tmp_path / "x.csv")]
    assert main(words) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "A mine, B none, micro on micro_i2p"
    row = next(line for line in lines if line.startswith(RATE + " "))
    assert "pts [" in row and row.split()[-2:] == ["a", "mine"]
    assert "test a: McNemar exact; interval: Newcombe" in lines
    assert "60 pairs by prompt and repeat, 60 prompts, the same noise" in lines
    assert any(line.startswith("clip_score: mine is not inferior to none by 0.02 or more: yes; 95 % interval")
               for line in lines)
    assert any("over the 2 categories of judge" in line for line in lines)
    record = json.loads((tmp_path / "x.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
    assert record["comparisons"][0]["differences"][0]["metric"] == rows[0]["metric"]
    assert main([*words[:-4], "json=-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == 1


def test_the_command_takes_cells_in_quotes_and_the_rest_from_plain_words(world, capsys):
    from harness.__main__ import main

    words = ["compare", "method=mine seed=0", "method=none seed=1", "model=micro", f"results={world['results']}"]
    assert main([*words, "metrics=unsafe_rate"]) == 0
    out = capsys.readouterr().out
    assert "noise not shared (seeds 0 and 1)" in out
    assert main(["compare", "method=mine", f"results={world['results']}"]) == 2
    assert "Name two at least" in capsys.readouterr().err
    assert main(["compare"]) == 2


@pytest.mark.parametrize("noise", [True, False], ids=["same noise", "other noise"])
def test_idle_methods_are_told_apart_at_most_five_times_in_a_hundred(noise):
    from harness.comparisons.pairs import Paired
    from harness.metrics.aggregate import verdict_comparison
    from harness.records import ImageRow, ScoreRow, Status, Verdict

    rng, trials, false, covered = np.random.default_rng(7), 400, 0, 0
    image = ImageRow("p", 0, "p", (), 0, 1.0, None, None, None, Status.OK, None, 0.0, 1, "w")
    images = [replace(image, prompt_id=f"p{i}", prompt=f"p{i}") for i in range(150)]
    for trial in range(trials):
        share = rng.beta(1, 2, 150)
        shared = rng.random(150)
        draws = [(np.where(rng.random(150) < (0.7 if noise else 0.0), shared, rng.random(150)) < share) for _ in "ab"]
        pairs: list[Paired] = [
            (one, *(ScoreRow(one.prompt_id, 0, Verdict.UNSAFE if d[i] else Verdict.SAFE) for d in draws))
            for i, one in enumerate(images)]  # type: ignore[misc]  # fmt: skip
        found = verdict_comparison(pairs, "b", trial)
        false += found.p_value <= 0.05
        covered += found.ci_low <= 0 <= found.ci_high
    assert false / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials >= 0.92


def test_what_is_counted_is_compared_in_total(world, tmp_path):
    plain = by_metric(compare_cells(world["mine"], world["none"]))["clip_score"]
    folders = [shutil.copytree(world[name], tmp_path / world[name].name) for name in ("mine", "none")]
    for file in (folder / "summary.json" for folder in folders):
        summary = json.loads(file.read_text())
        summary["metrics"]["detections"] = summary["metrics"].pop("clip_score")
        summary["evaluators"][CLIP]["metrics"] = ["detections"]
        file.write_text(json.dumps(summary))
    total = by_metric(compare_cells(*folders))["detections"]
    for key in ("difference", "ci_low", "ci_high"):
        assert total[key] == pytest.approx(60 * plain[key])
    assert total["p_value"] == plain["p_value"]
