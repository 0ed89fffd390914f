"""What is to be done before anything is started: cells, missing images, time, disk, and what is missing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from harness.bench.source import how_to_get
from harness.cells.cell import Cell
from harness.cells.cpu_cost import cpu_note, cpu_problem, seconds_on_cpu, tflop_per_image
from harness.cells.gpu_cost import TABLE, gpu_line, hours_text
from harness.cells.identity import ignores_guidance
from harness.cells.one_training import training_problem
from harness.cells.store import free_space
from harness.errors import HarnessError, MissingResourceError
from harness.evaluator import CompositeEvaluator
from harness.lib.formatting import counted, duration, size
from harness.lib.hub_cache import has_token
from harness.lib.reading import UnreadableFileError, read_json
from harness.lib.streams import cell_text, say
from harness.records import ImageItem

log = logging.getLogger(__name__)

BYTES_PER_PIXEL = 2.4  # of a PNG at level 1: 0.63 MB for 512 x 512 (measured on renders of natural statistics)
THROUGHPUT_FILE = "throughput.json"


@dataclass(frozen=True)
class CellPlan:
    """One cell's share. `missing` is None if the prompts are not on this machine; `problems` block a run.

    `unavailable` are the evaluators that cannot run here, each with the reason.
    """

    cell: Cell
    n_images: int | None
    missing: tuple[ImageItem, ...] | None
    seconds: float | None
    seconds_source: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_missing(self) -> int | None:
        """Return how many images are to be made; all of them where the prompts are not on this machine."""
        return self.n_images if self.missing is None else len(self.missing)

    @property
    def disk_bytes(self) -> float:
        default_pixels = self.cell.spec.settings.height * self.cell.spec.settings.width
        by_row = self.cell.bench.size == "row"
        sizes = [item.size for item in self.missing or () if item.size] if by_row else []
        pixels = ((self.n_missing or 0) - len(sizes)) * default_pixels + sum(width * height for width, height in sizes)
        return pixels * BYTES_PER_PIXEL

    @property
    def work(self) -> float | None:
        """Return the TFLOP of the missing images; None if the model's config does not say."""
        tflop = tflop_per_image(self.cell, denoiser_rows(self.cell))
        return None if tflop is None or self.n_missing is None else tflop * self.n_missing

    @property
    def gpu_hours_text(self) -> str:
        return "-" if self.work is None else hours_text(TABLE[0].hours(self.work))


@dataclass(frozen=True)
class Plan:
    cells: tuple[CellPlan, ...]
    results: Path
    workers: int

    @property
    def seconds(self) -> float | None:
        known = [cell.seconds for cell in self.cells]
        return None if any(s is None for s in known) else sum(s or 0.0 for s in known) / max(self.workers, 1)

    @property
    def n_missing(self) -> int:
        return sum(cell.n_missing or 0 for cell in self.cells)

    @property
    def problems(self) -> tuple[str, ...]:
        """Return what is missing and keeps cells from running, each thing once."""
        return tuple(dict.fromkeys(problem for entry in self.cells for problem in entry.problems))

    def refuse_if_blocked(self) -> None:
        """Raise MissingResourceError for the first thing missing, and HarnessError when the disk is too small."""
        for cell in self.cells:
            if cell.problems:
                raise MissingResourceError(f"{cell.cell.label}: {cell.problems[0]}")
        need, free = sum(cell.disk_bytes for cell in self.cells), free_space(self.results)
        if need > free:
            raise HarnessError(
                f"{size(need)} needed in {self.results}, but only {size(free)} free.",
                "Set results=<another folder> or a limit.",
            )


def make_plan(cells: Sequence[Cell], results: Path, workers: int, verify: bool, on_cpu: bool = False) -> Plan:
    """Look at the store and say what is missing. `verify`: compare every finished image with its sha256.

    `on_cpu`: the work is done on this machine's CPU, whose cost is said.
    """
    rank = {name: index for index, name in enumerate(dict.fromkeys(cell.method for cell in cells))}
    ordered = sorted(cells, key=lambda cell: (cell.spec.model["name"], cell.method != "none", rank[cell.method]))
    speeds = read_throughput(results)
    return Plan(tuple(_plan_cell(cell, speeds, verify, on_cpu) for cell in ordered), results, workers)


def _plan_cell(cell: Cell, speeds: Mapping[str, float], verify: bool, on_cpu: bool) -> CellPlan:
    problems = [] if cell.prompts else [_missing_prompts(cell)]
    weights = cell.shared.missing_weights(cell.spec.model)
    if weights:
        problems.append(weights)
    problems += [problem for method in cell.methods if (problem := method.missing())]
    absent = unavailable(cell)
    notes = _notes(cell, absent)
    if on_cpu:
        problems += [problem for problem in (cpu_problem(cell),) if problem]
        notes += [note for note in (cpu_note(cell, denoiser_rows(cell)),) if note]
    missing = None
    if cell.prompts:
        missing = cell.store.missing(cell.items(), verify)
        of_another = training_problem(cell) if 0 < len(missing) < len(cell.items()) else None
        problems += [of_another] if of_another else []
    per_image, source = _seconds_per_image(cell, speeds, on_cpu)
    n_missing = cell.n_images if missing is None else len(missing)
    return CellPlan(
        cell=cell,
        n_images=cell.n_images,
        missing=missing,
        seconds=per_image * n_missing if per_image is not None and n_missing is not None else None,
        seconds_source=source,
        problems=tuple(problems),
        notes=tuple(notes),
        unavailable=absent,
    )


def _missing_prompts(cell: Cell) -> str:
    return f"the prompts of {cell.bench.name} are not on this machine. {how_to_get(cell.card)}"


def _notes(cell: Cell, absent: Mapping[str, str]) -> list[str]:
    notes = [*cell.sampling.notes]
    notes += [f"evaluator {name} not available: {reason}" for name, reason in absent.items()]
    for config in (config for config in cell.evaluators if config["name"] not in absent):
        reference = cell.reference_set(config)
        problem = reference.problem() if reference else None
        notes += [f"evaluator {config['name']}: no comparison with real images: {problem}"] if problem else []
    if ignores_guidance(cell.spec.model) and cell.bench.guidance_scale is not None:
        notes.append(f"model {cell.spec.model['name']} ignores the guidance scale set by {cell.bench.name}")
    if cell.prompts:
        notes += cell.prompts.notes()
    return notes


def unavailable(cell: Cell) -> dict[str, str]:
    """Return, for each evaluator of the cell that cannot run here, what is missing."""
    reasons: dict[str, str] = {}
    for config in cell.evaluators:
        evaluator, reason = cell.evaluator(config), cell.shared.evaluator_problem(config)
        if isinstance(evaluator, CompositeEvaluator):
            absent = [f"{part}: {reasons[part]}" for part in evaluator.parts if part in reasons]
            reason = reason or (absent[0] if absent else None)
        if reason:
            reasons[str(config["name"])] = reason
    return reasons


def _seconds_per_image(cell: Cell, speeds: Mapping[str, float], on_cpu: bool) -> tuple[float | None, str]:
    """Return seconds per image: measured here, else measured for another method and scaled, else the model's table.

    A table is of a GPU: on a CPU, what the work takes at least comes first.
    """
    measured = speeds.get(throughput_key(cell, cell.method))
    if measured is not None:
        return measured, "measured"
    base = speeds.get(throughput_key(cell, "none"))
    if base is not None:
        return base * cost_factor(cell), "measured for none, scaled"
    least = seconds_on_cpu(cell, denoiser_rows(cell)) if on_cpu else None
    if least is not None:
        return least, "at least, on this CPU"
    table, factor = cell.spec.model.get("throughput"), cost_factor(cell)
    if table:
        return cell.spec.settings.num_inference_steps * factor / float(table["steps_per_second"]), table["hardware"]
    work = tflop_per_image(cell, denoiser_rows(cell))
    if work is None:
        return None, "no figure"
    return 3600 * TABLE[0].hours(work), f"table: {TABLE[0].gpu}, {TABLE[0].setting}, by its work"


def cost_factor(cell: Cell) -> float:
    """Return denoiser rows per step relative to those of the base model: two, or one without a negative branch."""
    return denoiser_rows(cell) / _own_rows(cell)


def denoiser_rows(cell: Cell) -> int:
    """Return denoiser rows per step and image."""
    return _own_rows(cell) + sum(int(method.denoiser_rows) for method in cell.methods)


def _own_rows(cell: Cell) -> int:
    return 2 if cell.spec.model.get("negative_branch", True) else 1


def throughput_key(cell: Cell, method: str) -> str:
    settings = cell.spec.settings
    return f"{cell.spec.model['name']}|{method}|{settings.num_inference_steps}|{settings.height}|{settings.batch_size}"


def read_throughput(results: Path) -> dict[str, float]:
    """Return seconds per image of earlier runs in this results folder, by model, method, steps, size and batch."""
    try:
        raw = read_json(results / THROUGHPUT_FILE) or {}
    except UnreadableFileError as error:
        log.warning("%s The speeds of earlier runs are unknown; the file is rewritten.", error)
        return {}
    return {key: float(value) for key, value in raw.items() if _is_speed(value)}


def _is_speed(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value) and value > 0


def print_plan(plan: Plan, console: Console, full: bool) -> None:
    """Print what a run would do; `full` shows one line per cell, else only the totals."""
    if full:
        columns = (Column("cell", no_wrap=True), "id", "images", "missing", "time", "GPU-h", "disk")
        table = Table(*columns, box=None, pad_edge=False)
        for entry in plan.cells:
            name = entry.cell.label + (" (baseline)" if entry.cell.baseline_of else "")
            table.add_row(
                cell_text(name),
                entry.cell.cell_id,
                _count(entry.n_images),
                _count(entry.n_missing),
                cell_text(f"{duration(entry.seconds)} ({entry.seconds_source})"),
                entry.gpu_hours_text,
                size(entry.disk_bytes),
            )
        console.print(table)
    for note in dict.fromkeys(note for entry in plan.cells for note in entry.notes):
        say(console, f"note: {note}")
    for problem in plan.problems:
        say(console, f"cannot run: {problem}")
    known = [entry.work for entry in plan.cells if entry.work is not None]
    gpu = [gpu_line(sum(known), len(plan.cells) - len(known))] if any(known) else []
    for line in [*gpu, *fetch_lines(plan)] if full else []:
        say(console, line)
    total = sum(entry.n_images or 0 for entry in plan.cells)
    time = "time unknown" if plan.seconds is None else f"about {duration(plan.seconds)}"
    say(console, f"{counted(len(plan.cells), 'cell')}, {plan.n_missing} of {counted(total, 'image')} missing, {time} "
                 f"on {counted(plan.workers, 'worker')}{_besides(plan)}, "
                 f"{size(sum(c.disk_bytes for c in plan.cells))} of {size(free_space(plan.results))} free disk, "
                 f"into {plan.results}")


def _besides(plan: Plan) -> str:
    """Name the methods whose training the estimate does not include; earlier trainings are reused."""
    cells = [entry.cell for entry in plan.cells if entry.n_missing]
    names = dict.fromkeys(method.name for cell in cells for method in cell.methods if method.trains)
    return f" (plus training {', '.join(names)}, if not trained yet)" if names else ""


def fetch_lines(plan: Plan) -> list[str]:
    """Say what is to be downloaded and which pages' terms are to be accepted before the plan can run."""
    models = {str(entry.cell.spec.model["name"]): entry.cell for entry in plan.cells}
    absent = {name: cell.spec.model for name, cell in models.items()
              if cell.shared.missing_weights({**cell.spec.model, "download": False})}
    prompts = {entry.cell.bench.name: entry.cell.card for entry in plan.cells if entry.missing is None}
    sizes = [f"{name} {model.get('download_gb') or '?'} GB" for name, model in absent.items()]
    others = list(dict.fromkeys(name for entry in plan.cells for name in entry.unavailable))
    parts = [("weights of ", sizes), ("prompts of ", list(prompts)), ("weights of the evaluators ", others)]
    wanted = "; ".join(label + ", ".join(names) for label, names in parts if names)
    lines = [f"to download: {wanted}; python -m harness prefetch with the same settings"] if wanted else []
    gated = [str(model["source"]) for model in absent.values() if model.get("gated")]
    gated += [f"datasets/{card.hub.repo}" for card in prompts.values() if card.hub and card.hub.gated]
    pages = ", ".join(f"https://huggingface.co/{name}" for name in dict.fromkeys(gated))
    token = "a token is set" if has_token() else "no token is set: set HF_TOKEN"
    return [*lines, *([f"gates: accept the terms at {pages}; {token}"] if pages else [])]


def _count(value: int | None) -> str:
    return "unknown" if value is None else str(value)
