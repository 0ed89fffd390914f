"""Comparisons as plain records, JSON and CSV: unrounded, unknown numbers are null."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from harness.comparisons.compared import Compared, PairOfCells
from harness.comparisons.difference import Difference, better
from harness.comparisons.flips import flips
from harness.comparisons.sides import Side, settings
from harness.errors import MissingResourceError
from harness.records import ImageKey
from harness.report.export import no_formula

SCHEMA = 1


def records(compared: Compared) -> list[dict[str, Any]]:
    """Return one flat record a difference."""
    return [_cells(pair) | difference_record(one) | {"pairing": pair.matched.words, "noise": pair.matched.noise}
            for pair in compared.pairs
            for one in (*pair.differences, *(c for found in pair.by_category.values() for c in found))]  # fmt: skip


def _cells(pair: PairOfCells) -> dict[str, Any]:
    return {f"{key}_{name}": value for name, side in (("a", pair.a), ("b", pair.b))
            for key, value in (("cell", side.run.cell_id), ("label", side.label), ("model", side.run.model),
                               ("method", side.run.method), ("seed", settings(side.run).get("seed")))
            } | {"bench": pair.a.run.bench}  # fmt: skip


def difference_record(one: Difference) -> dict[str, Any]:
    """Return what is known of one difference: a - b, `better` is a or b where its adjusted p is below .05."""
    c = one.comparison
    known = {
        "metric": one.metric, "higher_is_better": one.higher_is_better, "value_a": one.value_a, "value_b": one.value_b,
        "difference": c.difference, "ci_low": c.ci_low, "ci_high": c.ci_high, "ci_method": c.ci_method,
        "p_value": c.p_value, "p_adjusted": one.p_adjusted, "n_family": one.n_family, "test": c.test,
        "n": c.n_pairs, "paired": one.paired, "better": better(one), "note": c.note,
    }  # fmt: skip
    return {key: _known(value) for key, value in known.items()}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pair_record(pair: PairOfCells) -> dict[str, Any]:
    """Return all that is known of two cells compared, ready for JSON; prompts only by their ids."""
    matched = pair.matched
    return {
        "a": _side(pair.a), "b": _side(pair.b), "bench": pair.a.run.bench,
        "pairing": {"n_pairs": len(matched.keys), "n_prompts": matched.n_prompts, "n_a": matched.n_a,
                    "n_b": matched.n_b, "noise": matched.noise, "why": matched.why or None,
                    "differs": matched.differs or None, "words": matched.words},
        "differences": [difference_record(one) for one in pair.differences],
        "not_compared": [{"metric": name, "reason": reason} for name, reason in pair.left_out.items()],
        "claims": [{key: _known(value) for key, value in asdict(one).items()} for one in pair.claims],
        "categories": {judge: [difference_record(one) for one in found] for judge, found in pair.by_category.items()},
    }  # fmt: skip


def _side(side: Side) -> dict[str, Any]:
    run = side.run
    return {"cell_id": run.cell_id, "label": side.label, "model": run.model, "method": run.method,
            "seed": settings(run).get("seed"), "status": run.status_text, "n_images": len(side.images),
            "created": run.created or None}  # fmt: skip


def flips_record(pair: PairOfCells) -> dict[str, Any]:
    """Return, by judge, McNemar's table and the images that flip, each as [prompt id, repeat].

    The p value is McNemar's for one image a prompt, else that of the test by prompt, which `test` names; None where the
    rate was not among the metrics to compare.
    """
    found, tests = {}, {one.metric: one.comparison for one in pair.differences}
    for judge, scored in pair.a.scores.items():
        if scored.kind == "verdict" and judge in pair.b.scores:
            one = flips(pair.a, pair.b, pair.matched, judge)
            table = {"both_unsafe": one.both, "only_a_unsafe": len(one.only_a), "only_b_unsafe": len(one.only_b),
                     "both_safe": one.neither, "unknown": one.unknown}
            test = tests.get(pair.a.names[judge])
            found[judge] = {"table": table, "p_value": _known(test.p_value) if test else None,
                            "only_a_unsafe": _keys(one.only_a), "only_b_unsafe": _keys(one.only_b),
                            "test": test.test if test else None}
    return found


def _keys(keys: tuple[ImageKey, ...]) -> list[list[Any]]:
    return [[key.prompt_id, key.repeat] for key in keys]


def json_text(compared: Compared) -> str:
    whole = {"schema": SCHEMA, "family": compared.family,
             "comparisons": [pair_record(pair) | {"flips": flips_record(pair)} for pair in compared.pairs]}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(compared: Compared) -> str:
    rows, out = records(compared), io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else ["metric"], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: no_formula(value) for key, value in one.items()} for one in rows])
    return out.getvalue()


def to_pandas(compared: Compared) -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingResourceError("pandas is not installed.", "pip install pandas") from None
    return pandas.DataFrame(records(compared))
