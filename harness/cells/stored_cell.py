"""A cell read back from its folder, so that its images can be judged again long after they were made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bench import PromptSet, find_card, load_prompts
from harness.bench.references import ReferenceImages
from harness.cells.attacked import read_before
from harness.cells.cell import Cell
from harness.cells.proposed_sampling import Sampling
from harness.cells.settings import BenchSettings
from harness.cells.shared import Shared
from harness.cells.store import CellStore
from harness.checks import check_label
from harness.errors import HarnessError, MissingResourceError
from harness.evaluator import Evaluator
from harness.evaluators.extractor import FeatureExtractor
from harness.lib.reading import UnreadableFileError
from harness.lib.trusted_targets import LOADER, TARGET, check_stored, stored_class
from harness.method import Method
from harness.models.families import Plugin
from harness.records import CellSpec, GenerationSettings, ImageRow, PromptRow, Status

Config = Mapping[str, Any]
MAX_REPEATS = 100_000


def stored_cell(
    folder: Path, benches: Mapping[str, Config], evaluators: Sequence[Config] | None, trusted: Collection[str] = (),
    shared: Shared | None = None,
) -> Cell:
    """Return the cell that a run folder holds, with `evaluators` beside its own; of one name the new one counts.

    `benches` are shipped bench configs by name, for folders that hold none of their own. What the folder holds is
    data: it names classes of the harness, or those `trusted`, which the person's own command names. `shared` is what
    the other cells of the command have asked for. Raises HarnessError.
    """
    shared = shared or Shared()
    config = shared.stores.of(folder).read_cell()
    if config is None:
        raise MissingResourceError(f"{folder} is not a run folder: it has no readable cell.yaml.",
                                   "Use folders such as results/runs/<model>/<method>/<bench>/<cell id>.")
    _check(config, folder, trusted)
    bench = config.get("bench") or benches.get(str(config["identity"]["bench"]["name"]))
    if bench is None:
        raise HarnessError(f"{folder}: its bench {config['identity']['bench']['name']} is unknown here.")
    rows = list(shared.stores.of(folder, str(config["cell_id"])).images().values())
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
        before=read_before(folder),
        sampling=Sampling(taken=sampled if isinstance(sampled := settings.get("sampling"), Mapping) else {}),
        shared=shared,
    )


def results_of(folder: Path) -> Path:
    """Return the results folder of a run folder: the one above `runs`, else the folder above it."""
    above = folder.parents
    return above[4] if len(above) > 4 and above[3].name == "runs" else above[0]


def baseline_folder(folder: Path) -> Path | None:
    """Return the folder of the cell that a run was compared with, where both are still there."""
    cell = (CellStore(folder).read_summary() or {}).get("cell")
    name = cell.get("baseline_cell") if isinstance(cell, Mapping) else None
    if not _is_label(name) or folder.parents[2].name == "runs":
        return None
    folders = sorted(folder.parents[2].glob(f"*/{folder.parent.name}/{name}"))
    return folders[0] if folders else None


_NUMBERS = ("num_inference_steps", "height", "width", "batch_size", "seed", "repeats")


def _check(config: Config, folder: Path, trusted: Collection[str]) -> None:
    """Refuse a cell.yaml that is not as a run writes it, or names what it may not."""
    file = folder / "cell.yaml"
    problem = _problem(config)
    if problem:
        raise UnreadableFileError(file, problem)
    parts = {key: config.get(key) for key in ("evaluators", "methods", "model", "bench")}
    check_stored(parts, (Evaluator, FeatureExtractor, Method, Plugin, ReferenceImages), trusted, str(file))
    reference = (config.get("bench") or {}).get("reference")
    named = [*((one.get(TARGET), Evaluator) for one in config.get("evaluators") or ()),
             *((one.get(TARGET), Method) for one in config["methods"]),
             (reference.get(TARGET) if isinstance(reference, Mapping) else None, ReferenceImages),
             (config["model"].get(LOADER), Plugin)]
    for path, kind in named:
        if path is not None:
            stored_class(str(path), (kind,), trusted, str(file))


def _problem(config: Config) -> str | None:
    """Say what of a cell.yaml is missing, or of another type; None if all is well."""
    identity, settings, bench = (config.get(key) for key in ("identity", "settings", "bench"))
    mappings = {"identity": identity, "settings": settings, "model": config.get("model"),
                "bench": {} if bench is None else bench,
                **{f"identity.{key}": identity.get(key) if isinstance(identity, Mapping) else None
                   for key in ("model", "bench")}}
    absent = [name for name, value in mappings.items() if not isinstance(value, Mapping)]
    if absent or not isinstance(identity, Mapping) or not isinstance(settings, Mapping):
        return f"its {' and '.join(absent)} are not mappings"
    for key in ("methods", "evaluators"):
        parts = config.get(key) or []
        if not isinstance(parts, list) or not all(isinstance(one, Mapping) and _is_label(one.get("name"))
                                                  for one in parts):
            return f"its {key} are not a list of settings with names"
    if not config.get("methods"):
        return "it names no method"
    names = [config.get("cell_id"), config["model"].get("name"), identity["bench"].get("name")]
    if not all(map(_is_label, names)) or not isinstance(config.get("name"), str):
        return "its names are invalid"
    numbers = {key: settings.get(key) or 0 for key in _NUMBERS} | {"limit": settings.get("limit") or 0}
    bad = [key for key, value in numbers.items()
           if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64]
    if bad or not settings.get("repeats") or settings["repeats"] > MAX_REPEATS:
        return f"its settings have no valid {', '.join(bad) or 'repeats'}"
    overrides = settings.get("method_overrides") or {}
    sound = isinstance(overrides, Mapping) and isinstance(identity["model"].get("weights"), str)
    return None if sound and "guidance_scale" in settings else "its settings or weights are missing"


def _is_label(value: object) -> bool:
    try:
        check_label("", value)
    except HarnessError:
        return False
    return True


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
        prompts = load_prompts(bench, offline=True)
    except HarnessError:
        prompts = None
    return prompts if prompts is not None and prompts.hash == wanted else _told_by(rows, str(bench["name"]))


def _told_by(rows: Sequence[ImageRow], name: str) -> PromptSet:
    known = {row.prompt_id: row for row in rows if row.status is not Status.ERROR or row.prompt}
    prompts = tuple(PromptRow(key, row.prompt, row.category) for key, row in known.items())
    n_double = len(prompts) - len({row.prompt for row in prompts})
    note = "the prompt file is missing or different: prompts are from the stored rows, without other columns"
    return PromptSet(name=name, rows=prompts, n_file=len(prompts), n_total=len(prompts), excluded={}, excluded_ids={},
                     source="the stored rows", variant=None, file_sha256="", file_note=note, list_sha256="",
                     list_name=None, n_duplicate_prompts=n_double, n_cut=None)
