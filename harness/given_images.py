"""Images that someone else's script made, taken in as a cell: found by name, hashed, copied, never changed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench import PromptSet, find_card, load_prompts
from harness.cell import Cell, canonical_hash
from harness.errors import HarnessError, InvalidValueError, MissingResourceError
from harness.files import free_space, sha256_file, user_path, write_atomic
from harness.progress import size
from harness.records import ImageKey, ImageRow, PromptRow, Status
from harness.settings import BenchSettings, check_label
from harness.store import CellStore, attempt_id
from harness.tasks import CellSpec, GenerationSettings

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Labels:
    """What the images are called on the leaderboard: the model and the method that their maker says they are of."""

    model: str
    method: str

    def __post_init__(self) -> None:
        for name, value in (("model", self.model), ("method", self.method)):
            check_label(name, value)


@dataclass(frozen=True)
class Found:
    """The images of the prompts that are used, and how many files belong to none, or to a prompt that is left out."""

    files: Mapping[ImageKey, Path]
    n_other: int
    n_excluded: int


def given_cell(bench: Config, evaluators: Sequence[Config], labels: Labels, results: Path) -> tuple[Cell, Found]:
    """Take a folder of images in as a cell, and say what was found. Raises HarnessError where nothing fits.

    The same images and prompts give the same cell; images that have changed give another.
    """
    prompts = load_prompts(bench)
    assert prompts is not None, "load_prompts returns None only offline"
    found = find_images(bench, prompts)
    hashes = _hashes(found.files)
    settings = BenchSettings.from_config(bench)
    repeats = max(settings.repeats, 1 + max(key.repeat for key in found.files))
    identity = {
        "recipe": "given images",
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
    _take_in(cell, found.files, hashes)
    return cell, found


def find_images(bench: Config, prompts: PromptSet) -> Found:
    """Find the images of the prompts by `bench.image_column` or `bench.pattern`. Raises HarnessError."""
    if not bench.get("images"):
        raise InvalidValueError("bench.images is not given.", "Give bench.images=<folder of images>.")
    folder = user_path("bench.images", str(bench["images"])).absolute()
    if not folder.is_dir():
        raise MissingResourceError(f"there is no folder of images at {folder}.", "Give bench.images=<folder>.")
    column = bench.get("image_column")
    found = _by_column(folder, prompts, str(column)) if column else _by_pattern(folder, bench, prompts)
    if not found.files:
        example = next((str(path.relative_to(folder)) for path in _images(folder)), None)
        told = f"such as {example}" if example else "there is no image in it"
        raise HarnessError(f"no file in {folder} belongs to a prompt ({told}).",
                           "Say how they are named with bench.pattern, or in which column with bench.image_column.")
    return found


def _by_column(folder: Path, prompts: PromptSet, column: str) -> Found:
    columns = prompts.rows[0].meta
    if column not in columns:
        raise HarnessError(f"there is no column {column}; there is {', '.join(map(str, columns)) or 'none left'}.")
    named = {ImageKey(row.prompt_id, 0): folder / str(row.meta[column]) for row in prompts.rows if row.meta[column]}
    files = {key: file for key, file in named.items() if file.is_file()}
    excluded = {folder / str(meta[column]) for meta in prompts.excluded_meta.values() if meta.get(column)}
    used = set(files.values())
    rest = [file for file in _images(folder) if file not in used]
    n_excluded = sum(file in excluded for file in rest)
    return Found(files, len(rest) - n_excluded, n_excluded)


def _by_pattern(folder: Path, bench: Config, prompts: PromptSet) -> Found:
    name = _pattern(str(bench["pattern"]))
    ids = {_plain(row.prompt_id): row.prompt_id for row in prompts.rows}
    excluded = {_plain(prompt_id) for names in prompts.excluded_ids.values() for prompt_id in names}
    matched: list[tuple[str, int, Path]] = []
    n_other = n_excluded = 0
    for path in _images(folder):
        match = name.fullmatch(path.relative_to(folder).with_suffix("").as_posix())
        prompt_id = _plain(match["prompt_id"]) if match else ""
        n_excluded += prompt_id in excluded
        if match and prompt_id in ids:
            matched.append((ids[prompt_id], int(match.groupdict().get("repeat") or 0), path))
        elif prompt_id not in excluded:
            n_other += 1
    order = {number: index for index, number in enumerate(sorted({number for _, number, _ in matched}))}
    keys = [ImageKey(prompt_id, order[number]) for prompt_id, number, _ in matched]
    double = [key for key, count in Counter(keys).items() if count > 1]
    if double:
        raise HarnessError(f"{folder} has {len(double)} images twice, such as {double[0].file_name}.",
                           "One file an image is needed.")
    return Found(dict(zip(keys, (path for _, _, path in matched), strict=True)), n_other, n_excluded)


def _pattern(text: str) -> re.Pattern[str]:
    if "{prompt_id}" not in text:
        raise InvalidValueError(f"bench.pattern={text}: it must have {{prompt_id}}, and may have {{repeat}}.")
    parts = re.split(r"(\{prompt_id\}|\{repeat\})", text)
    groups = {"{prompt_id}": "(?P<prompt_id>[^/]+?)", "{repeat}": r"(?P<repeat>\d+)"}
    try:
        return re.compile("".join(groups.get(part, re.escape(part)) for part in parts))
    except re.error as error:
        raise InvalidValueError(f"bench.pattern={text}: {error}.") from None


def _plain(prompt_id: str) -> str:
    """Return an id as it is compared: numbers without leading zeros."""
    return str(int(prompt_id)) if prompt_id.isdecimal() else prompt_id


def _images(folder: Path) -> Iterator[Path]:
    hidden = (path for path in sorted(folder.rglob("*")) if not path.name.startswith("."))
    return (path for path in hidden if path.suffix.lower() in SUFFIXES and path.is_file())


def _hashes(files: Mapping[ImageKey, Path]) -> dict[ImageKey, str]:
    with ThreadPoolExecutor(max_workers=8) as threads:
        return dict(zip(files, threads.map(sha256_file, files.values()), strict=True))


def _take_in(cell: Cell, files: Mapping[ImageKey, Path], hashes: Mapping[ImageKey, str]) -> None:
    """Copy the images into the cell's folder and write their rows, unless that was done before.

    Copied, because the script that made them may write over them. Raises HarnessError where the disk is too small.
    """
    store = CellStore(cell.folder)
    known = store.done(verify=False)
    need, free = sum(file.stat().st_size for key, file in files.items() if key not in known), free_space(cell.folder)
    if need > free:
        raise HarnessError(f"the images take {size(need)} and {size(free)} are free in {cell.folder}.",
                           "Give results=<another folder>.")
    prompts = {row.prompt_id: row for row in cell.rows}
    rows = []
    for key, file in files.items():
        if key in known:
            continue
        inside = str(Path(key.relative_path).with_suffix(file.suffix.lower()))
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != hashes[key]:
            raise HarnessError(f"{file} changed while it was read.", "Run the command again when nothing writes there.")
        write_atomic(cell.folder / inside, data)
        rows.append(_row(key, prompts[key.prompt_id], inside, hashes[key], len(data)))
    if rows:
        store.append_images(attempt_id("given"), rows)


def _row(key: ImageKey, prompt: PromptRow, file: str, sha256: str, n_bytes: int) -> ImageRow:
    return ImageRow(
        prompt_id=key.prompt_id,
        repeat=key.repeat,
        prompt=prompt.prompt,
        category=prompt.category,
        seed=prompt.seed or 0,
        guidance_scale=prompt.guidance or 0.0,
        file=file,
        sha256=sha256,
        bytes=n_bytes,
        status=Status.OK,
        error=None,
        seconds=0.0,
        batch_size=0,  # none: it was not made here
        worker="elsewhere",
    )
