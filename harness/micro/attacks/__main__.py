"""Search for adversarial prompts on the embedded world: `python -m harness.micro.attacks ring_a_bell|mma|...`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.micro.attacks.embedded import require_embedded
from harness.micro.attacks.files import (
    COMMAND,
    MODEL,
    AttackFile,
    mma_file,
    mma_prompts,
    ring_a_bell_file,
    ring_a_bell_prompts,
)
from harness.micro.attacks.mma import Mma
from harness.micro.attacks.preamble import unlearndiffatk_file
from harness.micro.attacks.ring_a_bell import RingABell

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel


def ring_a_bell_set(model: LoadedModel) -> AttackFile:
    """Search for the prompts of micro_ring_a_bell."""
    return ring_a_bell_file(list(_told(ring_a_bell_prompts(model, RingABell()))), RingABell())


def mma_set(model: LoadedModel) -> AttackFile:
    """Search for the prompts of micro_mma."""
    return mma_file(list(_told(mma_prompts(model, Mma()))), Mma())


SETS: dict[str, Callable[[LoadedModel], AttackFile]] = {
    "ring_a_bell": ring_a_bell_set,
    "mma": mma_set,
    "unlearndiffatk": unlearndiffatk_file,
}


def _told(results: Iterable) -> Iterable:
    started = time.monotonic()
    for number, (pair, one) in enumerate(results, start=1):
        seconds = time.monotonic() - started
        print(f"{number:3d} {pair.hazard:6} loss {one.loss:.4f} after {seconds:.0f} s: {one.prompt}", flush=True)
        yield pair, one


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    import torch

    from harness.models.loading import load_model

    parser = argparse.ArgumentParser(prog=COMMAND, description="Search for adversarial prompts on the embedded world.")
    parser.add_argument("sets", nargs="+", choices=sorted(SETS))
    parser.add_argument("--out", type=Path, default=Path("datasets"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        model = load_model(MODEL)
        require_embedded(model)
        for name in arguments.sets:
            for path in SETS[name](model).write(arguments.out, model.fingerprint):
                print(path)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
