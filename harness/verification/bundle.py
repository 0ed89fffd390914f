"""Bundles of verified runs for a public board: rows, verdicts, provenance and hashes; no images, no prompts, no names.

A prompt stands as its hash, so that prompts of one text stay one cluster; rows are in the order of the run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.cells.attacked import FILE as ATTACKED
from harness.cells.hashes import write_hashes
from harness.cells.judgements import FILE as JUDGEMENTS
from harness.cells.provenance import made_on
from harness.cells.store import CellStore
from harness.cells.stored_cell import baseline_folder, stored_cell
from harness.cells.tables import StoredJudgement, decode_judgements, encode_images, encode_judgements, is_inside
from harness.errors import HarnessError, InvalidValueError
from harness.lib.atomic import write_atomic
from harness.lib.hashing import file_hash, text_hash
from harness.lib.reading import parse_json, read_bytes, read_json
from harness.lib.version import __version__
from harness.records import ImageRow
from harness.verification.verify import Verified, verify_run

FILE, SCHEMA = "bundle.json", 1
COPIED = ("summary.json", ATTACKED)
PRIVATE = frozenset({"user", "host", "hostname", "pid", "ip"})
README = """\
# Runs of the responsible text-to-image harness

Rows, verdicts, numbers and provenance of {count} runs. There are no images; prompts stand as hashes of their texts.
`bundle.json` has the sha256 of every file. To count every number again from the rows:

    python -m harness verify <this folder>
"""


@dataclass(frozen=True)
class Bundle:
    """What was written."""

    folder: Path
    runs: tuple[Path, ...]
    baselines: tuple[Path, ...]
    n_bytes: int


def is_bundle(place: Path) -> bool:
    """Return whether a folder is a bundle."""
    return (place / FILE).is_file()


def write_bundle(
    folders: Sequence[Path], out: Path, benches: Mapping[str, Any] | None = None, trusted: Sequence[str] = ()
) -> Bundle:
    """Write the bundle of runs, with those that they are compared with. Raises HarnessError for what it refuses.

    Refused are runs that are not complete, and those whose files or numbers do not match.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidValueError(f"{out} already exists and is not empty.", "Choose a new folder: out=FOLDER.")
    runs = list(dict.fromkeys(folder.resolve() for folder in folders))
    baselines = [one for one in dict.fromkeys(filter(None, map(baseline_folder, runs))) if one not in runs]
    for folder in (*runs, *baselines):
        _check(verify_run(folder, benches, trusted))
    try:
        for folder in (*runs, *baselines):
            _copy(folder, out / _place(folder), benches or {}, trusted)
        _finish(out, [_place(folder) for folder in runs], [_place(folder) for folder in baselines])
        for checked in verify_bundle(out, benches, trusted):
            _check(checked)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Bundle(out, tuple(runs), tuple(baselines), n_bytes)


def _check(checked: Verified) -> None:
    if checked.status != "complete":
        raise HarnessError(f"{checked.folder} is {checked.status}, and only complete runs are submitted.",
                           "Run its command again.")
    if not (checked.folder / JUDGEMENTS).is_file():
        raise HarnessError(f"{checked.folder} has no {JUDGEMENTS}: it was made by an earlier release.",
                           f"python -m harness score {checked.folder} writes it.")
    if checked.problems:
        more = f" and {len(checked.problems) - 1} more" if len(checked.problems) > 1 else ""
        raise HarnessError(f"{checked.folder} is not verified: {checked.problems[0]}{more}.",
                           f"python -m harness verify {checked.folder} lists what does not match.")


def _place(folder: Path) -> Path:
    return Path("runs", *folder.parts[-4:])


def _copy(folder: Path, target: Path, benches: Mapping[str, Any], trusted: Sequence[str]) -> None:
    """Write what a run's numbers follow from. Raises HarnessError."""
    cell = stored_cell(folder, benches, None, trusted)
    rows = [_public(row) for row in cell.images().values()]
    (target / "rows").mkdir(parents=True)
    write_atomic(target / "rows" / "rows.parquet", encode_images(rows))
    for name in COPIED:
        if (folder / name).is_file():
            write_atomic(target / name, _without_home((folder / name).read_text(encoding="utf-8")).encode())
    config = CellStore(folder).read_cell() or {}
    rest = {key: value for key, value in config.items() if key != "identity"}
    CellStore(target).write_cell({**parse_json(_without_home(json.dumps(rest))), "identity": config["identity"]})
    write_atomic(target / JUDGEMENTS, encode_judgements(map(_public_judgement, _judgements(folder))))
    told = {**_without_names(read_json(folder / "provenance.json") or {}), "made_on": made_on(rows)}
    write_atomic(target / "provenance.json",
                 _without_home(json.dumps(told, indent=2, ensure_ascii=False)).encode())
    write_hashes(target)


def _judgements(folder: Path) -> list[StoredJudgement]:
    return decode_judgements(read_bytes(folder / JUDGEMENTS) or b"")


def _public_judgement(one: StoredJudgement) -> StoredJudgement:
    """Return a judgement that anyone may see: why an evaluator failed may name files."""
    return one if one.row.error is None else replace(one, row=replace(one.row, error="failed"))


def _without_home(text: str) -> str:
    return text.replace(str(Path.home()), "~")


def _public(row: ImageRow) -> ImageRow:
    """Return a row that anyone may see: its prompt as a hash, without the names of machines."""
    prompt, worker = f"sha256:{text_hash(row.prompt)[:32]}", text_hash(row.worker)[:8]
    error = None if row.error is None else "failed"
    return replace(row, prompt=prompt, worker=worker, error=error, host=None)


def _without_names(told: Any) -> Any:
    if isinstance(told, Mapping):
        return {key: _without_names(value) for key, value in told.items() if key not in PRIVATE}
    return [_without_names(one) for one in told] if isinstance(told, list) else told


def _finish(out: Path, runs: Sequence[Path], baselines: Sequence[Path]) -> None:
    write_atomic(out / "README.md", README.format(count=len(runs) + len(baselines)).encode())
    files = {path.relative_to(out).as_posix(): file_hash(path) for path in sorted(out.rglob("*")) if path.is_file()}
    told = {"schema": SCHEMA, "harness": __version__, "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": [str(run) for run in runs], "baselines": [str(run) for run in baselines], "images": 0,
            "prompts": "sha256", "files": files}  # fmt: skip
    write_atomic(out / FILE, f"{json.dumps(told, indent=1)}\n".encode())


def verify_bundle(
    place: Path, benches: Mapping[str, Any] | None = None, trusted: Sequence[str] = ()
) -> list[Verified]:
    """Check a bundle as its receiver does: each file against bundle.json, each number against the rows.

    The first of the runs has the problems of the bundle itself. Raises HarnessError where it is none.
    """
    told: dict[str, Any] = read_json(place / FILE) or {}
    files = told.get("files")
    names = [*(told.get("runs") or ()), *(told.get("baselines") or ())]
    if told.get("schema") != SCHEMA or not isinstance(files, dict) or not names or not all(
            isinstance(name, str) and is_inside(name) for name in (*names, *files)):
        raise InvalidValueError(f"{place / FILE} is not of bundle schema {SCHEMA}, or names no runs.")
    problems = _problems(place, files)
    checked = [verify_run(place / name, benches, trusted, is_bundle=True) for name in names]
    return [replace(checked[0], problems=(*problems, *checked[0].problems)), *checked[1:]]


def _problems(place: Path, files: Mapping[str, str]) -> list[str]:
    """Say which files are not those that bundle.json names."""
    there = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*"))
             if path.is_file() or path.is_symlink()}
    problems = [f"{name}: {FILE} does not name it" for name in there if name not in files and name != FILE]
    for name, sha256 in files.items():
        path = there.get(name)
        if path is None:
            problems.append(f"{name}: missing")
        elif path.is_symlink() or file_hash(path) != sha256:
            problems.append(f"{name}: not of the sha256 in {FILE}")
    return problems
