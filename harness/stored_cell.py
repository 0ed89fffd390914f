"""A cell read back from its folder, so that its images can be judged again long after they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bench import PromptSet, find_card, load_prompts
from harness.cell import Cell
from harness.errors import HarnessError, MissingResourceError
from harness.records import ImageRow, PromptRow, Status
from harness.settings import BenchSettings
from harness.store import CellStore
from harness.tasks import CellSpec, GenerationSettings

Config = Mapping[str, Any]


def stored_cell(folder: Path, benches: Mapping[str, Config], evaluators: Sequence[Config] | None) -> Cell:
    """Return the cell that a run folder holds, with `evaluators` beside its own; of one name the new one counts.

    `benches` are shipped bench configs by name, for folders that hold none of their own. Raises MissingResourceError.
    """
    store = CellStore(folder)
    config = store.read_cell()
    if config is None:
        raise MissingResourceError(f"{folder} is no run folder: it has no readable cell.yaml.",
                                   "Give folders such as results/runs/<model>/<method>/<bench>/<cell id>.")
    bench = config.get("bench") or benches.get(str(config["identity"]["bench"]["name"]))
    if bench is None:
        raise HarnessError(f"{folder}: its bench {config['identity']['bench']['name']} is not known here.")
    rows = list(store.images().values())
    if not rows:
        raise MissingResourceError(f"{folder} has no images.")
    settings, spec = config["settings"], _spec(config, folder)
    by_name = {str(one["name"]): one for one in (*(config.get("evaluators") or ()), *(evaluators or ()))}
    return Cell(
        spec=spec,
        bench=BenchSettings.from_config(bench),
        evaluators=tuple(by_name.values()),
        reference=bench.get("reference"),
        identity=config["identity"],
        method_overrides=settings.get("method_overrides") or {},
        prompts=_prompts(bench, config["identity"]["bench"].get("prompts"), rows),
        card=find_card(str(bench.get("card") or bench["name"]), bench.get("variant")),
        card_rows=None,
        limit=settings.get("limit"),
        repeats=int(settings["repeats"]),
        guidance_scale=0.0,  # of images to make; these are made
        bench_config=bench,
    )


def results_of(folder: Path) -> Path:
    """Return the results folder that a run folder lies in: the one above `runs`, else the folder above it."""
    above = folder.parents
    return above[4] if len(above) > 4 and above[3].name == "runs" else above[0]


def baseline_folder(folder: Path) -> Path | None:
    """Return the folder of the cell that a run was compared with, where both are still there."""
    name = ((CellStore(folder).read_summary() or {}).get("cell") or {}).get("baseline_cell")
    if not name or folder.parents[2].name == "runs":
        return None
    found = sorted(folder.parents[2].glob(f"*/{folder.parent.name}/{name}"))
    return found[0] if found else None


def _spec(config: Config, folder: Path) -> CellSpec:
    settings = config["settings"]
    sampled = GenerationSettings(
        num_inference_steps=int(settings["num_inference_steps"] or 0),
        height=int(settings["height"] or 0),
        width=int(settings["width"] or 0),
        batch_size=int(settings["batch_size"] or 0),
    )
    return CellSpec(
        cell_id=str(config["cell_id"]),
        name=str(config["name"]),
        folder=str(folder),
        model=config["model"],
        methods=tuple(config["methods"]),
        settings=sampled,
        seed=int(settings["seed"]),
        artifacts=str(results_of(folder) / "artifacts"),
    )


def _prompts(bench: Config, wanted: str | None, rows: Sequence[ImageRow]) -> PromptSet:
    """Load the prompts; where their file is gone or another one, take those that the rows tell of."""
    try:
        found = load_prompts(bench, offline=True)
    except HarnessError:
        found = None
    return found if found is not None and found.hash == wanted else _told_by(rows, str(bench["name"]))


def _told_by(rows: Sequence[ImageRow], name: str) -> PromptSet:
    known = {row.prompt_id: row for row in rows if row.status is not Status.ERROR or row.prompt}
    prompts = tuple(PromptRow(key, row.prompt, row.category) for key, row in known.items())
    n_double = len(prompts) - len({row.prompt for row in prompts})
    note = "the prompt file is gone or another one: prompts are those of the stored rows, without their other columns"
    return PromptSet(name=name, rows=prompts, n_file=len(prompts), n_total=len(prompts), excluded={}, excluded_ids={},
                     source="the stored rows", variant=None, file_sha256="", file_note=note, list_sha256="",
                     list_name=None, n_duplicate_prompts=n_double, n_cut=None)
