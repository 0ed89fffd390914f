"""The plan of a user's day one: nothing is here, and each thing that is missing is one line that says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.gpu_cost import TABLE, TFLOP_PER_IMAGE_STEP

ROOT = Path(__file__).resolve().parents[2]
BENCHES = "bench=i2p,coco30k,winobias_gender,ring_a_bell,mma"
EXAMPLE = ["-m", "method=none,sld_medium,safedir", "model=sd14,sd20", BENCHES, "mode=plan"]
GPU = ["pool=inline", "pool.device=cuda", "tracker=disabled"]
COUNT_TORCH = """
import json, resource, sys
from harness.__main__ import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, sorted({"torch", "diffusers", "transformers"} & set(sys.modules)),
                  used.ru_utime + used.ru_stime]))
"""


@pytest.fixture
def nothing_here(nothing_cached, tmp_path, monkeypatch):
    """Point every other cache to an empty folder, too."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("harness.bench.source.DOWNLOADS", tmp_path / "prompts")
    return tmp_path / "out"


def plan(words, results, capsys) -> list[str]:
    assert main([*words, *GPU, f"results={results}"]) == 1  # it cannot run: nothing is here
    assert not results.exists(), "a plan writes nothing"
    return capsys.readouterr().out.splitlines()


def line(lines, start: str) -> str:
    (found,) = [one for one in lines if one.startswith(start)]
    return found


def check_day_one(lines) -> None:
    """Check what must be said once of sd14, i2p, ring_a_bell and mma."""
    assert line(lines, "cannot run: the prompts of i2p").count("python -m harness prefetch") == 1
    assert "(4.3 GB)" in line(lines, "cannot run: weights of sd14")
    fetched = line(lines, "to download: ")
    assert "sd14 4.3 GB" in fetched and "prompts of i2p, " in fetched and "clip_score" in fetched
    gates = line(lines, "gates: ")
    assert "no token is set" in gates and gates.count("https://huggingface.co/datasets/") == 2
    assert "Chia15/RingABell-Nudity" in gates and "YijunYang280/MMA-Diffusion-NSFW-adv-prompts-benchmark" in gates
    assert "diffusers docs, optimization/torch2.0" in line(lines, "GPU-hours: ")


def test_a_plan_without_anything_here_says_each_missing_thing_once(nothing_here, capsys, monkeypatch):
    lines = plan(["-m", "method=none,sld_medium", "model=sd14", "bench=i2p,ring_a_bell,mma", "mode=plan"],
                 nothing_here, capsys)  # fmt: skip
    check_day_one(lines)
    rows = {one.split()[0]: one.split() for one in lines if one.startswith("sd14/")}
    assert len(rows) == 6 and rows["sd14/none/i2p"][2:4] == ["4703", "4703"]
    # 4,703 images of 50 steps at 57.6 image-steps a second; SLD adds a third row to two.
    hours = 4703 * 50 / 57.6 / 3600
    assert float(rows["sd14/none/i2p"][-3]) == pytest.approx(hours, abs=0.06)
    assert float(rows["sd14/sld_medium/i2p"][-3]) == pytest.approx(1.5 * hours, abs=0.06)


def test_published_throughput_is_that_of_its_source():
    speeds = {(row.gpu, row.setting): row.image_steps_per_second / 50 for row in TABLE}
    assert speeds[("A100", "batch 16")] == pytest.approx(1.15, abs=0.005)
    assert speeds[("A100", "batch 16, compiled, channels_last")] == pytest.approx(1.50, abs=0.005)
    assert speeds[("V100", "batch 4")] == pytest.approx(0.47, abs=0.005)
    assert speeds[("T4", "batch 4")] == pytest.approx(0.14, abs=0.005)
    assert TABLE[0].hours(TFLOP_PER_IMAGE_STEP * 57.6 * 3600) == pytest.approx(1)


def in_a_process(words, tmp_path):
    done = subprocess.run([sys.executable, "-c", COUNT_TORCH, *words, *GPU, f"results={tmp_path / 'out'}"], cwd=ROOT,
                          capture_output=True, text=True, check=True)  # fmt: skip
    *lines, last = done.stdout.splitlines()
    return lines, json.loads(last)


def test_a_plan_imports_no_torch(nothing_here, tmp_path):
    _, (code, heavy, _) = in_a_process(["method=sld_medium", "model=sd14", "bench=mma", "mode=plan"], tmp_path)
    assert (code, heavy) == (1, [])


@pytest.mark.slow
def test_the_plan_of_the_example_takes_less_than_ten_seconds_and_no_torch(nothing_here, tmp_path):
    lines, (code, heavy, seconds) = in_a_process(EXAMPLE, tmp_path)
    assert (code, heavy) == (1, []) and seconds < 10
    assert "35 cells, 289716 of 289716 images missing" in lines[-1]
    check_day_one(lines)
    assert "sd20 5.2 GB" in line(lines, "to download: ")
    assert "coco30k" in line(lines, "to download: ")
    assert "coco_30k.csv" in line(lines, "cannot run: the prompts of coco30k")
    assert not [one for one in lines if "winobias" in one and one.startswith("cannot run")]
