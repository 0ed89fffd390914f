"""One number an image behind a run's metric, read from what the run keeps of its evaluators.

Numbers count only if they give the metric of the summary again: a row shows no interval of other images than its value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.cells.comparable import mapping
from harness.cells.judgements import FILE, judgement_table
from harness.records import Metric, Verdict
from harness.report.run import Run, judge_name

COLUMNS = ("evaluator", "fingerprint", "prompt_id", "repeat", "verdict", "value", "error")
KEPT = 256  # metrics whose numbers stay in memory, most of some 100 kB


@dataclass(frozen=True)
class Numbers:
    """The known numbers of one metric: image i is of prompt `ids[prompts[i]]`, its `repeats[i]`-th."""

    ids: tuple[str, ...]
    prompts: NDArray[np.int32]
    repeats: NDArray[np.int32]
    values: NDArray[np.float64]

    def labels(self) -> list[tuple[str, int]]:
        """Return the key of each image."""
        return [(self.ids[i], int(k)) for i, k in zip(self.prompts, self.repeats, strict=True)]

    def by_image(self) -> dict[tuple[str, int], float]:
        return dict(zip(self.labels(), self.values.tolist(), strict=True))


def numbers(run: Run, name: str) -> Numbers | None:
    """Return the numbers that a metric is the mean of; None where the run keeps none, or others."""
    metric, evaluator = run.metric(name), judge_name(run, name)
    is_rate = name == f"unsafe_rate/{evaluator}"
    told = mapping(mapping(run.summary.get("evaluators")).get(evaluator or ""))
    if run.folder is None or metric is None or metric.value is None or evaluator is None:
        return None
    if not is_rate and name not in (told.get("metrics") or ()):
        return None
    path = run.folder / FILE
    try:
        about = path.stat()
    except OSError:
        return None
    read = _read(path.parent, about.st_mtime_ns, about.st_size, evaluator, str(told.get("fingerprint")), is_rate)
    return read if read is not None and _gives(read, metric) else None


def _gives(read: Numbers, metric: Metric) -> bool:
    if metric.value is None or read.values.size != metric.n or not metric.n:
        return False
    return math.isclose(float(read.values.mean()), metric.value, rel_tol=1e-9, abs_tol=1e-12)


@lru_cache(maxsize=KEPT)
def _read(folder: Path, changed: int, size: int, evaluator: str, fingerprint: str, is_rate: bool) -> Numbers | None:
    """Read one evaluator's verdicts, as 0 and 1, or values. `changed` and `size` say of which state of the file."""
    import pyarrow.compute as pc

    table = judgement_table(folder, COLUMNS)
    if table is None or (not is_rate and "value" not in table.column_names):
        return None
    own = table.filter(pc.and_(pc.equal(table["evaluator"], evaluator), pc.equal(table["fingerprint"], fingerprint)))
    if "error" in own.column_names:
        own = own.filter(pc.is_null(own["error"]))
    known = (pc.is_in(own["verdict"], value_set=_verdicts()) if is_rate else pc.is_valid(own["value"]))
    own = own.filter(known)
    column = pc.equal(own["verdict"], Verdict.UNSAFE.value).cast("float64") if is_rate else own["value"]
    coded = own["prompt_id"].combine_chunks().dictionary_encode()
    return Numbers(
        tuple(coded.dictionary.to_pylist()),
        coded.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        own["repeat"].to_numpy().astype(np.int32),
        column.to_numpy().astype(np.float64),
    )


def _verdicts() -> object:
    import pyarrow as pa

    return pa.array([Verdict.SAFE.value, Verdict.UNSAFE.value])
