"""`python -m harness calibrate evaluator=... data=...`: sensitivity and specificity of a safety evaluator, measured."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import track

from harness.bench.labelled import LabelledFolder, read_labelled
from harness.cells.calibration import MEASURES, Calibration, Counts, calibration_path, write_calibration
from harness.checks import check_choice, user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, called, parse_arguments, read_given
from harness.cli.compose import compose_jobs
from harness.errors import HarnessError, InvalidValueError, MissingResourceError, unknown_name
from harness.evaluator import CompositeEvaluator, Evaluator
from harness.evaluators.identity import evaluator_fingerprint
from harness.evaluators.scoring import score_requests
from harness.lib.atomic import check_writable
from harness.lib.machine import device_problem, process_threads
from harness.lib.targets import build
from harness.pool.engine import EngineToolbox
from harness.records import ImageKey, Metric, ScoreItem, ScoreRow, Verdict
from harness.report import format as fmt

SETTINGS = ("evaluator", "data", "results", "device", "batch_size")
DEVICES = ("auto", "cpu", "cuda", "mps")
HELP = """\
Measure the accuracy of a safety evaluator on labelled images.

usage: python -m harness calibrate evaluator=NAME data=FOLDER [results=results] [device=auto|cpu|cuda|mps]
                                   [batch_size=32] [evaluator.NAME.setting=value ...] [--config-dir DIR]

FOLDER has labels.csv with the columns image,label (1 or unsafe, 0 or safe), or the folders safe and unsafe.
Writes results/calibrations/NAME/<fingerprint>.yaml, which leaderboards show beside this evaluator's rates.

  python -m harness calibrate evaluator=nudenet data=labelled
"""


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `words` and `config_dirs` are those that evaluators are composed from."""

    evaluator: str
    data: Path
    results: Path
    device: str
    batch_size: int
    words: tuple[str, ...] = ()
    config_dirs: tuple[str, ...] = ()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 calibrated, 2 a mistake or something that is missing."""
    return answer_words("calibrate", words, HELP, _calibrate,
                        "stopped; nothing was written. To run again:")


def _calibrate(words: Sequence[str]) -> None:
    request = read_request(words)
    calibration = calibrate(request)
    path = write_calibration(calibration, request.results)
    print("\n".join([*_lines(calibration), f"written: {path}"]))


def read_request(words: Sequence[str]) -> Request:
    """Read the command line. Raises HarnessError naming the nearest setting."""
    arguments = parse_arguments(words, "calibrate", OF_COMMANDS, SETTINGS)
    given = read_given(arguments, SETTINGS, ("evaluator.",))
    for key in ("evaluator", "data"):
        if not given.text(key):
            raise InvalidValueError(f"{key}= is missing.", f"{called('calibrate')} evaluator=NAME data=FOLDER")
    evaluator, device = given.text("evaluator") or "", given.text("device", "auto") or ""
    batch_size = given.text("batch_size", "32") or ""
    if not re.fullmatch(r"[\w.-]+", evaluator):
        raise InvalidValueError(f"evaluator={evaluator}: calibrate one evaluator at a time.")
    check_choice("device", device, DEVICES)
    if problem := device_problem(device):
        raise MissingResourceError(f"device={device}: {problem}.", "Set device=auto.")
    if not batch_size.isdecimal() or int(batch_size) < 1:
        raise InvalidValueError(f"batch_size={batch_size}: an integer of at least 1 is needed.")
    folders = user_path("data", given.text("data") or ""), user_path("results", given.text("results", "results") or "")
    return Request(evaluator, *folders, device, int(batch_size), given.passed_on, given.config_dirs)


def calibrate(request: Request) -> Calibration:
    """Judge the labelled images and count. Raises HarnessError before anything is loaded wherever it can."""
    (tree,) = _compose(request, [request.evaluator])
    made = tree.made
    if not isinstance(made, Evaluator) or made.kind != "verdict":
        raise InvalidValueError(f"evaluator {request.evaluator} gives no verdicts: there is nothing to calibrate.",
                                "Use one that says safe or unsafe.")
    _check_ready(tree, request)
    data = read_labelled(request.data)
    fingerprint = tree.fingerprint
    check_writable(calibration_path(request.results, made.name, fingerprint).parent)
    data_sha256 = data.sha256()
    print(f"{made.name} {fingerprint}: {len(data.images)} images of {data.folder}", flush=True)
    device = EngineToolbox().start(request.device, process_threads())
    rows = _judge(tree, _requests(data), device, request.batch_size)
    counts = Counts.of((image.label, _verdict(row)) for image, row in zip(data.images, rows, strict=True))
    _check_known(counts, rows)
    return Calibration(made.name, fingerprint, counts, data_sha256, _about(made, data))


@dataclass(frozen=True)
class _Tree:
    """An evaluator, and those whose scores it combines."""

    made: Any
    parts: tuple[_Tree, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint that a summary has of it."""
        return evaluator_fingerprint(self.made, {part.made.name: part.made for part in self.parts})

    def all(self) -> list[_Tree]:
        return [self, *(one for part in self.parts for one in part.all())]


def _compose(request: Request, names: Sequence[str]) -> tuple[_Tree, ...]:
    """Build evaluators as a run composes them, with the overrides that are their own."""
    if not names:
        return ()
    words = [word for word in request.words if word.split(".")[1] in names]
    (job,) = compose_jobs([f"evaluators=[{','.join(names)}]", *words], False, request.config_dirs)
    by_name = {str(config["name"]): config for config in job.evaluators}  # those of a composite are there, too
    built = [build(by_name[name]) for name in names]
    return tuple(_Tree(made, _compose(request, _parts(made))) for made in built)


def _parts(made: Any) -> list[str]:
    return list(made.parts) if isinstance(made, CompositeEvaluator) else []


def _check_ready(tree: _Tree, request: Request) -> None:
    """Refuse settings of evaluators that are not asked for, and evaluators that cannot run here."""
    names = [one.made.name for one in tree.all()]
    for word in request.words:
        if word.split(".")[1] not in names:
            raise unknown_name("evaluator of this calibration", word.split(".")[1], names)
    for one in tree.all():
        problem = one.made.missing()
        if problem:
            raise MissingResourceError(f"{one.made.name}: {problem}")


def _judge(tree: _Tree, requests: Sequence[ScoreItem[str]], device: str, batch_size: int) -> list[ScoreRow]:
    """Return one row per image, in order."""
    made = tree.made
    if tree.parts:
        by_part = {part.made.name: _judge(part, requests, device, batch_size) for part in tree.parts}
        return [made.combine({name: rows[i] for name, rows in by_part.items()}) for i in range(len(requests))]
    made.setup(device)
    rows: list[ScoreRow] = []
    for start in track(range(0, len(requests), batch_size), made.name, disable=not sys.stdout.isatty(), transient=True):
        rows += score_requests(made, requests[start : start + batch_size], batch_size)
    return [row if row.error else made.decide(row) for row in rows]


def _requests(data: LabelledFolder) -> list[ScoreItem[str]]:
    named = {image.name: str(data.file(image).absolute()) for image in data.images}
    return [ScoreItem(ImageKey(name, 0), "", (), {}, file) for name, file in named.items()]


def _verdict(row: ScoreRow) -> Verdict:
    known = row.error is None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE)
    return row.verdict if known and row.verdict else Verdict.UNKNOWN


def _check_known(counts: Counts, rows: Sequence[ScoreRow]) -> None:
    """Refuse a calibration that says nothing of one of the labels."""
    for name, metric in counts.metrics().items():
        if metric.value is None and name != "precision":
            first = next((row for row in rows if row.error), None)
            reason = f": {first.prompt_id}: {first.error}" if first else ""
            raise HarnessError(f"there is no {name}: {metric.note}{reason}.", "Nothing was written.")


def _about(made: Evaluator, data: LabelledFolder) -> dict[str, Any]:
    from harness.lib.version import __version__

    return {
        "evaluator_version": made.version,
        "identity": json.loads(json.dumps(dict(made.identity()))),
        "folder": data.folder.resolve().name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "harness": __version__,
    }


def _lines(calibration: Calibration) -> list[str]:
    """Return what the terminal shows: rates with intervals, and what was counted."""
    counts, metrics = calibration.counts, calibration.metrics()
    unsafe = f"{counts.unsafe_as_unsafe} called unsafe, {counts.unsafe_as_safe} safe, {counts.unsafe_unknown} unknown"
    safe = f"{counts.safe_as_safe} called safe, {counts.safe_as_unsafe} unsafe, {counts.safe_unknown} unknown"
    return [*(_line(name, metrics[name]) for name in MEASURES),
            f"unsafe images: {unsafe}", f"safe images: {safe}", f"data: {calibration.data_sha256[:12]}"]


def _line(name: str, metric: Metric) -> str:
    unit = MEASURES[0]  # shares all three, and no precision of a set of features
    shown = (fmt.value(unit, metric), fmt.interval(unit, metric), fmt.worst_case(unit, metric))
    of_these = " on these images: it changes with their share of unsafe ones" if name == "precision" else ""
    return f"{name}: {' '.join(filter(None, shown))}{of_these}"


if __name__ == "__main__":
    sys.exit(main())
