"""Print every figure of docs/performance.md, on a machine that does nothing else. python tests/speed/run_all.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("calls", "plans", "latency", "throughput", "workers", "memory", "training_threads")


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    codes = []
    for name in SCRIPTS:
        print(f"== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"tests.speed.{name}"], cwd=root).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
