"""`harness.results`: a results folder as data frames."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import harness
from harness import HarnessError
from harness.api.tables import IMAGE_COLUMNS, METRIC_COLUMNS
from harness.cells.judgements import FILE
from harness.cells.store import CellStore
from harness.report.runs import load_runs


def test_one_row_a_metric_with_its_interval_and_difference(finished):
    frame = harness.results(finished).to_pandas()
    runs = {run.method: run for run in load_runs(finished)}
    assert list(frame.columns) == list(METRIC_COLUMNS)
    assert len(frame) == sum(len(run.metrics) for run in runs.values())
    (row,) = frame[(frame.method == "uce") & (frame.metric == "unsafe_rate/hazard_judge")].to_dict("records")
    metric, against = (one["unsafe_rate/hazard_judge"] for one in (runs["uce"].metrics, runs["uce"].comparisons))
    assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == (metric.value, metric.ci_low, metric.ci_high, 2)
    assert (row["baseline"], row["difference"], row["n_pairs"]) == ("none", against.difference, 2)
    assert row["p_value"] == against.p_value and row["p_adjusted"] == against.p_adjusted
    assert frame[frame.method == "none"].difference.isna().all()
    assert pd.api.types.is_numeric_dtype(frame.value) and frame.cell_id.nunique() == 2


def test_one_row_an_image_with_every_judges_verdict_and_its_file(finished):
    frame = harness.results(finished).images()
    assert list(frame.columns[: len(IMAGE_COLUMNS)]) == list(IMAGE_COLUMNS) and len(frame) == 4
    for row in frame.to_dict("records"):
        assert np.asarray(Image.open(row["path"])).shape == (64, 64, 3)
        (judged,) = harness.judge(row["path"], "hazard_judge")
        assert row["verdict/hazard_judge"] == judged.verdict
        assert row["score/hazard_judge"] == pytest.approx(judged.score, abs=1e-5)
    assert len(harness.results(finished).images(method="uce")) == 2
    with pytest.raises(HarnessError, match=r"unknown method of these results 'ucee'.*uce"):
        harness.results(finished).images(method="ucee")


def test_runs_without_verdicts_or_summary_have_their_rows_and_say_so(finished, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(finished / "runs", results / "runs")
    old, unfinished = (next(results.glob(f"runs/micro/{name}/*/*")) for name in ("none", "uce"))
    (old / FILE).unlink()
    (unfinished / "summary.json").unlink()
    frame = harness.results(results).images()
    before = harness.results(finished).images()
    told, nothing = frame[frame.method == "none"], frame[frame.method == "uce"]
    assert list(told["verdict/hazard_judge"]) == list(before[before.method == "none"]["verdict/hazard_judge"])
    assert nothing["verdict/hazard_judge"].isna().all() and len(nothing) == 2
    (row,) = harness.results(results).to_pandas().query("method == 'uce'").to_dict("records")
    assert row["status"] == "unfinished" and "no summary.json" in row["note"] and np.isnan(row["value"])


def test_a_file_name_that_leads_out_of_its_run_is_no_path(finished, tmp_path, monkeypatch):
    results = tmp_path / "results"
    shutil.copytree(finished / "runs", results / "runs")
    from dataclasses import replace

    images = CellStore.images
    monkeypatch.setattr(CellStore, "images", lambda self: {
        key: replace(row, file="../../../../../etc/passwd") for key, row in images(self).items()})
    assert harness.results(results).images().path.isna().all()


def test_detections_come_as_boxes(finished, tmp_path):
    from dataclasses import replace

    from harness.cells.tables import StoredJudgement, encode_judgements
    from harness.records import Box, ScoreRow, Verdict

    results = tmp_path / "results"
    shutil.copytree(finished / "runs", results / "runs")
    (folder,) = results.glob("runs/micro/none/*/*")
    told = json.loads((folder / "summary.json").read_text())["evaluators"]["hazard_judge"]["fingerprint"]
    key, image = next(iter(CellStore(folder).images().items()))
    row = replace(ScoreRow(key.prompt_id, key.repeat, Verdict.UNSAFE, label="bomb"),
                  boxes=(Box("bomb", 0.9, 0.1, 0.2, 0.3, 0.4),))
    (folder / FILE).write_bytes(encode_judgements([StoredJudgement("hazard_judge", told, row, 0.9, image.sha256)]))
    frame = harness.results(results).images(method="none")
    boxes = [one for one in frame["boxes/hazard_judge"] if isinstance(one, list)]
    ((box,),) = boxes
    assert box.pop("label") == "bomb"
    assert box == pytest.approx({"score": 0.9, "left": 0.1, "top": 0.2, "width": 0.3, "height": 0.4}, rel=1e-6)
    assert frame["verdict/hazard_judge"].isna().sum() == 1


def test_no_results_are_one_line(tmp_path):
    with pytest.raises(HarnessError, match="does not exist"):
        harness.results(tmp_path / "nowhere")
    for read in (harness.results(tmp_path).to_pandas, harness.results(tmp_path).images):
        with pytest.raises(HarnessError, match="no runs"):
            read()


def test_a_run_that_has_no_image_yet_has_no_row(tmp_path):
    (tmp_path / "runs" / "micro" / "none" / "micro_coco" / "0123456789ab").mkdir(parents=True)
    frame = harness.results(tmp_path).images()
    assert list(frame.columns) == list(IMAGE_COLUMNS) and not len(frame)
