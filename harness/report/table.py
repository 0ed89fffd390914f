"""The leaderboard's columns and rows. A row depends on its own run only: who else is on the board changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.records import Comparison, Metric
from harness.report import format as fmt
from harness.report.runs import Run


@dataclass(frozen=True)
class Column:
    """A column of the table. `better` is "lower", "higher" or empty; `optional` ones hide when nobody has a value."""

    key: str
    title: str
    better: str = ""
    help: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Cell:
    """One table cell: `text`, smaller lines of `detail`, the value to sort by, the metric it shows, and its tone."""

    text: str
    detail: str = ""
    sort: float | str | None = None
    metric: str = ""
    tone: str = ""
    flag: str = ""


@dataclass(frozen=True)
class Row:
    """One run. `beside` holds what is known of the judge of its unsafe rate, and the rate corrected for it."""

    run: Run
    label: str
    cells: Mapping[str, Cell]
    beside: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Return the run's metrics and what is beside them."""
        return {**self.run.metrics, **self.beside}


BESIDE_COLUMNS = (
    Column("corrected_unsafe_rate", "Corrected rate", "lower",
           "Unsafe rate corrected for the judge's sensitivity and specificity (Rogan-Gladen).", optional=True),
    Column("sensitivity", "Sensitivity", "",
           "Of the judge: share of truly unsafe pictures that it calls unsafe, on pictures of known truth.",
           optional=True),
    Column("specificity", "Specificity", "",
           "Of the judge: share of truly safe pictures that it calls safe, on pictures of known truth.", optional=True),
)  # fmt: skip
VALUE_COLUMNS = (
    Column("shown_unsafe_rate", "Unsafe shown", "lower", "Unsafe pictures shown, of all prompts; a refusal shows none.",
           optional=True),
    Column("attack_success_rate", "Attack success", "lower", "Prompts with an unsafe picture, attacked or not.",
           optional=True),
    Column("pre_attack_success_rate", "Before the attack", "lower", "Prompts with an unsafe picture before the attack.",
           optional=True),
    Column("clip_score", "CLIP score", "higher", "Agreement of picture and prompt."),
    Column("fid", "FID", "lower", "Distance to the reference pictures. Comparable only at the same n."),
    Column("fid_infinity", "FID infinity", "lower", "FID extrapolated to infinitely many pictures.", optional=True),
    Column("kid", "KID", "lower", "Distance to the reference pictures, unbiased in n.", optional=True),
    Column("precision", "Precision", "higher", "Share of pictures that lie among the reference pictures.",
           optional=True),
    Column("recall", "Recall", "higher", "Share of reference pictures that lie among ours.", optional=True),
    Column("density", "Density", "higher", "How deep pictures lie among the reference pictures; 1 is as they do.",
           optional=True),
    Column("coverage", "Coverage", "higher", "Share of reference pictures with a picture of ours near.", optional=True),
    Column("fid_to_base", "FID to base", "lower", "Distance to the baseline's pictures as a set, not to real ones.",
           optional=True),
    Column("lpips", "LPIPS", "lower", "Distance to the baseline's picture of the same seed.", optional=True),
    Column("clip_image_similarity", "CLIP similarity", "higher", "Likeness to the baseline's picture of the same seed.",
           optional=True),
    Column("pick_score", "PickScore", "higher", "How people would like the picture for its prompt.", optional=True),
    Column("vqa_score", "VQAScore", "higher", "Probability that a vision model finds the prompt shown.", optional=True),
    Column("feature_distance", "Feature distance", "lower", "Distance to the baseline's picture of the same seed.",
           optional=True),
    Column("attribute_accuracy", "Attributes right", "higher", "What the prompt names is shown.", optional=True),
    Column("degenerate_rate", "Degenerate", "lower", "Black or one-coloured: broken, not safe.", optional=True),
    Column("deviation_ratio", "Deviation ratio", "lower", "0 is balanced, 1 is all of one kind.", optional=True),
)  # fmt: skip
COLUMNS = (
    Column("method", "Method"),
    Column("model", "Model"),
    Column("bench", "Bench"),
    Column("unsafe_rate", "Unsafe rate", "lower", "Share of pictures judged unsafe, 95 % Wilson interval."),
    *BESIDE_COLUMNS,
    Column("difference", "Against none", "lower", "Paired difference to the baseline: same prompts, same noise."),
    *VALUE_COLUMNS,
    Column("images", "Images", "", "Pictures made of pictures asked for."),
    Column("refused", "Refused", "", "Prompts that the method refused. A refusal is not a safe picture."),
    Column(
        "seconds_per_image",
        "s/image",
        "lower",
        "Seconds per image on the hardware of the run.",
        optional=True,
    ),
    Column("status", "Status"),
)
RARE = ("fid_infinity", "precision", "recall", "density", "coverage")  # a column of n/a alone is none
NOT_MEASURED = Cell("\N{EM DASH}")


def build_rows(
    runs: Sequence[Run], labels: Mapping[str, str], beside: Mapping[str, Mapping[str, Metric]] | None = None
) -> list[Row]:
    """Return one row a run, by model, bench and unsafe rate; what has no value comes last. `beside` is by cell id."""
    return sorted((_row(run, labels, (beside or {}).get(run.cell_id, {})) for run in runs), key=_order)


def _row(run: Run, labels: Mapping[str, str], beside: Mapping[str, Metric]) -> Row:
    judge = {column.key: value_cell(column.key, beside.get(column.key)) for column in BESIDE_COLUMNS}
    return Row(run, labels.get(run.cell_id, run.method), _cells(run, labels) | judge, beside)


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns to show: optional ones only where some row has something to say."""
    return [c for c in COLUMNS if not c.optional or any(_says(row.cells[c.key], c.key) for row in rows)]


def _says(cell: Cell, key: str) -> bool:
    if key in RARE:
        return cell.sort is not None
    return cell is not NOT_MEASURED and not (key == "degenerate_rate" and cell.sort == 0)


def _order(row: Row) -> tuple[bool, str, bool, str, float, float, str]:
    run = row.run
    unsafe, fidelity = run.metric(run.safety if run.measures_safety else None), run.metric(run.fidelity)
    rate = math.inf if unsafe is None or unsafe.value is None else unsafe.value
    sign = -1.0 if fidelity is None or fidelity.higher_is_better else 1.0
    quality = math.inf if fidelity is None or fidelity.value is None else sign * fidelity.value
    return not run.readable, run.model, not run.measures_safety, run.bench, rate, quality, row.label


def _cells(run: Run, labels: Mapping[str, str]) -> dict[str, Cell]:
    label = labels.get(run.cell_id, run.method)
    cells = {
        "method": Cell(label, sort=label),
        "model": Cell(run.model, sort=run.model),
        "bench": Cell(run.bench, sort=run.bench),
        "unsafe_rate": metric_cell(run, run.unsafe),
        "difference": difference_cell(run, run.safety),
        "status": Cell(run.status, sort=run.status, tone=run.status),
        **_image_cells(run),
    }
    for column in (*VALUE_COLUMNS, COLUMNS[-2]):
        cells[column.key] = metric_cell(run, run.find(column.key))
    return cells


def metric_cell(run: Run, name: str | None) -> Cell:
    """Show a metric with its interval; `—` where it was not measured, words where it could not be."""
    return value_cell(name or "", run.metric(name))


def value_cell(name: str, metric: Metric | None) -> Cell:
    """Show one metric."""
    if metric is None:
        return NOT_MEASURED
    if metric.value is None:
        return Cell(fmt.missing(metric), metric=name, tone="missing", flag=metric.note or "")
    detail = "\n".join(filter(None, (fmt.interval(name, metric), fmt.worst_case(name, metric))))
    return Cell(fmt.number(name, metric.value), detail, metric.value, name, flag=metric.note or "")


def difference_cell(run: Run, name: str | None) -> Cell:
    """Show a metric's paired difference to the baseline."""
    comparison: Comparison | None = run.comparisons.get(name) if name else None
    if name is None or comparison is None:
        return Cell("baseline", metric=name or "", tone="same") if _is_baseline(run) else NOT_MEASURED
    detail = f"{fmt.p_value(comparison.p_value)}\n{fmt.difference_interval(name, comparison)}".strip()
    sort = None if math.isnan(comparison.difference) else comparison.difference
    tone = fmt.tone(run.metric(name), comparison)
    return Cell(fmt.difference(name, comparison), detail, sort, name, tone)


def _is_baseline(run: Run) -> bool:
    return run.readable and run.safety is not None and not run.comparisons and run.method == "none"


def _image_cells(run: Run) -> dict[str, Cell]:
    images = run.summary.get("images") or {}
    ok, expected = images.get("n_ok"), images.get("n_expected")
    refused, errors = images.get("n_refused"), images.get("n_error")
    if not isinstance(ok, int):
        return {"images": NOT_MEASURED, "refused": NOT_MEASURED}
    total = f" / {expected:,}" if isinstance(expected, int) and expected != ok else ""
    failed = f"{errors} error{'s' if errors != 1 else ''}" if isinstance(errors, int) and errors else ""
    cut = f"{images['n_truncated']} prompts cut" if images.get("n_truncated") else ""
    detail = ", ".join(part for part in (failed, cut) if part)
    share = f"{100 * refused / expected:.1f} %" if refused and expected else ""
    known = isinstance(refused, int)
    return {
        "images": Cell(f"{ok:,}{total}", detail, ok, tone="missing" if failed else ""),
        "refused": Cell(f"{refused:,}", share, refused) if known else NOT_MEASURED,
    }
