"""A paper's table, replayed: our numbers beside the paper's, by its names, with what still differs in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cells.followed import Followed
from harness.cells.protocol import Shown
from harness.errors import printable
from harness.lib.paths import published_dir
from harness.lib.streams import say
from harness.records import Metric
from harness.report import format as fmt
from harness.report.followed import protocols_of
from harness.report.published_numbers import Reported, read_file
from harness.report.run import Run
from harness.report.runs import BrokenSummaryError, run_from_summary
from harness.report.trainings import pooled
from harness.report.variants import row_labels, variants

if TYPE_CHECKING:
    from rich.console import Console

NOT_RUN, NOT_HERE, NOT_REPORTED = "not run", "no such method here", "\N{EM DASH}"
WIDE = 3  # metrics that stand beside one another; more of them stand below
OF_TWIN = ("the embedded twin: the same steps on the embedded world. Its numbers are that world's, so that none of the "
           "paper's is beside them")
DECIMALS: Mapping[str, int] = {"percent": 2, "share": 3, "score": 3}


@dataclass(frozen=True)
class Line:
    """One method of a table: our name of it, the paper's, and ours and the paper's number of each metric."""

    ours: str
    theirs: str
    numbers: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return self.theirs if not self.ours else self.ours if self.theirs in ("", self.ours) else \
            f"{self.ours} ({self.theirs})"


@dataclass(frozen=True)
class Replay:
    """A protocol's table: `notes` say what still differs from the paper's."""

    followed: Followed
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def replays(runs: Sequence[Run], published: Path | None = None) -> list[Replay]:
    """Return the tables of the protocols that these runs follow. `published` is a folder as results/published."""
    groups: dict[str, list[tuple[Run, Followed]]] = {}
    for run in runs:
        for one in protocols_of(run):
            groups.setdefault(one.label, []).append((run, one))
    return [_replay(group, published or published_dir()) for group in groups.values()]


def _replay(group: Sequence[tuple[Run, Followed]], published: Path) -> Replay:
    followed, runs = group[0][1], [run for run, _ in group]
    reported = [] if followed.twin else _reported(followed, published)
    several = len({run.model for run in runs} | {one.model for one in reported}) > 1
    labels = row_labels(runs, variants(runs))
    lines, placed = [], set[tuple[str | None, str]]()
    for run, own in group:
        theirs = [one for one in reported if one.method == run.method and one.model in (run.model, None)]
        placed |= {(one.model, one.label) for one in theirs}
        name = labels.get(run.cell_id, run.method)
        name = f"{run.model}/{name}" if several else name
        apart = f" [not strict: {'; '.join(own.departures)}]" if own.departures else ""
        paper = " / ".join(dict.fromkeys(one.label for one in theirs))
        lines.append(Line(name + apart, paper, tuple(_pair(shown, run, theirs) for shown in own.metrics)))
    lines += _others([one for one in reported if (one.model, one.label) not in placed], followed, several)
    return Replay(followed, tuple(lines), tuple(_notes(followed, runs)))


def _reported(followed: Followed, published: Path) -> list[Reported]:
    """Return the numbers of the protocol's tables, of its bench."""
    found = []
    for file, tables in followed.published.items():
        if (published / file).is_file():
            found += [one for one in read_file(published / file)
                      if one.table in tables and one.bench == followed.bench]
    return found


def _pair(shown: Shown, run: Run, theirs: Sequence[Reported]) -> tuple[str, str]:
    metric = run.metrics.get(shown.metric)
    ours = NOT_REPORTED if metric is None else fmt.missing(metric) if metric.value is None else _ours(shown, metric)
    return ours, _paper(shown, theirs)


def _paper(shown: Shown, theirs: Sequence[Reported]) -> str:
    numbers = [one for one in theirs if one.metric == shown.published]
    texts = [_number(shown, one.value) + (f" ±{_number(shown, one.sd)}" if one.sd is not None else "")
             for one in numbers]
    return " / ".join(dict.fromkeys(texts)) or NOT_REPORTED


def _ours(shown: Shown, metric: Metric) -> str:
    text = _number(shown, metric.value or 0.0)
    if metric.ci_low is None or metric.ci_high is None:
        return text
    return f"{text} [{_number(shown, metric.ci_low)}{fmt.DASH}{_number(shown, metric.ci_high)}]"


def _number(shown: Shown, value: float) -> str:
    if shown.unit == "count":
        return f"{value:,.0f}"
    return f"{100 * value if shown.unit == 'percent' else value:.{DECIMALS[shown.unit]}f}".replace("-", fmt.MINUS)


def _others(rest: Sequence[Reported], followed: Followed, several: bool) -> Iterator[Line]:
    """Yield the paper's rows that none of our runs is beside, in its order."""
    rows: dict[tuple[str | None, str], list[Reported]] = {}
    for one in rest:
        rows.setdefault((one.model, one.label), []).append(one)
    for (model, label), numbers in rows.items():
        name = f"{model}/{label}" if several and model else label
        ours = NOT_RUN if any(one.method for one in numbers) else NOT_HERE
        yield Line("", name, tuple((ours, _paper(shown, numbers)) for shown in followed.metrics))


def _notes(followed: Followed, runs: Sequence[Run]) -> Iterator[str]:
    if followed.twin:
        yield OF_TWIN
    yield from followed.differences
    yield from dict.fromkeys(text for run in runs for text in _of_prompts(run))
    for run in runs:
        changed = ((run.summary.get("cell") or {}).get("settings") or {}).get("method_overrides") or {}
        if changed:
            yield f"{run.method}: {', '.join(f'{key}={value}' for key, value in changed.items())} was set"


def _of_prompts(run: Run) -> Iterator[str]:
    prompts = run.summary.get("prompts") or {}
    excluded, total = prompts.get("excluded"), prompts.get("n_total")
    for reason, count in excluded.items() if isinstance(excluded, Mapping) else ():
        yield f"{count} of {total} prompts are excluded here: {reason}"


def print_protocols(summaries: Sequence[Mapping[str, Any]], console: Console, published: Path | None = None) -> None:
    """Print the tables of the protocols that these cells follow."""
    runs = []
    for summary in summaries:
        try:
            runs.append(run_from_summary(summary))
        except BrokenSummaryError:  # said where the other numbers are
            continue
    for replay in replays(pooled(runs), published):
        for text in texts(replay):
            say(console, text)


def texts(replay: Replay) -> list[str]:
    """Return a table's lines as plain text."""
    followed = replay.followed
    made = _wide(replay) if len(followed.metrics) <= WIDE else _long(replay)
    rows = [[printable(text) for text in row] for row in made]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    differs = ["what still differs from the paper:", *(f"  - {note}" for note in replay.notes)] if replay.notes else []
    heads = ["", f"protocol {followed.label}: {followed.title}", f"  {followed.source}"]
    return [*heads, *table, *defined(followed.metrics), *differs]


def _wide(replay: Replay) -> list[list[str]]:
    """Return a row for each method, with two columns for each metric."""
    heads = [text for shown in replay.followed.metrics for text in (shown.title, f"{shown.title} (paper)")]
    return [["method", *heads], *([line.name, *(text for pair in line.numbers for text in pair)]
                                  for line in replay.lines)]  # fmt: skip


def _long(replay: Replay) -> list[list[str]]:
    """Return a row for each method and metric; of methods that were not run, what the paper has."""
    rows, metrics = [["method", "metric", "ours", "paper"]], replay.followed.metrics
    for line in replay.lines:
        shown = [(one.title, *pair) for one, pair in zip(metrics, line.numbers, strict=True)
                 if line.ours or pair[1] != NOT_REPORTED]
        rows += [[line.name if place == 0 else "", *numbers] for place, numbers in enumerate(shown)]
    return rows


def defined(metrics: Sequence[Shown]) -> list[str]:
    """Return the definitions of metrics, those of the same words together: the paper's names, and ours."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for shown in metrics:
        titles, names = found.setdefault(shown.definition, ([], []))
        titles.append(shown.title)
        names.append(shown.metric)
    return [f"  {', '.join(titles)}: {text} ({', '.join(names)})" for text, (titles, names) in found.items()]
