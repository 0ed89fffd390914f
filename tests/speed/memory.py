"""Peak memory of driver and worker for 300 and for 3,000 images. python -m tests.speed.memory

Images are made in two denoising steps: how many steps there are changes time, not memory.
"""

from __future__ import annotations

import argparse
import tempfile

from tests.speed.common import BARE, watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--evaluators", default="[hazard_judge]")
    options = parser.parse_args()
    print(f"{'images':>8} {'driver MB':>10} {'worker MB':>10} {'seconds':>8}   (targets 600 and 1500 MB)")
    settings = [word for word in BARE if not word.startswith("evaluators")]
    for images in options.images:
        repeats = -(-images // 1000)
        with tempfile.TemporaryDirectory() as folder:
            peaks = watch([
                "method=none", "bench=micro_coco", f"limit={images // repeats}", f"repeats={repeats}", "batch_size=16",
                "bench.num_inference_steps=2", "pool=ray", "pool.workers=1", "pool.threads=1",
                f"evaluators={options.evaluators}", f"results={folder}", *settings,
            ])  # fmt: skip
        print(f"{images:8d} {peaks.driver_mb:10.0f} {peaks.worker_mb:10.0f} {peaks.seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
