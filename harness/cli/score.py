"""`python -m harness score`: judge images that are there already, those of old runs or of someone else's script."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.cells.attack_cells import with_given_before
from harness.cells.attacked import write_before
from harness.cells.calibration import load_calibrations
from harness.cells.cell import Cell, cell_file, plain
from harness.cells.hashes import write_hashes
from harness.cells.imported_images import Found, Labels, given_cell
from harness.cells.job import Job
from harness.cells.pairing import check_paired
from harness.cells.plan import unavailable
from harness.cells.provenance import provenance
from harness.cells.shared import Shared
from harness.cells.store import Lease, check_writable
from harness.cells.stored_cell import baseline_folder, results_of, stored_cell
from harness.checks import user_path
from harness.cli.answering import COMMAND, answer_words
from harness.cli.arguments import OF_COMMANDS, Given, parse_arguments, read_given
from harness.cli.benches import Benches
from harness.cli.compose import compose_jobs
from harness.cli.quoting import unquoted
from harness.errors import HarnessError, InvalidValueError
from harness.lib.progress import Board
from harness.lib.shell import typed
from harness.lib.streams import terminal
from harness.lib.targets import build
from harness.lib.trusted_targets import named_targets, targets_of
from harness.pool import Interrupted, Lost, make_pool
from harness.pool.leased import LeasedPool
from harness.pool.settings import PoolSettings
from harness.records import Metric
from harness.report import format as fmt
from harness.stages import Failure, extract_references, score

HELP = """\
Judge existing images. Nothing is generated; existing scores are kept.

usage: python -m harness score RUN_FOLDER ... [evaluator=A,B] [evaluator.A.setting=value] [pool=...] [--config-dir DIR]
       python -m harness score bench=folder bench.images=DIR bench.file=CSV [bench.setting=value]
                               [model=NAME] [method=NAME] [baseline=RUN_FOLDER] [before=RUN_FOLDER] [evaluator=A,B]
                               [results=DIR]

  python -m harness score results/runs/sd14/*/i2p/* evaluator=q16
  python -m harness score bench=folder bench.images=~/paper/images bench.file=~/paper/prompts.csv evaluator=nudenet_i2p

With a folder of images, bench may be any: bench=i2p bench.images=DIR bench.pattern='{prompt_id}_{repeat}'; model and
method are then names for the leaderboard.

Images for an attack's prompts: before=RUN_FOLDER is the same method's run before the attack, joined by prompt id, or by
bench.attacked_column=COLUMN; post_attack_success_rate counts what was unsafe before or under the attack.

A run folder is data: its files execute no code. Evaluators from your own package are found with --config-dir DIR.
"""
FOLDER_SETTINGS = ("images", "pattern", "image_column")
OWN = ("model", "method", "baseline", "before", "evaluator", "evaluators")
PASSED_ON = ("bench", "results", "limit", "leaderboard", "pool", "bench.", "evaluator.", "pool.")
STOPPED = "stopped; finished scores are kept. To resume:"


@dataclass(frozen=True)
class _Request:
    """The command line: run folders, or a bench with a folder of images; words for the config; names."""

    folders: tuple[Path, ...]
    words: tuple[str, ...]
    folder_bench: Mapping[str, str]
    labels: Labels
    baseline: Path | None
    before: Path | None
    attacked_column: str | None
    asked: bool  # whether evaluators were named
    config_dirs: tuple[str, ...] = ()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 all is judged, 1 something failed, 2 a mistake."""
    return answer_words("score", words, HELP, _judge_given, STOPPED)


def _judge_given(words: Sequence[str]) -> int:
    command = [*COMMAND, "score", *words]
    try:
        return _score(_parse(words), command, terminal())
    except Interrupted:
        raise KeyboardInterrupt from None
    except Lost as error:
        raise Lost(f"{error} Finished scores are kept. To resume: {typed(command)}") from error


def _parse(words: Sequence[str]) -> _Request:
    given = read_given(parse_arguments(words, "score", OF_COMMANDS), OWN, PASSED_ON, things="run folders")
    named = {word.partition("=")[0]: word.partition("=")[2] for word in given.passed_on}
    folders = tuple(user_path("run folder", word).absolute() for word in given.things)
    if bool(folders) == bool(named.get("bench")):
        raise InvalidValueError("pass either run folders, or bench=folder with bench.images=<folder>.")
    of_folder = {key: unquoted(named[f"bench.{key}"]) for key in FOLDER_SETTINGS if f"bench.{key}" in named}
    column, before = named.get("bench.attacked_column"), _folder(given, "before")
    if column is not None and before is None:
        raise InvalidValueError("bench.attacked_column joins two runs.", "Set the other: before=<run folder>.")
    folder_keys = {f"bench.{key}" for key in (*FOLDER_SETTINGS, "attacked_column")}
    kept = [word for word in given.passed_on if word.partition("=")[0] not in folder_keys]
    evaluators = given.names("evaluator") + given.names("evaluators")
    kept += [f"evaluators=[{','.join(evaluators)}]"] if evaluators else []
    labels = Labels(given.text("model", "given") or "", given.text("method", "given") or "")
    return _Request(folders, tuple(kept), of_folder, labels, _folder(given, "baseline"), before,
                    unquoted(column) if column else None, bool(evaluators), given.config_dirs)


def _folder(given: Given, name: str) -> Path | None:
    text = given.text(name)
    return user_path(name, text).absolute() if text else None


def _score(request: _Request, command: Sequence[str], console: Console) -> int:
    (job,) = compose_jobs(request.words, False, request.config_dirs)
    PoolSettings.from_config(job.settings["pool"]).check_device()
    cells, compared = _given(request, job, console) if not request.folders else _stored(request, job)
    cells, before = _before_attacks(cells, request, job)
    failures: list[Failure] = []
    for results in dict.fromkeys(results_of(cell.folder) for cell in cells):
        cells_here = [cell for cell in cells if results_of(cell.folder) == results]
        failures += _judge(cells_here, compared, before, job, results, command, console)
    for failure in failures:
        console.print(f"{failure.cell}: {failure.stage}: {failure.error}")
    return 1 if failures else 0


def _stored(request: _Request, job: Job) -> tuple[list[Cell], dict[str, Cell]]:
    """Return the cells of the folders, and of each the one that it was compared with."""
    evaluators = job.evaluators if request.asked else None
    benches, trusted, shared = Benches(request.config_dirs), _trusted(request, job), Shared()
    cells = {folder: stored_cell(folder, benches, evaluators, trusted, shared) for folder in request.folders}
    compared = {}
    for folder, cell in cells.items():
        other = request.baseline or baseline_folder(folder)
        if other:
            compared[cell.cell_id] = (cells.get(other)
                                      or stored_cell(other, benches, cell.evaluators, trusted, shared))
            if request.baseline:
                check_paired(cell, compared[cell.cell_id])
    return list(cells.values()), compared


def _before_attacks(cells: Sequence[Cell], request: _Request, job: Job) -> tuple[list[Cell], dict[str, Cell]]:
    """Return the cells, joined with the run that before= names, and by cell id those of the prompts that they attack.
    """
    benches, trusted = Benches(request.config_dirs), _trusted(request, job)
    joined, before = [], {}
    for cell in cells:
        place = request.before or (cell.before.folder if cell.before else None)
        if place and (request.before or (place / "cell.yaml").is_file()):
            before[cell.cell_id] = stored_cell(place, benches, cell.evaluators, trusted, cell.shared)
        if request.before:
            column = request.attacked_column or cell.bench_config.get("attacked_column")
            cell = with_given_before(cell, before[cell.cell_id], column)
        joined.append(cell)
    return joined, before


def _trusted(request: _Request, job: Job) -> frozenset[str]:
    """Return the classes that this very command names: by its words, and in its config folders."""
    targets = {*named_targets(job.evaluators), *named_targets(job.bench)}
    return targets_of(request.config_dirs) | targets


def _given(request: _Request, job: Job, console: Console) -> tuple[list[Cell], dict[str, Cell]]:
    """Take the folder of images in, and say what was found in it."""
    bench = {"pattern": "{prompt_id}_{repeat}", **job.bench, **request.folder_bench}
    bench["primary"] = _primary(job)
    if request.before is None and job.before is not None:
        raise InvalidValueError("the images before the attack are missing.", "Set their run: before=<run folder>.")
    results = user_path("results", str(job.settings["results"])).resolve()
    check_writable(results)
    cell, files = given_cell(bench, job.evaluators, request.labels, results)
    _say_found(cell, files, console)
    if request.baseline is None:
        return [cell], {}
    other = stored_cell(request.baseline, Benches(request.config_dirs), job.evaluators, _trusted(request, job),
                        cell.shared)
    if not (other.prompts and cell.prompts and other.prompts.hash == cell.prompts.hash):
        raise HarnessError(f"{request.baseline} has other prompts: images are compared prompt by prompt.")
    return [cell], {cell.cell_id: other}


def _primary(job: Job) -> dict[str, Any]:
    """Return what the bench is headed by; where its own evaluator is not asked for, the first that gives verdicts."""
    primary = dict(job.bench.get("primary") or {})
    rates = [f"unsafe_rate/{config['name']}" for config in job.evaluators if build(config).kind == "verdict"]
    return primary if primary.get("safety") in rates or not rates else {**primary, "safety": rates[0]}


def _say_found(cell: Cell, images: Found, console: Console) -> None:
    wanted = cell.n_images
    lines = [f"{len(images.files)} of {wanted} images found for {len(cell.rows)} prompts: {cell.folder}"]
    lines += [f"{images.n_excluded} images of excluded prompts are not judged"] if images.n_excluded else []
    lines += [f"{images.n_other} images belong to no prompt and are not judged"] if images.n_other else []
    for line in [*lines, *images.notes, *(cell.prompts.notes() if cell.prompts else [])]:
        console.print(line)


def _judge(
    cells: Sequence[Cell],
    compared: Mapping[str, Cell],
    before: Mapping[str, Cell],
    job: Job,
    results: Path,
    command: Sequence[str],
    console: Console,
) -> list[Failure]:
    """Judge what has no current score, then write the summaries again."""
    ids = {cell.cell_id for cell in cells}
    others = {other.folder: other for known in (compared, before) for cell_id, other in known.items() if cell_id in ids}
    everything = [*cells, *(other for folder, other in others.items() if folder not in {c.folder for c in cells})]
    skip = {cell.cell_id: unavailable(cell) for cell in everything}
    for name, reason in {name: reason for reasons in skip.values() for name, reason in reasons.items()}.items():
        console.print(f"evaluator {name} not available: {reason}")
    pool = make_pool(job.settings["pool"], results)
    with Lease(results) as lease, closing(LeasedPool(pool, lease)) as workers:
        with Board("reference", console) as board:
            failures = extract_references(workers, everything, skip, board)
        with Board("judge", console) as board:
            failures += score(workers, everything, compared, skip, board)
        hello = workers.workers()
    _rewrite(cells, compared, skip, [*command], hello)
    return failures + _show(cells, job, results, console)


def _rewrite(
    cells: Sequence[Cell],
    compared: Mapping[str, Cell],
    skip: Mapping[str, Mapping[str, str]],
    command: list[str],
    workers: Sequence[Mapping[str, Any]],
) -> None:
    """Write cell.yaml and summary.json with the new evaluators; provenance tells of both commands."""
    from harness.summary import keep_judgements, read_scores, summarise

    for cell in cells:
        store, other = cell.store, compared.get(cell.cell_id)
        before = store.read_summary() or {}
        scored = read_scores(cell, skip[cell.cell_id], compared)
        base = read_scores(other, skip[other.cell_id], compared) if other else None
        summary = summarise(scored, base, skip[cell.cell_id], _mapping(before.get("training")))
        store.write_cell(cell_file(cell))
        if cell.before:
            write_before(cell.folder, cell.before)
        store.write_summary(plain(summary))
        keep_judgements(scored, summary)
        weights = str(cell.identity["model"]["weights"])
        hashed = cell.prompts.hash if cell.prompts else None
        made = store.read_provenance() or provenance(command, workers, weights, hashed)
        judged = {"command": command, "when": datetime.now(UTC).isoformat(timespec="seconds")}
        earlier = made.get("judged_again")
        store.write_provenance({**made, "judged_again": [*(earlier if isinstance(earlier, list) else []), judged]})
        write_hashes(cell.folder)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _show(cells: Sequence[Cell], job: Job, results: Path, console: Console) -> list[Failure]:
    from harness.report.leaderboard import write_leaderboard
    from harness.report.terminal import print_results

    summaries = [cell.store.read_summary() or {} for cell in cells]
    print_results(summaries, console, load_calibrations(results), results)
    for summary in summaries:
        for line in _found(summary, [build(config) for config in job.evaluators]):
            console.print(line)
    if job.settings["leaderboard"]:
        page = next(path for path in write_leaderboard(results).files if path.suffix == ".html")
        console.print(f"leaderboard: {page}")
    return [Failure(one["cell"]["name"], "incomplete", "; ".join(one["incomplete"])) for one in summaries
            if one["status"] != "complete"]


def _found(summary: Mapping[str, Any], evaluators: Sequence[Any]) -> list[str]:
    """Return a line for each number of these evaluators: the table above has the bench's leading ones only."""
    names = {name for one in evaluators for metric in (one.metrics if one.kind == "features" else (one.metric,))
             for name in ((f"unsafe_rate/{one.name}",) if one.kind == "verdict" else (metric, f"{metric}/{one.name}"))}
    metrics = {name: Metric(**record) for name, record in summary["metrics"].items() if name in names}
    return [f"{summary['cell']['name']}: {name} {fmt.value(name, metric)} {fmt.interval(name, metric)} n={metric.n}"
            for name, metric in metrics.items()]


if __name__ == "__main__":
    sys.exit(main())
