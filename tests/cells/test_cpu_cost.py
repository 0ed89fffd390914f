"""SDXL on a CPU: the plan says the cost first, and float16 is refused before anything starts."""

from __future__ import annotations

import pytest

from harness.__main__ import main
from harness.cells import cpu_cost
from harness.cells.plan import denoiser_rows
from harness.cli.compose import compose_jobs
from harness.pool.settings import PoolSettings
from harness.run import make_cells
from tests.support.fixtures_models import random_xl_config

WORDS = ["model=sdxl", "method=none", "bench=micro_i2p", "limit=1", "pool.device=cpu", "tracker=disabled"]


def test_the_cost_of_sdxl_on_a_cpu_is_in_its_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu_cost, "gflop_per_second", lambda: 100.0)
    assert main([*WORDS, "mode=plan", f"results={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().out
    assert "note: model sdxl on a CPU: 676 TFLOP an image, at least 113 min" in said
    assert "13.9 GB in float32" in said and "set to float16, which is too slow on a CPU" in said
    assert not (tmp_path / "out").exists()


def test_half_precision_on_a_cpu_stops_a_run_in_one_line(tmp_path, capsys):
    folder = random_xl_config()["source"]
    assert main([*WORDS, f"model.source={folder}", "model.variant=null", f"results={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "model.dtype=float32" in errors[0]
    assert said.out.index("on a CPU") < said.out.index("missing, about")
    assert not (tmp_path / "out").exists()


def test_work_grows_with_pixels_steps_and_rows_and_the_embedded_model_has_none_to_warn_of():
    words = ["-m", *WORDS, "model=sdxl,micro", "mode=plan", "bench.size=512", "bench.num_inference_steps=10"]
    xl, micro = make_cells(compose_jobs(words[1:], multirun=True)).cells
    assert cpu_cost.tflop_per_image(xl, 3) == pytest.approx(6.76 / 4 * 10 * 3)
    assert cpu_cost.cpu_note(micro, 2) is None and cpu_cost.cpu_problem(micro) is None


def test_a_cluster_is_not_taken_for_a_cpu(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert PoolSettings(device="cpu").uses_cpu
    assert not PoolSettings(device="auto", address="head:6379").uses_cpu
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not PoolSettings().uses_cpu


def test_a_model_without_an_unconditional_branch_costs_one_row_a_step():
    cells = {name: make_cells(compose_jobs([f"model={name}", "method=none", "mode=plan"], multirun=False)).cells[0]
             for name in ("flux_schnell", "sd35_medium")}
    assert {name: denoiser_rows(one) for name, one in cells.items()} == {"flux_schnell": 1, "sd35_medium": 2}


def test_cells_of_unknown_work_are_named_beside_the_gpu_hours(capsys, tmp_path):
    words = ["-m", "mode=plan", "method=none", "model=sd14,if_xl", "bench=micro_i2p", f"results={tmp_path}"]
    main(words)
    said = capsys.readouterr()
    assert "cells of unknown work, not counted: 1" in said.out + said.err
