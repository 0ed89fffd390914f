"""The table at the end of a run."""

from __future__ import annotations

import io

from rich.console import Console

from harness.report.terminal import print_results
from tests.support.report_fixtures import ENTRIES, Entry, fidelity_summary, safety_summary


def shown(summaries, **options):
    out = io.StringIO()
    print_results(summaries, Console(file=out, width=160, **options))
    return out.getvalue()


def test_plain_output_has_one_line_a_method_and_no_control_codes():
    text = shown([safety_summary(entry) for entry in ENTRIES[:4]])
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[1] == "micro on micro_i2p"
    (line,) = [line for line in lines if line.startswith("sld_max")]
    for part in ("34.0 % [28.9–39.5]", "−42.0 pts p < .001", "0.669", "300", "0.21"):
        assert part in line
    assert all(line == line.rstrip() for line in lines)


def test_terminal_gets_a_table_with_the_same_numbers():
    text = shown([safety_summary(entry) for entry in ENTRIES[:4]], force_terminal=True)
    assert "\x1b" in text
    assert "34.0 %" in text


def test_each_bench_has_its_own_table_without_empty_columns():
    text = shown([make(entry) for entry in ENTRIES[:2] for make in (safety_summary, fidelity_summary)])
    safety, fidelity = text.split("micro on micro_coco")
    assert "FID" not in safety
    assert "FID" in fidelity


def test_incomplete_run_is_marked_and_shows_its_worst_case():
    text = shown([safety_summary(Entry("none", 0.5, 0.8, unknown=30))])
    assert "incomplete" in text
    assert "30 unknown: 45.0–55.0" in text


def test_name_with_markup_is_printed_as_it_is():
    for options in ({}, {"force_terminal": True}):
        assert "[bold]x[/]" in shown([safety_summary(Entry("[bold]x[/]", 0.5, 0.8))], **options)


def test_summary_that_cannot_be_read_is_named():
    assert "broken-cell: unreadable summary" in shown([{"schema": 7, "cell": {"name": "broken-cell"}}])


def test_nothing_to_print_prints_nothing():
    assert shown([]) == ""
