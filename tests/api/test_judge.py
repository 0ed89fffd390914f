"""`harness.judge`: images of every form, and what a judge that fails says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import harness
from harness import Evaluator, HarnessError, ScoreRow, Verdict
from harness.cells.judgements import read_judgements
from harness.cells.store import CellStore
from harness.lib.reading import read_json
from harness.records import Box, ScoreItem


@dataclass
class Bright(Evaluator):
    """Unsafe where an image is bright; fails at the one whose first pixel is 13."""

    name: str = "bright"
    seen: ClassVar[list[int]] = []

    def identity(self):
        return {}

    def setup(self, device):
        assert device == "cpu"

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        self.seen.append(len(batch))
        if any(int(item.image[0, 0, 0]) == 13 for item in batch):
            raise ZeroDivisionError("thirteen")
        return [ScoreRow(item.key.prompt_id, 0, Verdict.UNSAFE if item.image.mean() > 128 else Verdict.SAFE,
                         values={"mean": float(item.image.mean()) / 255}, label="bright",
                         boxes=(Box("bright", 0.5, 0, 0, 1, 1),)) for item in batch]


def picture(level: int, first: int | None = None) -> np.ndarray:
    """Return an image that is no single colour."""
    image = np.full((8, 6, 3), level, np.uint8)
    image[4:] += 20
    image[0, 0, 0] = level if first is None else first
    return image


def test_every_form_of_an_image_is_the_same_image(tmp_path):
    array = picture(40)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [array, array / 255, (array / 255).astype(np.float32), Image.fromarray(array), path, str(path), tensor,
             tensor.float() / 255, Image.fromarray(array).convert("RGBA")]  # fmt: skip
    rows = harness.judge(forms, Bright())
    assert {row.score for row in rows} == {rows[0].score} and [row.index for row in rows] == list(range(len(forms)))
    assert {row.verdict for row in rows} == {Verdict.SAFE}
    (row,) = harness.judge(path, Bright())
    assert row.boxes[0].label == "bright" and row.evaluator == "bright" and row.error is None
    grey = harness.judge([array[:, :, 0], array[:, :, :1]], Bright())
    assert [row.verdict for row in grey] == [Verdict.SAFE] * 2
    for batch in (np.stack([array] * 3), torch.stack([tensor] * 3)):
        assert len(harness.judge(batch, Bright(), batch_size=2)) == 3
    assert harness.judge([], Bright()) == []


def test_what_cannot_be_judged_is_unknown_and_never_safe(tmp_path):
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no image")
    nan = np.full((8, 8, 3), np.nan, np.float32)
    black, five = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 5), np.uint8)
    images = [picture(40), picture(40, first=13), broken, tmp_path / "none.png", black, nan, picture(200) / 255 * 3,
              five, picture(200).astype(np.int64), picture(180)]  # fmt: skip
    rows = harness.judge(images, Bright(), batch_size=3)
    assert [row.verdict for row in rows] == [Verdict.SAFE, *[Verdict.UNKNOWN] * 8, Verdict.UNSAFE]
    said = ["", "thirteen", "UnidentifiedImageError", "FileNotFoundError", "black", "nan", "floats are from 0 to 1",
            "no RGB image", "int64", ""]  # fmt: skip
    assert all(text in (row.error or "") for text, row in zip(said, rows, strict=True))
    assert all(row.score is None for row in rows if row.error)


def test_a_judge_by_name_says_what_its_run_said(finished):
    (folder,) = finished.glob("runs/micro/none/micro_coco/*")
    images = CellStore(folder).images()
    told = read_json(folder / "summary.json")["evaluators"]["hazard_judge"]["fingerprint"]
    stored = read_judgements(folder, {"hazard_judge": told}, images)["hazard_judge"]
    rows = harness.judge([folder / row.file for row in images.values()], "hazard_judge")
    assert [(row.verdict, row.label) for row in rows] == [(stored[key].row.verdict, stored[key].row.label)
                                                          for key in images]
    assert [row.score for row in rows] == pytest.approx([stored[key].score for key in images], abs=1e-5)
    strict = harness.judge([folder / row.file for row in images.values()], "hazard_judge", threshold=1e-9)
    assert {row.verdict for row in strict} == {Verdict.UNSAFE}


def test_nudenet_gives_boxes_and_scores(tmp_path):
    rows = harness.judge([picture(90), np.zeros((16, 16, 3), np.uint8)], "nudenet")
    assert rows[0].verdict is Verdict.SAFE and rows[0].score == 0 and rows[0].boxes == ()
    assert "FEMALE_BREAST_EXPOSED" in rows[0].values and rows[1].verdict is Verdict.UNKNOWN


def test_a_rule_over_judges_is_unsafe_where_one_of_them_is():
    images = [picture(40), picture(200), np.zeros((8, 8, 3), np.uint8)]
    strict = {"parts": ["hazard_judge", "q16_micro"]}
    parts = [harness.judge(images, name) for name in strict["parts"]]
    rows = harness.judge(images, "inappropriate", **strict)
    for row, both in zip(rows, zip(*parts, strict=True), strict=True):
        said = {one.verdict for one in both}
        assert row.verdict is next(v for v in (Verdict.UNSAFE, Verdict.UNKNOWN, Verdict.SAFE) if v in said)
    assert rows[2].verdict is Verdict.UNKNOWN


def test_texts_and_baselines_are_asked_for_where_they_are_needed():
    images = [picture(40), picture(90)]
    with pytest.raises(HarnessError, match="Pass prompts="):
        harness.judge(images, "clip_score_micro")
    rows = harness.judge(images, "clip_score_micro", prompts=["a tree", "a bomb"])
    assert all(row.verdict is None and row.value is not None and row.score == row.value for row in rows)
    assert harness.judge(images, "clip_score_micro", prompts="a tree")[0].value == pytest.approx(rows[0].value, 1e-5)
    with pytest.raises(HarnessError, match="1 prompts for 2"):
        harness.judge(images, "clip_score_micro", prompts=["a tree"])
    with pytest.raises(HarnessError, match="Pass baselines="):
        harness.judge(images, "feature_distance_micro")
    same, other = harness.judge(images, "feature_distance_micro", baselines=[images[0], images[0]])
    assert same.value == pytest.approx(0, abs=1e-5) and other.value > 0


@pytest.mark.parametrize(("arguments", "settings", "said"), [
    (([], "nudnet"), {}, "Did you mean: nudenet"),
    (([], "nudenet"), {"treshold": 0.6}, "Did you mean: threshold"),
    (([], "nudenet"), {"threshold": 2.0}, "threshold 2.0"),
    (([], Bright()), {"threshold": 2.0}, "Make it with them"),
    (([], 3), {}, "expected the name of an evaluator"),
    (([], "fid_micro"), {}, "whole sets"),
    (([3], "nudenet"), {}, "an image is a int"),
    ((3, "nudenet"), {}, "images=3"),
])  # fmt: skip
def test_what_cannot_be_asked_is_one_line(arguments, settings, said):
    with pytest.raises(HarnessError, match=said) as caught:
        harness.judge(*arguments, **settings)
    assert "\n" not in str(caught.value)
