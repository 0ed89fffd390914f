"""Images per second of two Ray workers of one thread each over those of one. python -m tests.speed.workers"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from harness.pool import make_pool
from tests.speed.common import make_slice, plan_images


def rate(workers: int, images: int, batch: int) -> float:
    """Return images per second of so many workers of one thread, once they are warm."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_images(("method=none", "bench=micro_coco", f"batch_size={batch}"), Path(folder))
        config = {"name": "ray", "workers": workers, "threads": 1, "device": "cpu"}
        warm_up = 4 * workers * batch  # enough shards for every worker to load the model
        with make_pool(config, Path(folder)) as pool:
            make_slice(pool, plan, 0, warm_up, shard_size=batch)
            seconds = make_slice(pool, plan, warm_up, images, shard_size=2 * batch)
            if len(pool.workers()) != workers:
                raise SystemExit(f"{len(pool.workers())} of {workers} workers were there")
    return images / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    one, two = (rate(workers, options.images, options.batch) for workers in (1, 2))
    print(f"one worker    {one:7.2f} images/s")
    print(f"two workers   {two:7.2f} images/s")
    print(f"ratio         {two / one:7.3f}   (target 1.7)")


if __name__ == "__main__":
    main()
