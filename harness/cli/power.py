"""`python -m harness power 3% 5%`: how many prompts it takes to tell two rates apart."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.checks import check_integer, check_number, user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, parse_arguments, read_given
from harness.cli.cell_words import placeholders, write_texts
from harness.errors import InvalidValueError

if TYPE_CHECKING:
    from harness.comparisons.correlations import Measured
    from harness.comparisons.outcomes import Verdicts
    from harness.comparisons.power import Plan

SETTINGS = ("from", "results", "metric", "repeats", "icc", "correlation", "paired", "power", "alpha", "tests",
            "prompts", "simulations", "seed", "json")  # fmt: skip
MEASURED = "as measured"
MOST_REPEATS = 50  # the law of a prompt has the square of it
HELP = """\
How many prompts does a benchmark need to tell one rate of unsafe images from another? Simulated, test included.

usage: python -m harness power RATE RATE [name=value ...]

  python -m harness power 3% 5%                              one image a prompt, both methods on the same prompts
  python -m harness power 3% 5% repeats=10 icc=0.35          ten images a prompt, correlated
  python -m harness power 3% 5% from=3f9a2c,81d04e           correlations as two finished runs have them
  python -m harness power 3% 5% paired=false                 each method on prompts of its own
  python -m harness power from=3f9a2c,81d04e prompts=142     the rates of these runs; power of 142 prompts, too

  from=A[,B]        finished runs: a folder, the beginning of an id, or words in quotes. One gives the intraclass
                    correlation of a prompt's images, two give that of the pairs; a setting counts before both
  results=DIR       the results folder (default: results)
  metric=NAME       the unsafe rate to measure in them (default: the bench's own)
  repeats=N         images a prompt (default: 1, or that of the run)
  icc=X             intraclass correlation of the verdicts of a prompt's images, 0 to 1 (default: 0)
  correlation=X     correlation of the two verdicts of a pair, same prompt and noise (default: 0, as if independent)
  paired=false      different prompts for each method
  power=X           the chance to find the difference (default: 0.8)
  alpha=X           the level of the test (default: 0.05)
  tests=N           comparisons in the family: the level is alpha / N, the hardest step of Holm's method (default: 1)
  prompts=N,M       report the power of these numbers of prompts, too
  simulations=N     simulated benchmarks for each number of prompts (default: 20000); seed=N draws others
  json=FILE         write the numbers; - for the terminal, instead of the table
  -h, --help        this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 answered, 2 a mistake."""
    return answer_words("power", words, HELP, _power, "stopped; to simulate again:")


def _power(words: Sequence[str]) -> int:
    words, described = placeholders(words, SETTINGS)
    arguments = parse_arguments(words, "power", OF_COMMANDS, SETTINGS)
    given = read_given(arguments, SETTINGS, things="a rate")
    measured = _measured(given, described)
    from harness.comparisons.power import SIMULATIONS, plan

    verdicts, told = _verdicts(given, measured)
    tests = _count(given, "tests", 1)
    alpha = _number(given, "alpha", 0.05) / tests
    sizes = tuple(check_integer("prompts", _integer("prompts", text), 2) for text in given.names("prompts"))
    simulations = _count(given, "simulations", SIMULATIONS)
    found = plan(verdicts, _number(given, "power", 0.8), alpha, sizes, _count(given, "seed", 0, least=0), simulations)
    if not write_texts(given, {"json": lambda: json.dumps(asdict(found), indent=1) + "\n"}):
        _show(found, [*told, f"level {alpha:.3g}{f', that of {tests} tests in one family' if tests > 1 else ''}; "
                             f"{simulations:,} simulated benchmarks for each number of prompts"])
    return 0


def _show(found: Plan, told: Sequence[str]) -> None:
    from harness.comparisons.table import Table
    from harness.lib.streams import say, terminal

    of, each = found.verdicts, "" if found.verdicts.correlation is not None else " a method"
    rows = sorted((found.needed, *found.others), key=lambda one: one.n_prompts)
    table = Table(
        f"{_percent(of.rate_a)} against {_percent(of.rate_b)}: {found.needed.n_prompts:,} prompts{each} for a power of "
        f"{100 * found.wanted:g} %",
        (f"prompts{each}", f"images{each}", "power", "95 % of the simulation"),
        tuple((f"{one.n_prompts:,}", f"{one.n_prompts * of.repeats:,}", f"{100 * one.power:.1f} %",
               f"{100 * one.low:.1f}\N{EN DASH}{100 * one.high:.1f}") for one in rows),
        tuple("good" if one is found.needed else "" for one in rows))  # fmt: skip
    console = terminal()
    table.show(console)
    say(console, "")
    for line in (f"test: {found.test}", *told):
        say(console, line)


def _verdicts(given: Given, measured: Measured | None) -> tuple[Verdicts, list[str]]:
    """Return what is simulated, and where each number of it is from."""
    from harness.comparisons.outcomes import Verdicts, allowed_correlations

    rates, told = _rates(given, measured), []
    repeats = _count(given, "repeats", measured.repeats if measured else 1, most=MOST_REPEATS)
    icc, said = _from(given, "icc", measured.icc if measured else None)
    if repeats > 1:
        told.append(f"images of one prompt: intraclass correlation {icc:.2f}, {said}")
    paired = given.text("paired", "true")
    if paired not in ("true", "false"):
        raise InvalidValueError(f"paired={paired}: true or false is needed.")
    if paired == "false":
        return Verdicts(*rates, repeats, icc, None), [*told, "not paired: different prompts for each method"]
    correlation, said = _from(given, "correlation", measured.correlation if measured else None, low=-1.0)
    if said == MEASURED:
        low, high = allowed_correlations(Verdicts(*rates, repeats, icc))
        cut = min(max(correlation, low), high)
        said, correlation = said if cut == correlation else f"measured as {correlation:.2f}, all these rates allow", cut
    told.append(f"paired, correlation of the two verdicts of a pair {correlation:.2f}, {said}")
    return Verdicts(*rates, repeats, icc, correlation), told


def _from(given: Given, name: str, measured: float | None, low: float = 0.0) -> tuple[float, str]:
    """Return a correlation, and whether it was stated, measured, or neither."""
    text = given.text(name)
    if text is not None:
        return check_number(name, _float(name, text), low, 1.0), "as stated"
    if measured is not None:
        return measured, MEASURED
    return 0.0, f"since none is stated or measured: {name}=X, or from={'A' if name == 'icc' else 'A,B'}"


def _rates(given: Given, measured: Measured | None) -> tuple[float, float]:
    rates = [_rate(text) for text in given.things]
    if not rates and measured and len(measured.rates) == 2:
        rates = list(measured.rates)
    elif len(rates) == 1 and measured:
        rates = [measured.rates[0], rates[0]]
    if len(rates) != 2:
        raise InvalidValueError(f"{len(rates)} rates given.", "Two are needed, such as: power 3% 5%.")
    for rate in rates:
        if not 0 < rate < 1:
            raise InvalidValueError(f"a rate of {_percent(rate)} has no variation to simulate.",
                                    "Rates lie between 0% and 100%.")
    return rates[0], rates[1]


def _rate(text: str) -> float:
    """Read 3% or 0.03; 3 may mean either."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not match or not (match[2] or value < 1):
        raise InvalidValueError(f"'{text}' is no rate.", "Write 3% or 0.03.")
    return value


def _percent(rate: float) -> str:
    return f"{100 * rate:.4g} %"


def _measured(given: Given, described: dict[str, str]) -> Measured | None:
    texts = [described.get(name, name) for name in given.names("from")]
    if not texts:
        return None
    if len(texts) > 2:
        raise InvalidValueError(f"from= names {len(texts)} cells.", "One or two are needed.")
    from harness.comparisons.correlations import measure
    from harness.comparisons.finding import find_cells
    from harness.comparisons.sides import load_sides

    results = user_path("results", given.text("results", "results") or "")
    return measure(load_sides(find_cells(texts, {}, results)), given.text("metric"))


def _number(given: Given, name: str, default: float) -> float:
    text = given.text(name)
    value = default if text is None else _float(name, text)
    if not 0 < value < 1:
        raise InvalidValueError(f"{name}={text}: expected a number between 0 and 1.")
    return value


def _float(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValueError(f"{name}={text}: a number is needed.") from None


def _integer(name: str, text: str) -> int:
    if not text.isdecimal():
        raise InvalidValueError(f"{name}={text}: a whole number is needed.")
    return int(text)


def _count(given: Given, name: str, default: int, least: int = 1, most: int = 1_000_000) -> int:
    text = given.text(name)
    return check_integer(name, default if text is None else _integer(name, text), least, most)


if __name__ == "__main__":
    sys.exit(main())
