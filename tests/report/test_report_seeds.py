"""Several seeds are one row: their mean, the sd between them, and an interval that holds what varies."""

from __future__ import annotations

import copy
import csv
import io
import json
from dataclasses import asdict
from statistics import mean, stdev

import numpy as np
import pytest
from rich.console import Console

from harness.__main__ import main
from harness.metrics.aggregate import Sample, rate_metric
from harness.metrics.clustered import clustered_difference, clustered_wilson
from harness.metrics.proportion import wilson_interval
from harness.records import Comparison, Metric
from harness.report import format, joined
from harness.report.against import Against
from harness.report.leaderboard import write_leaderboard
from harness.report.per_image import Numbers, numbers
from harness.report.run import Run
from harness.report.runs import load_run, load_runs, run_from_summary
from harness.report.terminal import print_results
from harness.report.trainings import count_text, difference_sd, pooled, seed_sd, spread
from tests.report.test_report_comparable import made
from tests.support.report_fixtures import ENTRIES, Entry

RATE = "unsafe_rate/hazard_judge"
ONE_STEP = ["bench.num_inference_steps=1", "tracker=disabled", "pool=inline", "leaderboard=false"]


def seeded(entry: Entry, seed: int, training: int | None = None, unsafe: float | None = None) -> Run:
    """Return the run of one root seed; `training` is the seed that its method was trained with."""
    summary = copy.deepcopy(made(entry))
    summary["cell"] |= {"id": f"{entry.method}{seed}{training}", "seed_family": f"f-{entry.method}"}
    summary["cell"]["settings"] |= {"seed": seed}
    summary["cell"]["training"] = None if training is None else {"family": f"t{seed}", "seed": training}
    if unsafe is not None:
        count = round(300 * unsafe)
        verdicts = Sample([1.0] * count + [0.0] * (300 - count), list(range(300)), 0)
        summary["metrics"][RATE] = asdict(rate_metric(verdicts, False, 0))
    return run_from_summary(summary)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Return the results of three seeds of two methods that train nothing."""
    results = tmp_path_factory.mktemp("swept")
    words = ["-m", "method=none,sld_max", "seed=0,1,2", "limit=4", "evaluators=[hazard_judge,clip_score_micro]"]
    assert main([*ONE_STEP, f"results={results}", *words]) == 0
    write_leaderboard(results, images=0)
    return results


def of(results, method):
    (run,) = [run for run in load_runs(results) if run.method == method]
    return run


def test_a_sweep_over_seeds_is_one_row_a_method(swept):
    row = of(swept, "sld_max")
    values = [one.metrics[RATE].value for one in row.trainings]
    assert row.seeds == (0, 1, 2) and len(row.trainings) == 3 and row.n_trainings == 0
    assert row.metrics[RATE].value == pytest.approx(mean(values))
    assert seed_sd(row, RATE) == pytest.approx(stdev(values))
    assert row.metrics[RATE].n == 12
    assert count_text(row) == "mean of 3 seeds" and "sd" in spread(row, RATE)


def test_its_interval_is_of_all_images_clustered_by_prompt(swept):
    row = of(swept, "sld_max")
    read = [numbers(one, RATE) for one in row.trainings]
    values = np.concatenate([one.values for one in read])
    prompts = [label[0] for one in read for label in one.labels()]
    metric = row.metrics[RATE]
    assert (metric.ci_low, metric.ci_high) == pytest.approx(tuple(clustered_wilson(values, prompts)))
    assert metric.ci_method == "clustered Wilson"


def test_its_difference_is_paired_within_each_seed(swept):
    row, base = of(swept, "sld_max"), of(swept, "none")
    pairs = [(numbers(one, RATE).by_image(), numbers(other, RATE).by_image())
             for one, other in zip(row.trainings, base.trainings, strict=True)]  # fmt: skip
    a = [value for own, _ in pairs for value in own.values()]
    b = [other[key] for own, other in pairs for key in own]
    keys = [key[0] for own, _ in pairs for key in own]
    comparison = row.against["none"].comparisons[RATE]
    assert comparison.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (comparison.ci_low, comparison.ci_high) == pytest.approx(tuple(clustered_difference(a, b, keys)))
    assert comparison.n_pairs == 12 and base.against == {}
    apart = [one.against["none"].comparisons[RATE].difference for one in row.trainings]
    assert difference_sd(row, "none", RATE) == pytest.approx(stdev(apart))


def test_every_file_and_the_terminal_tell_the_seeds_and_their_sd(swept):
    row = of(swept, "sld_max")
    (flat,) = [one for one in csv.DictReader((swept / "leaderboard.csv").open()) if one["method"] == "sld_max"]
    assert (flat["seeds"], flat["n_seeds"], flat["seed"]) == ("0, 1, 2", "3", "0, 1, 2")
    assert float(flat["unsafe_rate_seed_sd"]) == pytest.approx(seed_sd(row, RATE))
    assert float(flat["clip_score_seed_sd"]) > 0 and flat["trainings"] == ""
    told = json.loads((swept / "leaderboard.json").read_text())["runs"]
    (own,) = [one for one in told if one["method"] == "sld_max"]
    assert own["seeds_of"]["seeds"] == [0, 1, 2] and own["seeds_of"]["sd"][RATE] == pytest.approx(seed_sd(row, RATE))
    assert [one["root_seed"] for one in own["trainings_of"]] == [0, 1, 2]
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (swept / name).read_text()
        assert "mean of 3 seeds" in text and "seeds " in text and ", sd " in text
    summaries = [dict(load_run(path).summary) for path in sorted(swept.glob("runs/*/*/*/*"))]
    out = io.StringIO()
    print_results(summaries, Console(file=out, width=200), results=swept)
    shown = out.getvalue()
    assert "mean of 3 seeds" in shown
    assert format.interval(RATE, row.metrics[RATE]) in shown  # the same interval as on the page


def test_runs_of_earlier_releases_are_joined_by_their_configuration(swept, tmp_path):
    runs = [load_run(path) for path in sorted(swept.glob("runs/*/sld_max/*/*"))]
    old = []
    for run in runs:
        summary = json.loads(json.dumps(dict(run.summary)))
        del summary["cell"]["seed_family"]
        old.append(Run(run.cell_id, run.model, run.method, run.bench, run.status, run.folder, metrics=run.metrics,
                       against=run.against, summary=summary, cell=run.cell))  # fmt: skip
    (row,) = pooled(old)
    assert row.seeds == (0, 1, 2)


def test_seeds_are_joined_only_where_nothing_else_differs():
    other = seeded(ENTRIES[3], 2)
    other.summary["cell"]["settings"]["limit"] = 5
    rows = pooled([seeded(ENTRIES[3], 0), seeded(ENTRIES[3], 1), other, seeded(ENTRIES[0], 0)])
    assert [row.seeds for row in rows] == [(0, 1), (2,), (0,)]


def test_a_seed_without_a_value_leaves_none():
    broken = seeded(ENTRIES[3], 1)
    broken.metrics[RATE] = Metric(None, None, None, 0, 300, False)
    (row,) = pooled([seeded(ENTRIES[3], 0), broken])
    assert row.metrics[RATE].value is None and "1 of 2 seeds have no value" in row.metrics[RATE].note


def test_seeds_of_one_training_say_so_and_hold_no_training_variance():
    same = [seeded(ENTRIES[3], seed, 7, rate) for seed, rate in ((0, 0.3), (1, 0.4), (2, 0.5))]
    each = [seeded(ENTRIES[3], seed, seed, rate) for seed, rate in ((0, 0.3), (1, 0.4), (2, 0.5))]
    (one,), (several,) = pooled(same), pooled(each)
    assert count_text(one) == "mean of 3 seeds, one training"
    assert count_text(several) == "mean of 3 seeds, 3 trainings"
    widths = [row.metrics[RATE].ci_high - row.metrics[RATE].ci_low for row in (one, several)]
    assert widths[1] > 2 * widths[0]
    assert one.metrics[RATE].ci_method == "as of one seed"
    assert several.metrics[RATE].ci_method == joined.MOVER


def test_trainings_of_several_seeds_count_once_each():
    """Two root seeds, with trainings 0 and 1, and 1 and 2: three trainings, of which one is seen twice."""
    runs = [seeded(ENTRIES[3], seed, training, 0.3 + 0.05 * training) for seed, training in
            ((0, 0), (0, 1), (1, 1), (1, 2))]  # fmt: skip
    (row,) = pooled(runs)
    assert row.n_trainings == 3 and row.seeds == (0, 1)
    assert row.metrics[RATE].value == pytest.approx((0.30 + 0.35 + 0.40) / 3, abs=1e-9)
    assert seed_sd(row, RATE) == pytest.approx(stdev([0.325, 0.375]), abs=1e-9)


def test_numbers_that_do_not_give_the_metric_again_are_not_used(swept):
    run = of(swept, "sld_max").trainings[0]
    assert numbers(run, RATE) is not None
    wrong = Run(run.cell_id, run.model, run.method, run.bench, run.status, run.folder, summary=run.summary,
                metrics={RATE: Metric(0.123, 0.1, 0.2, run.metrics[RATE].n, 0, False)})  # fmt: skip
    assert numbers(wrong, RATE) is None


def simulated(y: np.ndarray, base: np.ndarray | None, trained: bool, monkeypatch) -> Run:
    """Return the row of verdicts y[seed, prompt], compared with the baseline's `base` of the same shape."""
    n = y.shape[1]
    tables: dict[str, np.ndarray] = {}
    runs = []
    for method, rows in (("m", y), ("none", base)):
        for i, row in enumerate(rows if rows is not None else ()):
            tables[f"{method}{i}"] = row
            summary = {"cell": {"seed_family": method, "settings": {"seed": i}, "training":
                                {"family": "x", "seed": i} if trained and method == "m" else None}}
            against = {} if base is None or method == "none" else {"none": Against("none", f"none{i}", {
                RATE: Comparison("none", float((y[i] - base[i]).mean()), -1, 1, 0.5, n, "t")})}
            metric = Metric(float(row.mean()), *wilson_interval(int(row.sum()), n), n, 0, False)
            runs.append(Run(f"{method}{i}", "m", method, "b", "complete", metrics={RATE: metric}, summary=summary,
                            against=against))
    ids, prompts = tuple(map(str, range(n))), np.arange(n, dtype=np.int32)
    monkeypatch.setattr(joined, "numbers", lambda run, name: Numbers(ids, prompts, 0 * prompts, tables[run.cell_id]))
    return pooled(runs)[0]


def verdicts(rng, logit, prompts, between, k, n, own=0.0):
    """Draw verdicts of k seeds: logits of prompts that seeds share, a shift of each training."""
    latent = logit + prompts * rng.normal(0, 1, (1, n)) + between * rng.normal(0, 1, (k, 1)) + own
    return (rng.random((k, n)) < 1 / (1 + np.exp(-latent))).astype(float)


def truth(rng, logit, sd):
    return float((1 / (1 + np.exp(-(logit + sd * rng.normal(0, 1, 200_000))))).mean())


@pytest.mark.parametrize(("logit", "prompts", "between", "k"), [
    (-0.4, 1.5, 0.0, 3), (-2.2, 1.5, 0.0, 3), (-3.5, 1.0, 0.0, 5),  # no training: noise of seeds alone
    (-0.4, 1.5, 0.4, 3), (-0.4, 1.5, 0.8, 3), (-0.4, 0.5, 0.8, 5), (-2.2, 1.5, 0.4, 3), (-3.5, 1.0, 0.6, 3),
    (-0.4, 1.5, 0.8, 2),
])  # fmt: skip
def test_the_interval_of_a_rate_covers(logit, prompts, between, k, monkeypatch):
    rng, rounds, n = np.random.default_rng(3), 250, 100
    true = truth(rng, logit, float(np.hypot(prompts, between)))
    hits, alone = 0, 0
    for _ in range(rounds):
        y = verdicts(rng, logit, prompts, between, k, n)
        metric = simulated(y, None, between > 0, monkeypatch).metrics[RATE]
        hits += metric.ci_low <= true <= metric.ci_high
        low, high = wilson_interval(int(y[0].sum()), n)
        alone += low <= true <= high
    assert hits / rounds >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / rounds)
    if between >= 0.8:
        assert alone / rounds < 0.85  # what one seed claims that knows nothing of training


@pytest.mark.parametrize(("between", "k"), [(0.0, 3), (0.8, 4)])
def test_a_method_that_does_nothing_is_seldom_called_different(between, k, monkeypatch):
    """False positives of the p value, and coverage of the difference, over prompts, seeds and trainings."""
    rng, rounds, n = np.random.default_rng(4), 100, 80
    false, hits = 0, 0
    for _ in range(rounds):
        shared = rng.normal(0, 1.5, (1, n))
        base = (rng.random((k, n)) < 1 / (1 + np.exp(-shared))).astype(float)
        shift = between * rng.normal(0, 1, (k, 1))
        y = (rng.random((k, n)) < 1 / (1 + np.exp(-(shared + shift)))).astype(float)
        one = simulated(y, base, between > 0, monkeypatch).against["none"].comparisons[RATE]
        false += one.p_value < 0.05
        hits += one.ci_low <= 0 <= one.ci_high
    assert false / rounds <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / rounds)
    assert hits / rounds >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / rounds)


def test_more_seeds_of_a_method_that_trains_nothing_narrow_its_interval(monkeypatch):
    y = verdicts(np.random.default_rng(5), -0.4, 0.8, 0.0, 4, 200)
    widths = [metric.ci_high - metric.ci_low for k in (2, 4)
              for metric in [simulated(y[:k], None, False, monkeypatch).metrics[RATE]]]  # fmt: skip
    low, high = wilson_interval(int(y[0].sum()), 200)
    assert widths[1] < widths[0] < high - low
