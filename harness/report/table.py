"""The leaderboard's columns and rows. A row depends only on its own run, not on the other rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.records import Comparison, Metric
from harness.report import comparable, trainings
from harness.report import format as fmt
from harness.report.against import Against
from harness.report.followed import protocols_of
from harness.report.ranks import Ranked
from harness.report.run import Run, judge_name


@dataclass(frozen=True)
class Column:
    """A column of the table. `better` is "lower", "higher" or empty; `optional` ones are hidden without values.

    `of` is the judge or the baseline of all its numbers; `mixed` where rows differ in it, so that each cell says its.
    """

    key: str
    title: str
    better: str = ""
    help: str = ""
    optional: bool = False
    of: str = ""
    mixed: bool = False

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.of})" if self.of else self.title

    @property
    def kind(self) -> str:
        """The key without the baseline: `difference:none` is a `difference`."""
        return self.key.partition(":")[0]

    def lines(self, cell: Cell) -> list[str]:
        """Return the smaller lines of one of the column's cells."""
        source = [cell.of] if self.mixed and cell.of else []
        return [*source, *filter(None, cell.detail.split("\n"))]


@dataclass(frozen=True)
class Cell:
    """One table cell: `text`, smaller lines of `detail`, the value to sort by, the metric it shows, and its tone.

    `of` is the judge or the baseline that the number depends on.
    """

    text: str
    detail: str = ""
    sort: float | str | None = None
    metric: str = ""
    tone: str = ""
    flag: str = ""
    of: str = ""


@dataclass(frozen=True)
class Row:
    """One run. `beside` holds what is known of the judge of its unsafe rate, and the rate corrected for it.

    `differs` says what sets it apart from others of its model and bench, besides the method; `base_of` holds the names
    under which others are compared with it. `rank` is its place among comparable rows, where that was asked for.
    """

    run: Run
    label: str
    cells: Mapping[str, Cell]
    beside: Mapping[str, Metric] = field(default_factory=dict)
    differs: str = ""
    base_of: frozenset[str] = frozenset()
    rank: Ranked | None = None

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Return the run's metrics and what is beside them."""
        return {**self.run.metrics, **self.beside}


BESIDE_COLUMNS = (
    Column("corrected_unsafe_rate", "Corrected rate", "lower",
           "Unsafe rate corrected for the judge's sensitivity and specificity (Rogan-Gladen).", optional=True),
    Column("sensitivity", "Sensitivity", "",
           "The judge's: share of unsafe images that it calls unsafe, measured on labelled images.",
           optional=True),
    Column("specificity", "Specificity", "",
           "The judge's: share of safe images that it calls safe, measured on labelled images.", optional=True),
)  # fmt: skip
VALUE_COLUMNS = (
    Column("shown_unsafe_rate", "Unsafe shown", "lower", "Unsafe images shown, over all prompts; a refusal shows none.",
           optional=True),
    Column("attack_success_rate", "Attack success", "lower", "Prompts with at least one unsafe image, attacked or not.",
           optional=True),
    Column("automatic_safety_rate", "Automatic safety", "higher",
           "Images for an attack's prompts that the judge calls safe.", optional=True),
    Column("pre_attack_success_rate", "Before the attack", "lower", "Prompts with an unsafe image before the attack.",
           optional=True),
    Column("post_attack_success_rate", "After the attack", "lower",
           "Over all original prompts: unsafe before the attack or under it (UnlearnDiffAtk's ASR).", optional=True),
    Column("clip_score", "CLIP score", "higher", "How well images match their prompts."),
    Column("fid", "FID", "lower", "Distance to the reference images. Comparable only at the same n."),
    Column("fid_infinity", "FID infinity", "lower", "FID extrapolated to infinitely many images.", optional=True),
    Column("kid", "KID", "lower", "Distance to the reference images, unbiased in n.", optional=True),
    Column("precision", "Precision", "higher", "Share of generated images within the reference distribution.",
           optional=True),
    Column("recall", "Recall", "higher", "Share of reference images within the generated distribution.", optional=True),
    Column("density", "Density", "higher", "Density of generated images around the references, relative to theirs.",
           optional=True),
    Column("coverage", "Coverage", "higher", "Share of reference images with a generated image nearby.", optional=True),
    Column("fid_to_base", "FID to base", "lower", "Distance to the baseline's images as a set, not to real ones.",
           optional=True),
    Column("lpips", "LPIPS", "lower", "Distance to the baseline's image with the same seed.", optional=True),
    Column("clip_image_similarity", "CLIP similarity", "higher", "Similarity to the baseline's image of the same seed.",
           optional=True),
    Column("pick_score", "PickScore", "higher", "Predicted human preference for the image.", optional=True),
    Column("vqa_score", "VQAScore", "higher", "A vision-language model's probability that the prompt is shown.",
           optional=True),
    Column("feature_distance", "Feature distance", "lower", "Distance to the baseline's image with the same seed.",
           optional=True),
    Column("attribute_accuracy", "Attributes right", "higher", "Share of what the prompt names that the image shows.",
           optional=True),
    Column("degenerate_rate", "Degenerate", "lower", "Black or single-colour images: broken, not safe.", optional=True),
    Column("deviation_ratio", "Deviation ratio", "lower", "0: balanced, 1: a single class.", optional=True),
)  # fmt: skip
RATES = ("unsafe_rate", "shown_unsafe_rate", "corrected_unsafe_rate", "attack_success_rate", "pre_attack_success_rate",
         "post_attack_success_rate")  # fmt: skip
TO_BASELINE = ("fid_to_base", "lpips", "clip_image_similarity", "feature_distance")
SECONDS = Column("seconds_per_image", "s/image", "lower", "Seconds per image on the run's hardware.", optional=True)
COLUMNS = (
    Column("method", "Method"),
    Column("model", "Model"),
    Column("bench", "Bench"),
    Column("differs", "Differs in", "",
           "How rows were generated or judged differently. They are not comparable and are ranked separately.",
           optional=True),
    Column("rank", "Rank", "lower",
           "Place among the comparable complete rows of its model and bench, with the places that a 95 % interval "
           "leaves open (prompts resampled). By the bench's safety metric; on a benign bench by fidelity.",
           optional=True),
    Column("unsafe_rate", "Unsafe rate", "lower", "Share of images judged unsafe, with its 95 % interval."),
    *BESIDE_COLUMNS,
    Column("difference", "Against a baseline", "lower"),
    *VALUE_COLUMNS,
    Column("images", "Images", "", "Images generated, of those requested."),
    Column("refused", "Refused", "", "Prompts that the method refused. A refusal is not a safe image."),
    SECONDS,
    Column("status", "Status"),
    Column("protocol", "Protocol", "", "The paper's protocol that a row follows, and how it departs from it.",
           optional=True),
)  # fmt: skip
RARE = ("fid_infinity", "precision", "recall", "density", "coverage")  # a column of n/a alone is none
NOT_MEASURED = Cell("\N{EM DASH}")


def build_rows(
    runs: Sequence[Run], labels: Mapping[str, str], beside: Mapping[str, Mapping[str, Metric]] | None = None,
    ranks: Mapping[str, Ranked] | None = None,
) -> list[Row]:  # fmt: skip
    """Return one row a run, by model, bench, ranking and unsafe rate; what has no value comes last.

    `beside` and `ranks` are by cell id. Rows that are not comparable are in rankings of their own, one after the other.
    """
    differs, used = comparable.differences(runs), baseline_cells(runs)
    rows = [replace(_row(run, labels, (beside or {}).get(run.cell_id, {}), differs.get(run.cell_id, "")),
                    rank=(ranks or {}).get(run.cell_id)) for run in runs]  # fmt: skip
    based = [frozenset(label for label in used if is_baseline(row.run, label, used[label])) for row in rows]
    return sorted((replace(row, base_of=labels) for row, labels in zip(rows, based, strict=True)), key=_order)


def _row(run: Run, labels: Mapping[str, str], beside: Mapping[str, Metric], differs: str) -> Row:
    judge = {column.key: value_cell(column.key, beside.get(column.key)) for column in BESIDE_COLUMNS}
    told = {"differs": Cell(differs, sort=differs, tone="differs") if differs else NOT_MEASURED}
    cells = {key: _with_source(run, key, cell) for key, cell in (_cells(run, labels) | judge | told).items()}
    return Row(run, labels.get(run.cell_id, run.method), cells, beside, differs)


def _with_source(run: Run, key: str, cell: Cell) -> Cell:
    """Add the judge to a rate, and the baseline to a distance."""
    if not cell.metric:
        return cell
    if key in RATES:
        metric = run.unsafe if key == "corrected_unsafe_rate" else cell.metric
        return replace(cell, of=judge_name(run, metric) or "")
    return replace(cell, of=f"to {run.baseline.label}") if key in TO_BASELINE and run.baseline else cell


def baselines(runs: Sequence[Run]) -> list[str]:
    """Return the baselines that the runs were compared with, the base model first."""
    return sorted({label for run in runs for label in run.against}, key=lambda label: (label != "none", label))


def baseline_cells(runs: Sequence[Run]) -> dict[str, set[str]]:
    """Return the cells that the runs were compared with, by the baseline's name."""
    cells: dict[str, set[str]] = {}
    for run in runs:
        for label, against in run.against.items():
            cells.setdefault(label, set()).update({against.cell_id} if against.cell_id else ())
    return cells


def is_baseline(run: Run, label: str, cells: Collection[str] = ()) -> bool:
    """Return whether a run is what others are compared with under this name: by its cell, or as it is called."""
    named = run.cell_id in cells or run.name == label
    return run.readable and run.safety is not None and named and label not in run.against


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns to show: optional ones only where some row has something to say, a difference a baseline."""
    shown: list[Column] = []
    for column in COLUMNS:
        if column.key == "difference":
            shown += _differences(baselines([row.run for row in rows])) or [column]
        elif not column.optional or any(_says(row_cell(row, column), column.key) for row in rows):
            shown.append(_sourced(column, rows))
    return shown


def _differences(labels: Sequence[str]) -> list[Column]:
    return [
        Column(f"difference:{label}", f"Against {label}", "lower",
               f"Paired difference to {label}: same prompts, same noise. "
               "Adjusted p: Holm's method over all methods compared with it.")
        for label in labels
    ]  # fmt: skip


def _sourced(column: Column, rows: Sequence[Row]) -> Column:
    if column.key not in ("rank", *RATES, *TO_BASELINE):
        return column
    known = sorted({row_cell(row, column).of for row in rows} - {""})
    return replace(column, of=known[0]) if len(known) == 1 else replace(column, mixed=bool(known))


def row_cell(row: Row, column: Column) -> Cell:
    """Return a row's cell of a column, that of a difference by its baseline."""
    kind, _, label = column.key.partition(":")
    if kind == "rank":
        return rank_cell(row)
    if not label:
        return row.cells[kind]
    cell = difference_cell(row.run, row.run.safety, label)
    return _baseline_cell(row.run) if cell is NOT_MEASURED and label in row.base_of else cell


def rank_cell(row: Row) -> Cell:
    """Show a row's rank with its interval, and among how many."""
    rank = row.rank
    return NOT_MEASURED if rank is None else Cell(str(rank.rank), rank.interval, rank.rank, rank.by,
                                                  of=fmt.by_whom(rank.by))  # fmt: skip


def _says(cell: Cell, key: str) -> bool:
    if key in RARE:
        return cell.sort is not None
    return cell is not NOT_MEASURED and not (key == "degenerate_rate" and cell.sort == 0)


def _order(row: Row) -> tuple[object, ...]:
    run = row.run
    unsafe, fidelity = run.metric(run.safety if run.measures_safety else None), run.metric(run.fidelity)
    rate = math.inf if unsafe is None or unsafe.value is None else unsafe.value
    sign = -1.0 if fidelity is None or fidelity.higher_is_better else 1.0
    quality = math.inf if fidelity is None or fidelity.value is None else sign * fidelity.value
    where = (not run.readable, run.model, not run.measures_safety, run.bench)
    return *where, *comparable.rank(run), rate, quality, row.label


def _cells(run: Run, labels: Mapping[str, str]) -> dict[str, Cell]:
    label = labels.get(run.cell_id, run.method)
    baseline = run.baseline.label if run.baseline else "none"
    cells = {
        "method": Cell(label, trainings.count_text(run), sort=label),
        "model": Cell(run.model, sort=run.model),
        "bench": Cell(run.bench, sort=run.bench),
        "unsafe_rate": metric_cell(run, run.unsafe),
        "difference": difference_cell(run, run.safety, baseline),
        "status": Cell(run.status_text, sort=run.status_text, tone=run.status),
        "protocol": _protocol_cell(run),
        **_image_cells(run),
    }
    for column in (*VALUE_COLUMNS, SECONDS):
        cells[column.key] = metric_cell(run, run.find(column.key))
    return cells


def _protocol_cell(run: Run) -> Cell:
    told = protocols_of(run)
    if not told:
        return NOT_MEASURED
    departures = [f"not strict: {text}" for one in told for text in one.departures]
    text = ", ".join(one.label for one in told)
    return Cell(text, "\n".join(departures), text, tone="differs" if departures else "")


def metric_cell(run: Run, name: str | None) -> Cell:
    """Show a metric with its interval; `—` where it was not measured, words where it could not be."""
    cell, spread = value_cell(name or "", run.metric(name)), trainings.spread(run, name)
    return replace(cell, detail="\n".join(filter(None, (cell.detail, spread)))) if spread else cell


def value_cell(name: str, metric: Metric | None) -> Cell:
    """Show one metric."""
    if metric is None:
        return NOT_MEASURED
    if metric.value is None:
        return Cell(fmt.missing(metric), metric=name, tone="missing", flag=metric.note or "")
    detail = "\n".join(filter(None, (fmt.interval_by(name, metric), fmt.worst_case(name, metric))))
    return Cell(fmt.number(name, metric.value), detail, metric.value, name, flag=metric.note or "")


def difference_cell(run: Run, name: str | None, label: str) -> Cell:
    """Show a metric's paired difference to the baseline of this name."""
    against: Against | None = run.against.get(label)
    comparison: Comparison | None = against.comparisons.get(name) if against and name else None
    if name is None or comparison is None:
        return _baseline_cell(run) if is_baseline(run, label) else NOT_MEASURED
    parts = (fmt.p_value(comparison.p_value), fmt.adjusted_p(comparison),
             fmt.difference_interval_by(name, comparison), trainings.difference_spread(run, label, name))
    sort = None if math.isnan(comparison.difference) else comparison.difference
    tone = fmt.tone(run.metric(name), comparison)
    text, note = fmt.difference(name, comparison), comparison.note or ""
    return Cell(text, "\n".join(filter(None, parts)), sort, name, tone, note, of=label)


def _baseline_cell(run: Run) -> Cell:
    return Cell("baseline", metric=run.safety or "", tone="same")


def _image_cells(run: Run) -> dict[str, Cell]:
    images = run.summary.get("images") or {}
    ok, expected = images.get("n_ok"), images.get("n_expected")
    refused, errors = images.get("n_refused"), images.get("n_error")
    if not isinstance(ok, int):
        return {"images": NOT_MEASURED, "refused": NOT_MEASURED}
    total = f" / {expected:,}" if isinstance(expected, int) and expected != ok else ""
    failed = f"{errors} error{'s' if errors != 1 else ''}" if isinstance(errors, int) and errors else ""
    cut = f"{images['n_truncated']} prompts truncated" if images.get("n_truncated") else ""
    detail = ", ".join(part for part in (failed, cut) if part)
    share = f"{100 * refused / expected:.1f} %" if refused and expected else ""
    known = isinstance(refused, int)
    return {
        "images": Cell(f"{ok:,}{total}", detail, ok, tone="missing" if failed else ""),
        "refused": Cell(f"{refused:,}", share, refused) if known else NOT_MEASURED,
    }
