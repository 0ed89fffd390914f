"""Numbers of prompts, against closed forms where verdicts are independent and against the harness's own tests."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.comparisons.correlations import intraclass_correlation, measure
from harness.comparisons.outcomes import Verdicts, outcome_law
from harness.comparisons.power import mcnemar_p, plan, power_of, sign_flip_p, two_rates_p
from harness.comparisons.sides import load_sides
from tests.support.comparison_fixtures import Cell, write_cell

UNPAIRED = Verdicts(0.05, 0.03, correlation=None)


@pytest.mark.parametrize("of", [Verdicts(0.05, 0.03, 10, 0.35, 0.4), Verdicts(0.6, 0.3, 4, 0.7, 0.2),
                                Verdicts(0.5, 0.4, 1, 0.0, -0.3), Verdicts(0.2, 0.25, 3, 0.0, 0.5)])  # fmt: skip
def test_the_law_of_a_prompt_has_the_rates_and_correlations_that_it_is_of(of):
    law, y = outcome_law(of), np.arange(of.repeats + 1)
    assert law.sum() == pytest.approx(1)
    for side, rate in ((law.sum(axis=1), of.rate_a), (law.sum(axis=0), of.rate_b)):
        assert side @ y / of.repeats == pytest.approx(rate, rel=1e-6)
        if of.repeats > 1:
            both = side @ (y * (y - 1)) / (of.repeats * (of.repeats - 1))
            assert (both - rate**2) / (rate * (1 - rate)) == pytest.approx(of.icc, abs=2e-4)
    if of.repeats == 1:
        spread = np.sqrt(of.rate_a * (1 - of.rate_a) * of.rate_b * (1 - of.rate_b))
        assert (law[1, 1] - of.rate_a * of.rate_b) / spread == pytest.approx(of.correlation, abs=1e-6)


def test_pairs_of_several_images_have_their_correlation_by_simulation():
    # E[y_a y_b] = m P(both of a pair) + m (m - 1) P(both of two pairs); the second by drawing the latent normals.
    of = Verdicts(0.4, 0.3, 3, 0.3, 0.5)
    law, y = outcome_law(of), np.arange(4)
    from harness.comparisons.outcomes import _latent_between, _latent_within

    within = [_latent_within(rate, of.icc) for rate in (0.4, 0.3)]
    tau, rng, n = _latent_between(of, within), np.random.default_rng(0), 200_000
    u, e = (np.einsum("ij,...j->...i", np.linalg.cholesky([[1, tau], [tau, 1]]), rng.normal(size=(n, *shape, 2)))
            for shape in ((1,), (3,)))  # fmt: skip
    from scipy.special import ndtri

    unsafe = np.sqrt(within) * u + np.sqrt(1 - np.array(within)) * e < ndtri([0.4, 0.3])
    assert np.corrcoef(unsafe[..., 0].ravel(), unsafe[..., 1].ravel())[0, 1] == pytest.approx(0.5, abs=0.01)
    counts = unsafe.sum(axis=1)
    assert y @ law @ y == pytest.approx((counts[:, 0] * counts[:, 1]).mean(), rel=0.01)


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.03), (0.5, 0.4), (0.2, 0.1)])
def test_independent_unpaired_verdicts_need_what_statsmodels_says(a, b):
    from statsmodels.stats.proportion import power_proportions_2indep, samplesize_proportions_2indep_onetail

    of = Verdicts(a, b, correlation=None)
    found = plan(of)
    assert found.needed.n_prompts == pytest.approx(samplesize_proportions_2indep_onetail(a - b, b, 0.8), rel=0.04)
    for n in (found.needed.n_prompts, found.needed.n_prompts // 2):
        expected = power_proportions_2indep(a - b, b, n, return_results=False)
        assert power_of(of, n).power == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_paired_verdicts_have_the_exact_power_of_mcnemars_test(correlation):
    from scipy.stats import binom

    of, n = Verdicts(0.2, 0.1, correlation=correlation), 150
    law = outcome_law(of)
    apart, share = law[1, 0] + law[0, 1], law[1, 0] / (law[1, 0] + law[0, 1])
    exact = 0.0
    for discordant in range(n + 1):
        k = np.arange(discordant + 1)
        p = np.minimum(1, 2 * binom.cdf(np.minimum(k, discordant - k), discordant, 0.5))
        exact += binom.pmf(discordant, n, apart) * binom.pmf(k, discordant, share)[p <= 0.05].sum()
    found = power_of(of, n)
    assert found.power == pytest.approx(exact, abs=0.012)
    assert found.low <= exact <= found.high or abs(found.power - exact) < 0.006


def test_the_simulated_tests_are_those_of_the_harness():
    from statsmodels.stats.proportion import proportions_ztest

    from harness.metrics import mcnemar_exact, paired_bootstrap

    b, c = np.array([0, 3, 12, 40]), np.array([0, 9, 2, 40])
    assert mcnemar_p(b, c) == pytest.approx([mcnemar_exact(int(x), int(y)) for x, y in zip(b, c, strict=True)])
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, other = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
        shift, kinds = a + rng.integers(0, 2, 200) - other, np.arange(-4, 6)
        counts = np.array([[(shift == kind).sum() for kind in kinds]])
        p = paired_bootstrap(np.repeat(shift, 1).astype(float), np.zeros(200), range(200), 0).p_value
        assert sign_flip_p(counts, kinds)[0] == pytest.approx(p, abs=0.015)
    z = two_rates_p(np.array([[90, 10]]), np.array([[80, 20]]))
    assert z == pytest.approx([proportions_ztest([10, 20], [100, 100])[1]])


@pytest.mark.parametrize("of", [Verdicts(0.1, 0.1, 1, 0, 0.4), Verdicts(0.1, 0.1, 8, 0.35, 0.4),
                                Verdicts(0.1, 0.1, 8, 0.35, None), Verdicts(0.1, 0.1, 1, 0, None)])  # fmt: skip
def test_rates_that_are_equal_are_told_apart_at_most_five_times_in_a_hundred(of):
    assert power_of(of, 300).power <= 0.056


def test_more_correlated_pairs_need_fewer_prompts_and_more_images_a_prompt_too():
    needed = [plan(Verdicts(0.2, 0.1, correlation=r), simulations=4000).needed.n_prompts for r in (0.0, 0.3, 0.6)]
    assert needed == sorted(needed, reverse=True)
    one, loose, tight = (plan(Verdicts(0.2, 0.1, m, icc, None), simulations=4000).needed.n_prompts
                         for m, icc in ((1, 0.0), (5, 0.1), (5, 0.6)))  # fmt: skip
    assert loose < tight < one


@pytest.mark.slow
def test_several_images_a_prompt_have_the_power_that_the_harness_finds_in_made_up_runs():
    from scipy.special import ndtri

    from harness.comparisons.outcomes import _latent_between, _latent_within
    from harness.metrics.aggregate import verdict_comparison
    from harness.records import ImageRow, ScoreRow, Status, Verdict

    of, n, trials = Verdicts(0.3, 0.2, 4, 0.35, 0.4), 100, 400
    within = [_latent_within(rate, of.icc) for rate in (0.3, 0.2)]
    tau, rng, found = _latent_between(of, within), np.random.default_rng(1), 0
    root = np.linalg.cholesky([[1, tau], [tau, 1]])
    image = ImageRow("p", 0, "p", (), 0, 1.0, None, None, None, Status.OK, None, 0.0, 1, "w")
    for trial in range(trials):
        u, e = (np.einsum("ij,...j->...i", root, rng.normal(size=(n, k, 2))) for k in (1, 4))
        unsafe = np.sqrt(within) * u + np.sqrt(1 - np.array(within)) * e < ndtri([0.3, 0.2])
        pairs = [(replace(image, prompt_id=f"p{i}", prompt=f"p{i}", repeat=r),
                  *(ScoreRow(f"p{i}", r, Verdict.UNSAFE if unsafe[i, r, x] else Verdict.SAFE) for x in (0, 1)))
                 for i in range(n) for r in range(4)]  # fmt: skip
        found += verdict_comparison(pairs, "b", trial).p_value <= 0.05
    assert found / trials == pytest.approx(power_of(of, n).power, abs=2.5 * np.sqrt(0.25 / trials))


def test_the_intraclass_correlation_is_that_of_scipys_analysis_of_variance_and_finds_the_truth():
    from scipy.stats import f_oneway

    rng = np.random.default_rng(0)
    unsafe = rng.random((60, 6)) < rng.beta(1, 2, (60, 1))
    f = f_oneway(*unsafe.astype(float)).statistic
    assert intraclass_correlation(unsafe.astype(float).tolist()) == pytest.approx((f - 1) / (f + 5))
    many = (rng.random((4000, 6)) < rng.beta(1, 2, (4000, 1))).astype(float)
    assert intraclass_correlation(many.tolist()) == pytest.approx(1 / 4, abs=0.02)  # 1 / (a + b + 1) of the Beta
    assert intraclass_correlation([[1.0], [0.0]]) is None
    assert intraclass_correlation([[1.0, 1.0], [1.0]]) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    rng, results = np.random.default_rng(0), tmp_path_factory.mktemp("power") / "results"
    shares, base = rng.beta(1, 1, (80, 1)), rng.random((80, 3))
    near = np.where(rng.random((80, 3)) < 0.8, base, rng.random((80, 3)))
    unsafe = {"none": base < shares, "mine": near < shares / 2}
    return results, {name: write_cell(results, Cell(name, rows.tolist())) for name, rows in unsafe.items()}, unsafe


def test_correlations_of_finished_runs_are_measured(runs):
    _, folders, unsafe = runs
    found = measure(load_sides([folders["none"], folders["mine"]]))
    assert found.correlation == pytest.approx(np.corrcoef(unsafe["none"].ravel(), unsafe["mine"].ravel())[0, 1])
    assert found.rates == pytest.approx((unsafe["none"].mean(), unsafe["mine"].mean()))
    assert (found.repeats, found.n_prompts) == (3, 80)
    assert found.icc == pytest.approx(
        np.mean([intraclass_correlation(rows.astype(float).tolist()) for rows in unsafe.values()]))
    one = measure(load_sides([folders["none"]]))
    assert one.correlation is None


def test_the_command_says_how_many_and_where_each_number_is_from(runs, capsys):
    from harness.__main__ import main

    results, folders, _ = runs
    assert main(["power", "3%", "5%", "simulations=2000"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 % against 5 %: 1,")
    assert "test: McNemar exact" in out
    assert "since none is stated or measured" in out
    words = ["power", f"from={folders['none'].name[:6]},method=mine bench=micro_i2p", f"results={results}"]
    assert main([*words, "simulations=2000", "prompts=142", "icc=0.2"]) == 0
    out = capsys.readouterr().out
    assert "test: sign-flip by prompt" in out
    assert "intraclass correlation 0.20, as stated" in out and "as measured" in out
    assert any(line.split()[0] == "142" for line in out.splitlines() if line[:1] == " " and line.split())
    assert main(["power", "0.03", "5%", "simulations=2000", "paired=false", "tests=4", "json=-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["alpha"] == 0.0125 and record["verdicts"]["correlation"] is None


@pytest.mark.parametrize(("words", "said"), [
    (["3", "5%"], "'3' is no rate. Write 3% or 0.03."), (["3%"], "Two are needed"),
    (["3%", "3%"], "both rates are 3 %"),
    (["3%", "0%"], "no variation to simulate"), (["3%", "5%", "icc=2"], "expected a number from 0 to 1"),
    (["3%", "5%", "correlation=0.95"], "allow -0.04 to"), (["3%", "5%", "paired=maybe"], "true or false"),
    (["3%", "5%", "repeats=51"], "from 1 to 50"), (["3%", "5%", "power=1"], "between 0 and 1"),
    (["3%", "5%", "repeat=2"], "Did you mean: repeats"), (["3%", "3.0001%"], "are not told apart"),
])  # fmt: skip
def test_what_cannot_be_planned_is_refused_in_one_line(words, said, capsys):
    from harness.__main__ import main

    assert main(["power", *words, "simulations=500"]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1

