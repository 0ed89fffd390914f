"""How often a run asks for the same thing: 3 cells of 4 images, made, judged and reported, then the same command again.

python -m tests.speed.calls
Calls are counted in all threads of the command. `--most 30` also names the functions of the harness called most.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import harness

ROOT = Path(harness.__file__).parent
WORDS = ("method=none,negative_prompt,sld_medium", "model=micro", "bench=micro_i2p", "limit=4", "batch_size=4",
         "bench.num_inference_steps=2", "pool=inline", "pool.threads=1", "tracker=disabled")  # fmt: skip
# By the name that is printed: where its calls are, as file and qualified name; the code's former shapes count, too.
COUNTED = {
    "build": ("lib/targets.py:build",),
    "CellStore.images": ("cells/store.py:CellStore.images",),
    "files of image rows read": ("cells/tables.py:decode_images",),
    "files of score rows read": ("cells/tables.py:decode_scores", "cells/features.py:decode_features"),
    "reference_of": ("cells/reference.py:reference_of", "cells/cell.py:Cell.reference_set"),
    "settled": ("models/choice.py:settled",),
    "check_known": ("models/checks.py:check_known",),
    "missing weights looked for": ("models/weights.py:missing",),
    "weights_fingerprint": ("models/weights.py:weights_fingerprint",),
    "Cell.items": ("cells/cell.py:Cell.items",),
    "image_seed": ("records.py:image_seed",),
    "EvaluatorKey.of": ("evaluators/identity.py:EvaluatorKey.of",),
    "cell_config": ("cells/cell.py:cell_config",),
    "find_card": ("bench/card.py:find_card",),
}

Calls = Mapping[str, int]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of the harness's functions while entered, by `file:qualified name`."""
    codes: list[CodeType] = []
    prefix, found = f"{ROOT}/", Counter[str]()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(prefix):
            codes.append(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        for code, count in Counter(codes).items():
            found[f"{code.co_filename.removeprefix(prefix)}:{code.co_qualname}"] += count


def calls_of_run(results: Path, words: Sequence[str] = WORDS) -> Counter[str]:
    """Run a sweep into `results` in this process; return the calls. Exits where a cell is not complete."""
    from harness.cli.compose import compose_jobs
    from harness.run import run

    jobs = compose_jobs([*words, f"results={results}"], multirun=True)
    said = StringIO()
    with redirect_stdout(said), counted() as found:
        code = run(jobs, ["python", "-m", "harness", "-m", *words])
    if code:
        raise SystemExit(f"exit code {code}: {said.getvalue()}")
    return found


def told(found: Calls) -> dict[str, int]:
    """Return the calls that `COUNTED` names."""
    return {name: sum(found.get(place, 0) for place in places) for name, places in COUNTED.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, again = (calls_of_run(Path(folder)) for _ in range(2))
    print(f"{'calls':28} {'made':>8} {'again':>8}")
    for name, count in told(first).items():
        print(f"{name:28} {count:8} {told(again)[name]:8}")
    for place, count in first.most_common(options.most):
        print(f"{count:8} {again[place]:8}  {place}")


if __name__ == "__main__":
    main()
