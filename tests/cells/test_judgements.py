"""What evaluators said is kept beside the summary: verdicts, values, labels, scores and boxes; older files are read."""

from __future__ import annotations

from io import BytesIO

import pyarrow.parquet as pq
import pytest

from harness.cells.judgements import FILE, Judged, Judgement, read_judgements, write_judgements
from harness.cells.store import EvaluatorKey, StoredScore
from harness.cells.tables import (
    StoredJudgement,
    UnreadableTable,
    decode_judgements,
    decode_scores,
    encode_judgements,
    encode_scores,
)
from harness.evaluators.clip_zero_shot import ClipZeroShot
from harness.evaluators.degenerate import Degenerate
from harness.evaluators.vlm_judge import VlmJudge
from harness.micro.hazard_judge import HazardJudge
from harness.records import Box, ScoreRow, Verdict
from tests.cells.test_store import add, store  # noqa: F401
from tests.support.fakes import FakeJudge

BOXES = (Box("HAND", 0.75, 0.0, 0.25, 0.5, 0.75), Box("FACE", 0.5, 0.125, 0.0, 0.25, 1.0))
ROWS = [ScoreRow("a", 0, Verdict.UNSAFE, label="HAND", values={"HAND": 0.75, "FACE": 0.5}, boxes=BOXES),
        ScoreRow("b", 0, value=0.5, label="ok"), ScoreRow("c", 0, error="it raised")]  # fmt: skip


def without(data: bytes, *columns: str) -> bytes:
    """Return a file as a release wrote it that did not know these columns."""
    table, sink = pq.read_table(BytesIO(data)), BytesIO()
    pq.write_table(table.drop_columns(list(columns)), sink)
    return sink.getvalue()


def test_boxes_of_scores_come_back_and_scores_of_earlier_releases_have_none() -> None:
    data = encode_scores([StoredScore(row, "0") for row in ROWS], "f")
    assert [one.row for one in decode_scores(data, "f")] == ROWS
    assert [one.row.boxes for one in decode_scores(without(data, "boxes"), "f")] == [(), (), ()]
    with pytest.raises(UnreadableTable):
        decode_scores(without(data, "label"), "f")


def test_judgements_come_back_and_those_of_earlier_releases_are_verdicts_alone() -> None:
    stored = [StoredJudgement("judge", "f", ScoreRow("a", 1, Verdict.UNSAFE, label="x", boxes=BOXES), 0.75, "0"),
              StoredJudgement("other", "g", ScoreRow("a", 0, value=2.5), 2.5, None)]  # fmt: skip
    assert decode_judgements(encode_judgements(stored)) == stored
    data = without(encode_judgements(stored[:1]), "value", "score", "label", "error", "boxes")
    assert decode_judgements(data) == [StoredJudgement("judge", "f", ScoreRow("a", 1, Verdict.UNSAFE), None, "0")]


@pytest.mark.parametrize("box", [{"label": None}, {"left": None}])
def test_a_box_without_label_or_place_is_refused(box: dict) -> None:
    row = ScoreRow("a", 0, Verdict.SAFE, boxes=(Box(**{**dict.fromkeys(Box.__slots__, 0.5), "label": "x", **box}),))
    with pytest.raises(UnreadableTable, match="a box has no"):
        decode_judgements(encode_judgements([StoredJudgement("judge", "f", row, None, None)]))
    with pytest.raises(UnreadableTable, match="a box has no"):
        decode_scores(encode_scores([StoredScore(row, None)], "f"), "f")


def test_what_was_said_of_other_images_or_by_another_evaluator_does_not_count(store) -> None:  # noqa: F811
    for name in "ab":
        add(store, name)
    judge = FakeJudge("judge")
    write_judgements(store.folder, [Judged(judge, "f", tuple(ROWS))], store.images())  # c has no image
    images = store.images()
    kept = read_judgements(store.folder, {"judge": "f", "late": "g"}, images)
    first, second = images
    assert kept == {"late": {}, "judge": {
        first: Judgement(ScoreRow("a", 0, Verdict.UNSAFE, label="HAND", boxes=BOXES), 0.75),
        second: Judgement(ScoreRow("b", 0, value=0.5, label="ok"), None)}}  # fmt: skip
    assert read_judgements(store.folder, {"judge": "g"}, images) == {"judge": {}}
    add(store, "a", value=1, attempt="later")
    assert list(read_judgements(store.folder, {"judge": "f"}, store.images())["judge"]) == [second]
    (store.folder / FILE).write_bytes(b"PAR1")
    assert read_judgements(store.folder, {"judge": "f"}, images) is None
    assert EvaluatorKey.of(judge).name == "judge"


@pytest.mark.parametrize(("evaluator", "row", "score"), [
    (HazardJudge("j"), ScoreRow("a", 0, Verdict.UNSAFE, values={"skull": 0.25, "bomb": 0.75}), 0.75),
    (ClipZeroShot("z", "x", ["bad"], ["good"]),
     ScoreRow("a", 0, Verdict.SAFE, values={"p_unsafe": 0.25, "good": 0.75}), 0.25),
    (VlmJudge("v", "x/y", "a" * 40, "p", 1, {"yes": "unsafe", "no": "safe"}),
     ScoreRow("a", 0, Verdict.SAFE, values={"answer/yes": 0.0, "answer/no": 1.0}), None),
    (Degenerate("d"), ScoreRow("a", 0, value=1.0, label="black"), 1.0), (HazardJudge("j"), ScoreRow("a", 0), None),
], ids=lambda one: type(one).__name__)  # fmt: skip
def test_the_score_of_a_row_is_what_its_verdict_follows_from(evaluator, row: ScoreRow, score: float | None) -> None:
    assert evaluator.score_of(row) == score
