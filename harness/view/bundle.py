"""The pages and all their data as static files, for any web host: the same addresses as the server answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.errors import InvalidValueError
from harness.lib.atomic import check_writable
from harness.lib.progress import Board
from harness.records import Status
from harness.report.grid import choose
from harness.report.run import Run
from harness.view.addresses import Addresses
from harness.view.columns import CHUNK, PAGE, Columns
from harness.view.library import Library
from harness.view.pages import INDEX, assets
from harness.view.pictures import SIZES

_AT_ONCE = 64


@dataclass(frozen=True)
class Wanted:
    """What of the images a bundle holds: at most `images` a cell (None: all), `unsafe` ones only if asked for."""

    images: int | None = None
    unsafe: bool = False


@dataclass(frozen=True)
class Bundle:
    """What was written: cells, images and their bytes, and how many images were left out for being unsafe."""

    n_cells: int
    n_images: int
    n_unsafe: int
    n_bytes: int


def check_empty(out: Path) -> None:
    """Refuse a folder that holds something: what is not replaced would be shown beside what is."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidValueError(f"bundle={out}: it is not empty.", "Choose a new or empty folder.")
    check_writable(out)


def write_bundle(results: Path, out: Path, wanted: Wanted, board: Board) -> Bundle:
    """Write the pages to `out`; the first page comes last, so that what is incomplete has none.

    `board` shows how far it is. Raises HarnessError.
    """
    check_empty(out)
    library = Library(results, leave_out=lambda run, columns: left_out(run, columns, wanted))
    library.check()
    addresses = Addresses(library, live=False, patience=None)
    bundle = Bundle(0, 0, 0, 0)
    with ThreadPoolExecutor() as threads:
        for run in library.every():
            bundle = _joined(bundle, _write_cell(addresses, run, out, wanted, threads, board))
    for address in ("leaderboard.csv", "leaderboard.json", "board.json"):
        _write(addresses, address, out)
    for name, content in sorted(assets().items(), key=lambda one: one[0] == INDEX):
        (out / name).write_bytes(content)
    addresses.close()
    return bundle


def left_out(run: Run, columns: Columns, wanted: Wanted) -> frozenset[int]:
    """Return the images whose pixels stay out: those that may be unsafe, and all beyond the number asked for.

    Which are taken does not depend on the method or on a result: the same prompts in every cell of a bench.
    """
    unsafe = set() if wanted.unsafe else {i for i, veiled in enumerate(columns.veiled) if veiled == "1"}
    if wanted.images is None:
        return frozenset(unsafe)
    taken = choose({key: ", ".join(columns.rows[i].category) for key, i in columns.index.items()}, wanted.images)
    return frozenset(unsafe | (set(range(len(columns.rows))) - {columns.index[key] for key in taken}))


def _write_cell(
    addresses: Addresses, run: Run, out: Path, wanted: Wanted, threads: ThreadPoolExecutor, board: Board
) -> Bundle:
    columns = addresses.library.columns(run.cell_id)
    assert columns is not None
    name = f"cells/{run.cell_id}"
    for address in (f"{name}.json", f"{name}/images.json", *_parts(name, columns),
                    *(f"compare/{run.cell_id}/{other}.json" for other in addresses.compared_with(run))):
        _write(addresses, address, out)
    shown = [i for i in range(len(columns.rows)) if columns.shown_hash(i)]
    label, n_bytes, waiting = f"{run.model}/{run.method}/{run.bench}/{run.cell_id[:6]}", 0, iter(shown)
    board.add(label, len(shown))
    while some := list(islice(waiting, _AT_ONCE)):
        pictures = [f"{name}/{size}/{i}.webp" for i in some for size in SIZES]
        n_bytes += sum(threads.map(lambda address: _write(addresses, address, out), pictures))
        board.advance(label, len(some))
    made = sum(row.status is Status.OK for row in columns.rows)
    n_unsafe = 0 if wanted.unsafe else sum(columns.veiled[i] == "1" for i in columns.left_out)
    return Bundle(1, len(shown), min(n_unsafe, made), n_bytes)


def _parts(name: str, columns: Columns) -> Iterator[str]:
    n = len(columns.rows)
    yield from (f"{name}/columns/{i}.json" for i in range(-(-n // CHUNK)))
    for part in ("details", "same"):
        yield from (f"{name}/{part}/{i}.json" for i in range(-(-n // PAGE)))


def _write(addresses: Addresses, address: str, out: Path) -> int:
    """Write what is at an address; return its bytes, 0 where there is nothing, such as a damaged image."""
    answer = addresses.answer(address)
    if answer is None:
        return 0
    path = out / "data" / address
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(answer.content)
    return len(answer.content)


def _joined(one: Bundle, other: Bundle) -> Bundle:
    return Bundle(one.n_cells + other.n_cells, one.n_images + other.n_images, one.n_unsafe + other.n_unsafe,
                  one.n_bytes + other.n_bytes)  # fmt: skip
