"""What a change of the code's shape must leave alone: `python -m tests.goldens` after it, `--save` before it.

Cell ids, artifact keys and evaluator fingerprints are the same on every machine: tests/goldens.json holds them, and
tests/cells/test_goldens.py compares. Where a version was raised on purpose, `--save` writes them anew, and the diff
of the file says what changed. `--images FILE` also draws images by every method on a model of random weights; their
bytes are those of one machine with its packages, so that FILE is not kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.cells.job import Job
from harness.cli.compose import compose_jobs, config_names
from harness.evaluator import CompositeEvaluator
from harness.evaluators.identity import evaluator_fingerprint
from harness.lib.targets import build
from harness.run import make_cells
from harness.training.artifacts import artifact_keys, base_identity
from tests.support.methods_registry import KINDS, PRESETS

FILE = Path(__file__).parent / "goldens.json"
BENCHES = ("micro_i2p", "micro_winobias")
LISTS = ("[safedir,sld_medium]", "[hfi_proxy,sdd]", "[negative_prompt,uce]", "[uce,esd_x]")
SAMPLED = ("none", "safree", "trasce", "safedir")  # the last three propose their releases' sampling
WITHOUT_PIPELINE = ("local", "paella")

Goldens = dict[str, dict[str, Any]]


def identities() -> Goldens:
    """Return what names results on disk, by kind and by what it names. Loads no model, trains nothing."""
    cells: dict[str, str] = {}
    keys: dict[str, list[str]] = {}
    for cell in make_cells(list(_jobs())).cells:
        name = f"{cell.label}, seed {cell.spec.seed}, {cell.spec.settings.num_inference_steps} steps"
        cells[name] = cell.cell_id
        trained = artifact_keys([build(config) for config in cell.spec.methods], base_identity(cell.spec.model))
        keys |= {name: [key for key in trained if key]} if any(trained) else {}
    return {"cells": cells, "artifacts": keys, "evaluators": dict(_fingerprints())}


def _jobs() -> Iterator[Job]:
    models = [name for name in config_names("model") if name not in WITHOUT_PIPELINE]
    _, second = compose_jobs([f"bench={','.join(BENCHES)}"], multirun=True)
    for job in compose_jobs([f"method={','.join((*PRESETS, *LISTS))}", f"bench={BENCHES[0]}"], multirun=True):
        if not any(KINDS[build(config).kind].files for config in job.methods):
            yield job
            yield replace(job, bench=second.bench)
    yield from compose_jobs([f"method={','.join(SAMPLED)}", f"model={','.join(models)}"], multirun=True)
    for words in (["method=sld_max", "seed=1", "bench.num_inference_steps=7"],
                  ["method=safedir", "method.start=3", "method.training.eta=5"]):
        yield from compose_jobs(words, multirun=False)


def _fingerprints() -> Iterator[tuple[str, str]]:
    names = config_names("evaluator")
    (job,) = compose_jobs([f"evaluators=[{','.join(names)}]"], multirun=False)
    built = {str(config["name"]): build(config) for config in job.evaluators}
    for name in names:
        own = built[name]
        parts = own.parts if isinstance(own, CompositeEvaluator) else ()
        yield name, evaluator_fingerprint(own, {part: built[part] for part in parts})


def images() -> Goldens:
    """Return the sha256 of three images of every method, trained in a few steps on a model of random weights."""
    from tests.methods.test_methods_contract import draw, tiny

    return {"images": {preset: hashlib.sha256(draw(tiny(preset)).tobytes()).hexdigest() for preset in PRESETS}}


def differences(before: Goldens, after: Goldens) -> list[str]:
    """Return a line for each name whose value is another one, is gone, or is new."""
    lines = []
    for kind in sorted({*before, *after}):
        old, new = before.get(kind, {}), after.get(kind, {})
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                lines.append(f"{kind}: {name}: {old.get(name, 'nothing')} -> {new.get(name, 'nothing')}")
    return lines


def main(argv: Sequence[str]) -> int:
    """Save or compare. Return 1 where something differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.goldens", description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--images", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    wanted: list[tuple[Path, Goldens]] = [(FILE, identities())]
    if arguments.images:
        wanted.append((arguments.images, images()))
    if arguments.save:
        for file, values in wanted:
            file.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
        return 0
    found = [line for file, values in wanted for line in differences(json.loads(file.read_text()), values)]
    print("\n".join(found) or "nothing differs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
