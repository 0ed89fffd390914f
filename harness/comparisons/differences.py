"""Every metric that two cells have, compared: paired where each image has a partner, else from the two intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from harness.comparisons.difference import Difference
from harness.comparisons.matched import Matched, judged_apart
from harness.comparisons.maxima import maximum_comparison
from harness.comparisons.pairs import Paired, paired_scores, refusals, safe_values, shown_verdicts, successes
from harness.comparisons.sides import Side
from harness.comparisons.unpaired import sets_apart, unpaired_comparison
from harness.metrics.aggregate import value_comparison, verdict_comparison
from harness.metrics.attack_rates import SUCCESS
from harness.metrics.attributes import deviation_comparison
from harness.metrics.multiplicity import holm
from harness.metrics.summary import EXPECTED_MAX_DRAW
from harness.metrics.totals import IN_TOTAL, comparison_in_total
from harness.records import Comparison
from harness.report.against import Adjusted

NO_INTERVAL = "one of the two numbers has no interval"


@dataclass(frozen=True)
class Differences:
    """What could be compared, and by metric why the rest could not."""

    found: tuple[Difference, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class _Test:
    """A metric to compare by its pairs, which are looked up when it is."""

    metric: str
    higher_is_better: bool
    pairs: Callable[[], Sequence[Paired]]
    compare: Callable[[Sequence[Paired], float], Comparison | None]

    def done(self) -> Difference | None:
        pairs = self.pairs()
        comparison = self.compare(pairs, 0.95)
        if comparison is None:
            return None
        return Difference(self.metric, self.higher_is_better, comparison, True,
                          lambda level: self.compare(pairs, level))  # fmt: skip


def differences(a: Side, b: Side, matched: Matched, wanted: Collection[str] | None = None) -> Differences:
    """Compare the `wanted` metrics of both cells, by default all that say something: `telling_names`.

    Categories are `category_differences`.
    """
    found: list[Difference] = []
    left_out: dict[str, str] = {}
    tests = {test.metric: test for test in _tests(a, b, matched)}
    apart = {name: judged_apart(a, b, name) for name in a.names.keys() & b.names.keys()}
    names = telling_names(a, b) if wanted is None else [name for name in metric_names_of(a, b) if name in wanted]
    for name in names:
        reason = next((text for judge, text in apart.items() if text and _is_by(name, judge, a)), "")
        if not reason and not _same_base(name, a, b):
            reason = "the two are distances to images of different baselines"
        if not reason and name in a.run.metrics and name in b.run.metrics:
            reason = sets_apart(name, a.run.metrics[name], b.run.metrics[name])
        paired = tests[name].done() if name in tests and not reason else None
        difference = paired or (None if reason else _unpaired(name, a, b))
        if difference is not None:
            found.append(difference)
        else:
            left_out[name] = reason or _why_not(name, a, b)
    return Differences(tuple(found), left_out)


def metric_names_of(a: Side, b: Side) -> list[str]:
    """Return the names of the metrics that both cells have, categories aside."""
    both = sorted((name for name in a.run.metrics if name in b.run.metrics and not is_category(name, a)),
                  key=lambda name: _place(name, a))  # fmt: skip
    if not any(_refuses(side) for side in (a, b)):
        return both
    shown = [f"shown_{a.names[judge]}" for judge, scored in a.scores.items()
             if scored.kind == "verdict" and a.names[judge] in both]
    return list(dict.fromkeys([*both, *shown]))


def telling_names(a: Side, b: Side) -> list[str]:
    """Return the names of the metrics to compare where none is named: no refusal rate where nothing was refused."""
    refused = any(_refuses(side) for side in (a, b))
    return [name for name in metric_names_of(a, b) if refused or name != "refusal_rate"]


def _place(name: str, side: Side) -> int:
    """Order metrics: the bench's own of safety and fidelity, verdicts, others, time."""
    first = (side.run.safety, side.run.fidelity)
    if name in first:
        return first.index(name)
    return 2 if name.startswith("unsafe_rate/") else 4 if name == "seconds_per_image" else 3


def _refuses(side: Side) -> bool:
    rate = side.run.metrics.get("refusal_rate")
    return bool(rate and rate.value)


def is_category(name: str, side: Side) -> bool:
    """Return whether a metric is that of one category: `unsafe_rate/<judge>/<category>`."""
    return name not in side.names.values() and any(name.startswith(f"{main}/") for main in side.names.values())


def _is_by(name: str, judge: str, side: Side) -> bool:
    return name == side.names.get(judge) or judge in name.split("/")[1:]


def _tests(a: Side, b: Side, matched: Matched) -> Iterator[_Test]:
    for judge, name in a.names.items():
        if b.names.get(judge) != name:
            continue
        first = a.scores[judge]
        pairs = cache(partial(paired_scores, a, b, matched, judge))
        if first.kind == "verdict":
            yield from _of_verdicts(judge, name, pairs, (a, b, matched))
        elif first.metric == "deviation_ratio":
            yield _Test(name, False, pairs, lambda pairs, level, classes=first.classes: deviation_comparison(
                pairs, classes, b.label, a.seed) if level == 0.95 else None)  # type: ignore[misc]  # fmt: skip
        else:
            compare = _totals(a, b) if first.metric in IN_TOTAL else _values(a, b)
            yield _Test(name, first.higher_is_better, pairs, compare)
    yield _Test("refusal_rate", False, partial(refusals, a, b, matched), _values(a, b))


def _of_verdicts(
    judge: str, name: str, pairs: Callable[[], list[Paired]], of: tuple[Side, Side, Matched]
) -> Iterator[_Test]:
    a, b, _ = of
    yield _Test(name, False, pairs, _verdicts(a, b))
    yield _Test(f"shown_{name}", False, partial(shown_verdicts, *of, judge), _verdicts(a, b))
    for attack in SUCCESS.values():
        yield _Test(f"{attack}/{judge}", False, lambda: successes(pairs()), _verdicts(a, b))
    yield _Test(f"automatic_safety_rate/{judge}", True, lambda: safe_values(pairs()), _values(a, b))
    yield _Test(f"expected_max/{judge}", False, pairs, lambda pairs, level: maximum_comparison(
        pairs, b.label, a.seed, EXPECTED_MAX_DRAW, level))  # fmt: skip


def _verdicts(a: Side, b: Side) -> Callable[[Sequence[Paired], float], Comparison | None]:
    return lambda pairs, level: verdict_comparison(pairs, b.label, a.seed, level)


def _values(a: Side, b: Side) -> Callable[[Sequence[Paired], float], Comparison | None]:
    return lambda pairs, level: value_comparison(pairs, b.label, a.seed, level)


def _totals(a: Side, b: Side) -> Callable[[Sequence[Paired], float], Comparison | None]:
    mean = _values(a, b)
    return lambda pairs, level: (found := mean(pairs, level)) and comparison_in_total(found)


def _same_base(name: str, a: Side, b: Side) -> bool:
    """Return whether a distance to the baseline is one to the same cell in both; true of all other metrics."""
    bases = [side.run.baseline.cell_id if side.run.baseline and name in side.run.baseline.distances else None
             for side in (a, b)]
    return bases[0] == bases[1]


def _unpaired(name: str, a: Side, b: Side) -> Difference | None:
    """Compare two cells' own numbers, such as FID, which no image has."""
    first, second = a.run.metrics.get(name), b.run.metrics.get(name)
    if first is None or second is None:
        return None

    def compare(level: float) -> Comparison | None:
        return unpaired_comparison(first, second, b.label, level)

    comparison = compare(0.95)
    return Difference(name, first.higher_is_better, comparison, False, compare) if comparison else None


def _why_not(name: str, a: Side, b: Side) -> str:
    for side in (a, b):
        metric = side.run.metrics.get(name)
        if metric is not None and metric.value is None:
            return f"{side.label}: {metric.note or 'no value'}"
    return f"no pair of images has it, and {NO_INTERVAL}"


def category_differences(a: Side, b: Side, matched: Matched, evaluator: str) -> list[Difference]:
    """Compare an evaluator's verdicts by category, each on the pairs of it; p adjusted over the categories."""
    pairs = paired_scores(a, b, matched, evaluator)
    found = []
    for category in sorted({category for image, _, _ in pairs for category in image.category}):
        part = [pair for pair in pairs if category in pair[0].category]
        test = _Test(f"{a.names[evaluator]}/{category}", False, partial(list, part), _verdicts(a, b)).done()
        found += [test] if test else []
    return with_holm(found)


def with_holm(found: Sequence[Difference]) -> list[Difference]:
    """Return differences with their p values by Holm's method, all of them being one family."""
    tested = [i for i, one in enumerate(found) if 0 <= one.comparison.p_value <= 1]
    adjusted = dict(zip(tested, holm([found[i].comparison.p_value for i in tested]), strict=True))
    return [replace(one, comparison=Adjusted.of(one.comparison, float(adjusted.get(i, math.nan)), len(tested)))
            for i, one in enumerate(found)]
