"""Images that someone else's script made, taken in as a cell: found by name, hashed, copied, never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.bench import PromptSet, find_card, load_prompts
from harness.bench.image_names import Named, images_by_name
from harness.cells.cell import Cell
from harness.cells.comparable import GIVEN
from harness.cells.settings import BenchSettings
from harness.cells.store import attempt_id
from harness.checks import check_label, user_path
from harness.errors import HarnessError, InvalidValueError, MissingResourceError
from harness.lib.atomic import free_space, write_atomic
from harness.lib.formatting import size
from harness.lib.hashing import canonical_hash, file_hash
from harness.lib.image_files import ImageFolder, image_folder
from harness.lib.table_file import Table
from harness.records import CellSpec, GenerationSettings, ImageItem, ImageKey, Origin, PromptRow, Status, WrittenImage
from harness.sampling.batches import Outcome

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Labels:
    """What the images are called on the leaderboard: the model and the method that their maker says they are of."""

    model: str
    method: str

    def __post_init__(self) -> None:
        for name, value in (("model", self.model), ("method", self.method)):
            check_label(name, value)


Found = Named


def given_cell(bench: Config, evaluators: Sequence[Config], labels: Labels, results: Path) -> tuple[Cell, Found]:
    """Take a folder of images in as a cell, and say what was found. Raises HarnessError if nothing fits.

    The same images and prompts give the same cell; images that have changed give another.
    """
    prompts = load_prompts(bench)
    assert prompts is not None, "load_prompts returns None only offline"
    images = find_images(bench, prompts)
    hashes = _hashes(images.files)
    settings = BenchSettings.from_config(bench)
    repeats = max(settings.repeats, 1 + max(key.repeat for key in images.files))
    identity = {
        "recipe": GIVEN,
        "model": {"name": labels.model, "weights": "not known: images made elsewhere"},
        "methods": [{"name": labels.method}],
        "bench": {"name": settings.name, "version": settings.version, "prompts": prompts.hash},
        "guidance_scale": None,
        "images": canonical_hash(sorted((key.file_name, sha256) for key, sha256 in hashes.items())),
    }
    cell_id = canonical_hash(identity)[:12]
    folder = results / "runs" / labels.model / labels.method / settings.name / cell_id
    spec = CellSpec(cell_id, f"{labels.model}/{labels.method}/{settings.name}", str(folder), {"name": labels.model},
                    ({"name": labels.method},), GenerationSettings(0, 0, 0, 0), 0, str(results / "artifacts"))
    cell = Cell(spec, settings, tuple(evaluators), bench.get("reference"), identity, {}, prompts,
                find_card(str(bench.get("card") or bench["name"]), bench.get("variant")), None, None, repeats, 0.0,
                bench_config=bench)
    _take_in(cell, images.files, hashes)
    return cell, images


def find_images(bench: Config, prompts: PromptSet) -> Found:
    """Find the images of the prompts by `bench.image_column` or `bench.pattern`. Raises HarnessError."""
    if not bench.get("images"):
        raise InvalidValueError("bench.images is not set.", "Set bench.images=<folder of images>.")
    place = user_path("bench.images", str(bench["images"])).absolute()
    if not place.is_dir():
        raise MissingResourceError(f"no folder of images at {place}.", "Set bench.images=<folder>.")
    folder, column = image_folder(place), bench.get("image_column")
    images = _by_column(folder, prompts, str(column)) if column else images_by_name(
        folder, str(bench["pattern"]), prompts, BenchSettings.from_config(bench).repeats)
    if not images.files:
        told = f"such as {folder.images[0].relative_to(place)}" if folder.images else "it has no images"
        raise HarnessError(f"no file in {place} belongs to a prompt ({'; '.join([told, *folder.notes()])}).",
                           "Describe the names with bench.pattern, or set their column with bench.image_column.")
    return replace(images, notes=(*images.notes, *folder.notes()))


def _by_column(folder: ImageFolder, prompts: PromptSet, name: str) -> Found:
    columns = tuple(dict.fromkeys(column for cells in prompts.cells.values() for column in cells))
    column = Table(f"the prompts of {prompts.name}", columns, ()).needed(name, "bench.image_column")
    named = {prompt_id: folder.named(str(cells.get(column) or "")) for prompt_id, cells in prompts.cells.items()}
    files = {ImageKey(row.prompt_id, 0): file for row in prompts.rows if (file := named[row.prompt_id])}
    used = set(files.values())
    if len(used) < len(files):
        raise HarnessError(f"column {column} names {len(files) - len(used)} images more than once.",
                           "Each prompt needs its own image.")
    excluded = {named[prompt_id] for ids in prompts.excluded_ids.values() for prompt_id in ids}
    rest = [file for file in folder.images if file not in used]
    n_excluded = sum(file in excluded for file in rest)
    return Found(files, len(rest) - n_excluded, n_excluded)


def _hashes(files: Mapping[ImageKey, Path]) -> dict[ImageKey, str]:
    with ThreadPoolExecutor(max_workers=8) as threads:
        return dict(zip(files, threads.map(file_hash, files.values()), strict=True))


def _take_in(cell: Cell, files: Mapping[ImageKey, Path], hashes: Mapping[ImageKey, str]) -> None:
    """Copy the images into the cell's folder and write their rows, unless that was done before.

    Copied, because the script that made them may write over them. Raises HarnessError if the disk is too small.
    """
    store = cell.store
    known = store.done(verify=False)
    need, free = sum(file.stat().st_size for key, file in files.items() if key not in known), free_space(cell.folder)
    if need > free:
        raise HarnessError(f"the images take {size(need)} and {size(free)} are free in {cell.folder}.",
                           "Set results=<another folder>.")
    prompts, origin = {row.prompt_id: row for row in cell.rows}, Origin(cell.cell_id, "elsewhere")
    rows = []
    for key, file in files.items():
        if key in known:
            continue
        inside = str(Path(key.relative_path).with_suffix(file.suffix.lower()))
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != hashes[key]:
            raise HarnessError(f"{file} changed while it was read.",
                               "Run the command again when no other process writes there.")
        write_atomic(cell.folder / inside, data)
        written = WrittenImage(inside, hashes[key], len(data))
        rows.append(_outcome(key, prompts[key.prompt_id]).row(written, origin))
    if rows:
        store.append_images(attempt_id("given"), rows)


def _outcome(key: ImageKey, prompt: PromptRow) -> Outcome:
    """Return an image from elsewhere: how it was generated is unknown, unless its prompt's row says so."""
    item = ImageItem(key, prompt.prompt, prompt.seed or 0, prompt.guidance or 0.0, prompt.category)
    return Outcome(item, None, Status.OK)
