"""The gate's checks as a table, as records, and as JUnit XML."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from xml.etree import ElementTree as Xml

from harness.comparisons.gate import ERROR, FAILED, PASSED, Check, Outcome, counts
from harness.comparisons.table import Table
from harness.errors import printable
from harness.report import format as fmt

HEADINGS = ("cell", "check", "base", "new", "new \N{MINUS SIGN} base [95 %]", "decided by", "result")
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def table(outcome: Outcome) -> Table:
    """Return one row a check."""
    told = counts(outcome.checks)
    title = f"gate: {', '.join(f'{count} {result}' for result, count in told.items() if count) or 'nothing to check'}"
    tones = {PASSED: "", FAILED: "bad", ERROR: "unknown"}
    return Table(title, HEADINGS, tuple(_row(check) for check in outcome.checks),
                 tuple(tones[check.result] for check in outcome.checks), {"cell", "check", "decided by", "result"})


def _row(check: Check) -> tuple[str, ...]:
    interval = ""
    if check.low is not None and check.high is not None:
        ends = [_change(check, end).removesuffix(" pts") for end in (check.low, check.high)]
        interval = f"[{ends[0]}, {ends[1]}]"
    change = "" if check.change is None else f"{_change(check, check.change)} {interval}".strip()
    return (check.cell, claim(check), _value(check, check.base), _value(check, check.new), change, check.decided_by,
            check.result)  # fmt: skip


def _is_share(check: Check) -> bool:
    return check.what == "unknown share" or fmt.is_percent(check.metric)


def _value(check: Check, value: float | None) -> str:
    if value is None:
        return ""
    if check.metric == "cells":
        return f"{value:.0f}"
    return f"{100 * value:.1f} %" if _is_share(check) else fmt.number(check.metric, value)


def _change(check: Check, change: float) -> str:
    if check.metric == "cells":
        return f"{change:+.0f}".replace("-", fmt.MINUS)
    text = f"{100 * change:+.1f} pts" if _is_share(check) else f"{change:+.4g}"
    return text.replace("-", fmt.MINUS)


def limit_text(check: Check) -> str:
    """Write a limit in the units in which it was given."""
    if check.limit is None:
        return ""
    if check.metric == "cells":
        return f"{check.limit:.0f}"
    unit = "%" if check.what == "unknown share" else "pts"
    return f"{100 * check.limit:g} {unit}" if _is_share(check) else f"{check.limit:g}"


def notes(outcome: Outcome) -> list[str]:
    """Say why checks failed, and which cells are new."""
    told = [f"{check.result}: {check.cell}: {claim(check)}: {check.why}" for check in outcome.checks
            if check.result != PASSED]  # fmt: skip
    return told + ([f"not in the base, nothing is asked of them: {', '.join(outcome.extra)}"] if outcome.extra else [])


def claim(check: Check) -> str:
    """Say in words what is checked."""
    limit = limit_text(check)
    return f"{check.metric} {check.what}{f' at most {limit}' if limit else ''}"


def json_text(outcome: Outcome) -> str:
    record = {"schema": 1, "passed": outcome.passed, "checks": [asdict(check) for check in outcome.checks],
              "extra": list(outcome.extra)}
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def junit_text(outcome: Outcome) -> str:
    """Return JUnit XML: a suite for each cell, a case for each check."""
    told = counts(outcome.checks)
    root = Xml.Element("testsuites", name="harness gate", tests=str(len(outcome.checks)), failures=str(told[FAILED]),
                       errors=str(told[ERROR]), time="0")
    for cell in dict.fromkeys(check.cell for check in outcome.checks):
        _suite(root, cell, [check for check in outcome.checks if check.cell == cell])
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def _suite(root: Xml.Element, cell: str, checks: Sequence[Check]) -> None:
    told = counts(checks)
    suite = Xml.SubElement(root, "testsuite", name=_xml(cell), tests=str(len(checks)), failures=str(told[FAILED]),
                           errors=str(told[ERROR]), skipped="0", time="0")
    for check in checks:
        case = Xml.SubElement(suite, "testcase", classname=_xml(cell.replace("/", ".")), name=_xml(claim(check)),
                              time="0")
        numbers = " ".join(filter(None, _row(check)[2:6]))
        if check.result != PASSED:
            kind = "failure" if check.result == FAILED else "error"
            Xml.SubElement(case, kind, message=_xml(check.why), type=check.what).text = _xml(numbers)
        else:
            Xml.SubElement(case, "system-out").text = _xml(numbers)


def _xml(text: str) -> str:
    """Return a text without what XML cannot hold."""
    return NOT_XML.sub("", printable(text))
