"""The image grid: same prompt and seed in a column, one row per method. Images that may be unsafe start blurred."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from harness.cells.judgements import read_judgements
from harness.cells.store import CellStore, EvaluatorKey
from harness.cells.tables import is_inside
from harness.lib.image_files import open_image
from harness.records import ImageKey, ImageRow, Status, Verdict
from harness.report.run import Data, Run

THUMBNAIL = 256
BUDGET = 2_700_000  # bytes of all thumbnails of a page, before base64 adds a third
ENOUGH = 2_400  # bytes in which a thumbnail is still clear
SIZES = ((THUMBNAIL, 85), (192, 80), (144, 75), (112, 70), (96, 60), (80, 50))  # pixels and JPEG quality, best first


@dataclass(frozen=True)
class Room:
    """How many columns of images a page has, and the bytes that a thumbnail may take."""

    columns: int
    tile: int

    @classmethod
    def of(cls, rows: int, columns: int) -> Room:
        """Return the columns, of those asked for, that `rows` rows leave room for."""
        fitting = max(1, BUDGET // (ENOUGH * max(rows, 1)))
        shown = min(columns, fitting)
        return cls(shown, BUDGET // max(rows * shown, 1))


@dataclass(frozen=True)
class Tile:
    """One image, or why there is none. `veiled` ones are blurred until clicked."""

    source: str | None
    veiled: bool
    verdict: str
    caption: str


@dataclass(frozen=True)
class Column:
    prompt: str
    seed: int
    category: str


@dataclass(frozen=True)
class GridRow:
    label: str
    method: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Grid:
    model: str
    bench: str
    columns: tuple[Column, ...]
    rows: tuple[GridRow, ...]
    total: int


def build_grid(runs: Sequence[Run], labels: Mapping[str, str], room: Room) -> Grid | None:
    """Return the columns for the runs of one model and bench, chosen by the prompt ids' hash, not by result."""
    stores = {run.cell_id: CellStore(run.folder, run.cell_id) for run in runs if run.folder}
    tables = {cell_id: store.images() for cell_id, store in stores.items()}
    shown = [run for run in runs if tables.get(run.cell_id)]
    if not shown or room.columns < 1:
        return None
    keys = _common_keys([tables[run.cell_id] for run in shown])
    known = {key: row for run in reversed(shown) for key, row in tables[run.cell_id].items() if key in keys}
    chosen = choose({key: _category(known[key]) for key in keys}, room.columns)
    rows = []
    for run in shown:
        verdicts = read_verdicts(run, stores[run.cell_id])
        tiles = tuple(_tile(run, tables[run.cell_id].get(key), verdicts.get(key, {}), room.tile) for key in chosen)
        rows.append(GridRow(labels[run.cell_id], run.method, tiles))
    columns = tuple(Column(known[key].prompt, known[key].seed, _category(known[key])) for key in chosen)
    return Grid(runs[0].model, runs[0].bench, columns, tuple(rows), len(keys))


def _common_keys(tables: Sequence[Mapping[ImageKey, ImageRow]]) -> set[ImageKey]:
    """Return the images that every run has; where there is none, those that any has."""
    return set.intersection(*map(set, tables)) or set.union(*map(set, tables))


def choose(categories: Mapping[ImageKey, str], count: int) -> list[ImageKey]:
    """Return keys in turn from every category, within it by the hash of the key."""
    by_category: dict[str, list[ImageKey]] = defaultdict(list)
    for key in sorted(categories, key=lambda k: hashlib.sha256(k.file_name.encode()).digest()):
        by_category[categories[key]].append(key)
    rounds = max((len(group) for group in by_category.values()), default=0)
    names = sorted(by_category)
    turns = [by_category[name][i] for i in range(rounds) for name in names if i < len(by_category[name])]
    return turns[:count]


def _category(row: ImageRow) -> str:
    return ", ".join(row.category)


def read_verdicts(run: Run, store: CellStore) -> dict[ImageKey, dict[str, str]]:
    """Return, for every image, what each evaluator of the summary said of it; stale verdicts do not count.

    Nothing is built: a config in a results folder is data. Of runs that an older version summed up, scores are shown
    as they were stored, and a combined judge as unsafe where any of its parts is.
    """
    evaluators = run.summary.get("evaluators") or {}
    told = {str(name): data for name, data in evaluators.items() if isinstance(data, Mapping)}
    fingerprints = {name: str(data.get("fingerprint")) for name, data in told.items()}
    kept = read_judgements(store.folder, fingerprints, store.images())
    by_image: dict[ImageKey, dict[str, str]] = defaultdict(dict)
    verdicts = _as_stored(store, told) if kept is None else {
        name: {key: one.row.verdict for key, one in said.items() if one.row.verdict} for name, said in kept.items()}
    for name, rows in verdicts.items():
        for key, verdict in rows.items():
            by_image[key][name] = verdict.value
    return by_image


def _as_stored(store: CellStore, told: Mapping[str, Data]) -> dict[str, dict[ImageKey, Verdict]]:
    verdicts: dict[str, dict[ImageKey, Verdict]] = {}
    for name, data in told.items():
        stored = data.get("scores") or {"folder": name, "fingerprint": data.get("fingerprint")}
        parts = stored.get("parts") if isinstance(stored, Mapping) else None
        if isinstance(parts, list):
            verdicts[name] = _any_unsafe([verdicts.get(str(part), {}) for part in parts])
        elif isinstance(stored, Mapping) and is_inside(str(stored.get("folder") or "")):
            rows = store.scores(EvaluatorKey(str(stored["folder"]), str(stored.get("fingerprint"))))
            verdicts[name] = {key: row.verdict for key, row in rows.items() if row.verdict}
    return verdicts


def _any_unsafe(parts: Sequence[Mapping[ImageKey, Verdict]]) -> dict[ImageKey, Verdict]:
    keys = set.intersection(*map(set, parts)) if parts else set()
    return {key: next(v for v in (Verdict.UNSAFE, Verdict.UNKNOWN, Verdict.SAFE) if v in {part[key] for part in parts})
            for key in keys}


def _tile(run: Run, row: ImageRow | None, verdicts: Mapping[str, str], most: int) -> Tile:
    """Blur whatever is not known to be safe: an unsafe bench, an unsafe or unknown verdict."""
    verdict = _worst(run, verdicts)
    veiled = run.unsafe_content or any(v != Verdict.SAFE for v in verdicts.values())
    if row is None:
        return Tile(None, False, "", "not generated")
    if row.status is not Status.OK or not row.file:
        return Tile(None, False, "", row.status.value)
    source = _data_url(run.folder, row.file, most) if run.folder else None
    said = ", ".join(f"{name}: {v}" for name, v in verdicts.items())
    return Tile(source, veiled, verdict, said if source else "unreadable file")


def _worst(run: Run, verdicts: Mapping[str, str]) -> str:
    """Return the primary evaluator's verdict, else the worst that was said."""
    name = (run.safety or "").partition("/")[2]
    if name in verdicts:
        return verdicts[name]
    return next((v for v in (Verdict.UNSAFE, Verdict.UNKNOWN, Verdict.SAFE) if v in verdicts.values()), "")


def _data_url(folder: Path, file: str, most: int = BUDGET) -> str | None:
    """Return the image as a data URL, the largest of `SIZES` that fits in `most` bytes; None if it cannot be read."""
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        with open_image(path) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    data = _encoded(picture, "PNG") if max(picture.size) <= 96 else b""
    kind = "png"
    if not 0 < len(data) <= most:
        kind, data = "jpeg", _fitting(picture, most)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _fitting(picture: Image.Image, most: int) -> bytes:
    data = b""
    for size, quality in SIZES:
        small = picture.copy()
        small.thumbnail((size, size))
        data = _encoded(small, "JPEG", quality=quality, optimize=True)
        if len(data) <= most:
            break
    return data


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
