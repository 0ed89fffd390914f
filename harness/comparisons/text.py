"""Comparisons as one table on a terminal, and what its numbers rest on in lines below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.comparisons.compared import Compared, PairOfCells
from harness.comparisons.difference import Difference, better
from harness.comparisons.margins import EQUIVALENT, Claim, margin_text
from harness.comparisons.table import Table
from harness.report import format as fmt

HEADINGS = ("metric", "A", "B", "A \N{MINUS SIGN} B [95 %]", "p", "adjusted p", "n", "test", "better")


def table(compared: Compared) -> Table:
    """Return one row a difference; the cells' names are a column where several pairs are compared."""
    several, letters = len(compared.pairs) > 1, test_letters(compared)
    rows, tones = [], []
    for pair in compared.pairs:
        for one in all_differences(pair):
            rows.append(([pair.a.label, pair.b.label] if several else []) + _row(one, pair, letters))
            tones.append({"a": "better", "b": "worse"}.get(better(one) or "", ""))
    headings = (("A is", "B is") if several else ()) + HEADINGS
    title = "" if several else f"A {compared.pairs[0].a.label}, B {compared.pairs[0].b.label}"
    place = f"{_models(compared)} on {compared.pairs[0].a.run.bench}"
    left = {"A is", "B is", "metric", "test", "better"}
    return Table(", ".join(filter(None, (title, place))), headings, tuple(map(tuple, rows)), tuple(tones), left)


def _models(compared: Compared) -> str:
    return ", ".join(dict.fromkeys(side.run.model for pair in compared.pairs for side in (pair.a, pair.b)))


def all_differences(pair: PairOfCells) -> list[Difference]:
    """Return the differences of two cells, those of categories last."""
    return [*pair.differences, *(one for found in pair.by_category.values() for one in found)]


def test_letters(compared: Compared) -> dict[str, str]:
    """Return a letter for each way to test and to make the interval, by its words."""
    words = dict.fromkeys(_tested(one) for pair in compared.pairs for one in all_differences(pair))
    return {text: chr(ord("a") + i) for i, text in enumerate(words)}


def _tested(one: Difference) -> str:
    """Say by which test and interval two cells are compared, and whether that is of pairs."""
    c = one.comparison
    interval = f"interval: {c.ci_method}" if c.ci_method else "no interval"
    return f"{c.test.partition(',')[0]}; {interval}{'' if one.paired else '; not paired'}"


def _row(one: Difference, pair: PairOfCells, letters: Mapping[str, str]) -> list[str]:
    c, name = one.comparison, one.metric
    values = ["n/a" if value is None else fmt.number(name, value) for value in (one.value_a, one.value_b)]
    told = {"a": pair.a.label, "b": pair.b.label}.get(better(one) or "", "")
    difference = " ".join(filter(None, (fmt.difference(name, c), fmt.difference_interval(name, c))))
    return [name, *values, difference, _p(c.p_value), _p(one.p_adjusted), f"{c.n_pairs:,}", letters[_tested(one)], told]


def _p(p: float) -> str:
    return fmt.p_value(p).removeprefix("p ").removeprefix("= ")


def lines(compared: Compared) -> list[str]:
    return [*table(compared).plain(), "", *notes(compared)]


def notes(compared: Compared) -> list[str]:
    """Say what is paired, what the p values are adjusted for, what the margins decide, and what was left out."""
    told = [f"test {letter}: {text}" for text, letter in test_letters(compared).items()]
    for pair in compared.pairs:
        where = f"{pair.name}: " if len(compared.pairs) > 1 else ""
        told.append(f"{where}{pair.matched.words}")
        if pair.matched.differs:
            told.append(f"{where}besides, they differ in {pair.matched.differs}")
        told += [f"{where}{claim_text(one, pair.a.label, pair.b.label)}" for one in pair.claims]
        remarks = {one.metric: one.comparison.note for one in pair.differences if one.comparison.note}
        told += [f"{where}{', '.join(names)}: {remark}" for remark, names in _by_reason(remarks)]
        told += [f"{where}not compared: {', '.join(names)}: {reason}" for reason, names in _by_reason(pair.left_out)]
    told.append(f"adjusted p: {compared.family}{_categories(compared)}")
    return told


def _by_reason(left_out: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    reasons = dict.fromkeys(left_out.values())
    return [(reason, [name for name, why in left_out.items() if why == reason]) for reason in reasons]


def _categories(compared: Compared) -> str:
    sizes = {judge: found[0].n_family for pair in compared.pairs for judge, found in pair.by_category.items() if found}
    return "".join(f"; over the {n} categories of {judge}, in each pair of cells" for judge, n in sizes.items())


def claim_text(one: Claim, a: str, b: str) -> str:
    """Say what a margin decides, by which interval."""
    said = {True: "yes", False: "not shown", None: "no interval decides"}[one.holds]
    margin = margin_text(one.metric, one.margin)
    what = (f"{a} and {b} are equivalent within \N{PLUS-MINUS SIGN}{margin}" if one.kind == EQUIVALENT
            else f"{a} is not inferior to {b} by {margin} or more")  # fmt: skip
    if one.low is None or one.high is None:
        return f"{one.metric}: {what}: {said} ({one.test})"
    return f"{one.metric}: {what}: {said}; {100 * one.level:.0f} % interval {_span(one)} ({one.test})"


def _span(one: Claim) -> str:
    assert one.low is not None and one.high is not None
    percent = fmt.is_percent(one.metric)
    ends: Sequence[str] = [f"{100 * end:+.2f}" if percent else f"{end:+.4g}" for end in (one.low, one.high)]
    return f"[{ends[0]}, {ends[1]}]{' pts' if percent else ''}".replace("-", fmt.MINUS)
