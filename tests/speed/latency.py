"""How long the command line takes to answer when it makes nothing. python -m tests.speed.latency"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

SWEEP = (
    "-m", "mode=plan", "method=none,negative_prompt,sld_weak,sld_medium,sld_strong,sld_max,safedir",
    "bench=micro_i2p,micro_coco,micro_winobias", "model=micro",
)  # fmt: skip
CASES = {
    "--help": (("--help",), 0, 1.5),
    "a typo": (("method=safdir",), 2, 1.5),
    "plan of a sweep": (SWEEP, 0, 5.0),
}


def seconds(words: tuple[str, ...], code: int) -> float:
    """Return the wall time of one call. Exits when its exit code is not `code`."""
    with tempfile.TemporaryDirectory() as folder:
        results = () if words == ("--help",) else (f"results={folder}",)
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "harness", *words, *results], capture_output=True, text=True)
        elapsed = time.perf_counter() - begun
    if done.returncode != code:
        sys.exit(f"exit code {done.returncode} instead of {code}: {' '.join(words)}\n{done.stderr}")
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5)
    options = parser.parse_args()
    for name, (words, code, target) in CASES.items():
        times = [seconds(words, code) for _ in range(options.calls)]
        print(f"{name:16} median {statistics.median(times):5.2f} s, worst {max(times):5.2f} s   (target {target} s)")


if __name__ == "__main__":
    main()
