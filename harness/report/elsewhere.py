"""Published numbers without a match among ours, listed with the reason so that none is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.report import format as fmt
from harness.report.export import escape
from harness.report.published import Beside, protocol_text
from harness.report.published_numbers import Reported

LEAD_ELSEWHERE = "Reported elsewhere, with no matching number on this leaderboard: why, and by which protocol."


@dataclass(frozen=True)
class Left:
    """One line of a source's table for one method, and why none of our numbers matches it."""

    where: str
    bench: str
    label: str
    model: str
    numbers: str
    why: str
    protocol: str
    distance: str


def unplaced(beside: Sequence[Beside], reported: Sequence[Reported]) -> list[Reported]:
    """Return the published numbers without a match among ours, in their order."""
    placed = {id(one.reported) for one in beside}
    return [one for one in reported if id(one) not in placed]


def why_not(one: Reported) -> str:
    """Return why a number has no match among ours."""
    reasons = [] if one.method else ["no method with this name here"]
    reasons += [] if one.model else ["model not stated"]
    reasons += ["rule not stated, or no evaluator for it"] if one.evaluators == () else []
    if reasons:
        return "; ".join(reasons)
    by = f" by {' or '.join(one.evaluators)}" if one.evaluators else ""
    return f"not measured here{by}"


def lines(rest: Sequence[Reported]) -> list[Left]:
    """Return one line for each source, table, model, method and reason, with its numbers."""
    groups: dict[tuple[str, ...], list[Reported]] = {}
    for one in rest:
        key = (one.source, one.table, one.bench, one.label, one.model or "", why_not(one))
        groups.setdefault(key, []).append(one)
    return [
        Left(f"{source}: {table}", bench, label, model or "not stated", "; ".join(map(_number, numbers)), why,
             protocol_text(numbers[0].protocol), numbers[0].distance)
        for (source, table, bench, label, model, why), numbers in groups.items()
    ]  # fmt: skip


def _number(one: Reported) -> str:
    base, _, category = one.metric.partition("/")
    spread = "" if one.sd is None else f" (sd {fmt.number(base, one.sd)})"
    return f"{fmt.words(base)}{f', {category}' if category else ''}: {fmt.number(base, one.value)}{spread}"


def with_markdown(text: str, rest: Sequence[Reported]) -> str:
    """Append the list to the Markdown page."""
    if not rest:
        return text
    head = "| Source | Bench | Method | Model | *Reported* | Reason | Protocol | Distance |"
    body = [
        "| " + " | ".join([*map(escape, (one.where, one.bench, one.label, one.model)), f"*{escape(one.numbers)}*",
                           *map(escape, (one.why, one.protocol, one.distance))]) + " |"
        for one in lines(rest)
    ]  # fmt: skip
    whole = ["", "## Reported elsewhere", "", LEAD_ELSEWHERE, "", head, "| --- " * 8 + "|", *body]
    return text + "\n".join(whole) + "\n"


def with_json(text: str, rest: Sequence[Reported]) -> str:
    """Add a list `published_elsewhere` beside `runs`: each full entry, and why it has no match among ours."""
    if not rest:
        return text
    data: Mapping[str, Any] = json.loads(text)
    listed = [{**asdict(one), "why": why_not(one)} for one in rest]
    return json.dumps({**data, "published_elsewhere": listed}, indent=1, ensure_ascii=False) + "\n"
