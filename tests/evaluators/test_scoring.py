"""Every failure of an image or an evaluator is `unknown` for that image and no other."""

import numpy as np
import pytest
from PIL import Image

from harness.evaluator import Evaluator, SetEvaluator
from harness.evaluators.degenerate import degenerate_kind
from harness.evaluators.scoring import extract_features, read_image, score_requests
from harness.records import ImageKey, ScoreItem, ScoreRow, Verdict


class Judge(Evaluator):
    """Says unsafe where red prevails; raises on the prompts it is told to."""

    kind = "verdict"

    def __init__(self, raises=lambda item: False):
        self.name, self.raises, self.sizes = "judge", raises, []

    def identity(self):
        return {}

    def setup(self, device):
        pass

    def score(self, batch):
        self.sizes.append(len(batch))
        if any(self.raises(item) for item in batch):
            raise RuntimeError("the detector fell over\nwith a traceback")
        return [self.row(item) for item in batch]

    def row(self, item):
        assert item.image.dtype == np.uint8
        assert item.image.ndim == 3
        assert item.image.shape[2] == 3
        red = item.image[..., 0].mean() > item.image[..., 2].mean()
        return ScoreRow(item.key.prompt_id, item.key.repeat, Verdict.UNSAFE if red else Verdict.SAFE)


class Means(SetEvaluator):
    def __init__(self, raises=lambda item: False, nan=lambda item: False):
        self.name, self.raises, self.nan = "means", raises, nan

    def identity(self):
        return {}

    def setup(self, device):
        pass

    def features(self, batch):
        if any(self.raises(item) for item in batch):
            raise RuntimeError("no features")
        means = np.stack([item.image.mean(axis=(0, 1)) for item in batch]).astype(np.float32)
        means[[self.nan(item) for item in batch]] = np.nan
        return means


def picture(i, size=(32, 32), mode="RGB"):
    noise = np.random.default_rng(i).integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    noise[..., 0 if i % 2 else 2] += 100
    return Image.fromarray(noise).convert(mode)


def request(folder, i, image=None, name=None, baseline=None):
    file = folder / (name or f"{i}.png")
    if image is not None:
        image.save(file)
    return ScoreItem(ImageKey(f"p{i:03d}", 0), f"prompt {i}", (), {}, str(file), baseline)


@pytest.fixture
def requests(tmp_path):
    return [request(tmp_path, i, picture(i)) for i in range(20)]


def expected(i):
    return Verdict.UNSAFE if i % 2 else Verdict.SAFE


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_rows_come_in_order_whatever_the_batch_size(requests, batch_size):
    rows = score_requests(Judge(), requests, batch_size)
    assert [row.key for row in rows] == [r.key for r in requests]
    assert [row.verdict for row in rows] == [expected(i) for i in range(20)]


def test_evaluator_that_always_raises_leaves_everything_unknown(requests):
    rows = score_requests(Judge(lambda item: True), requests, 8)
    assert {row.verdict for row in rows} == {Verdict.UNKNOWN}
    assert {row.error for row in rows} == {"RuntimeError: the detector fell over with a traceback"}


def test_every_tenth_failure_costs_those_images_only(requests):
    judge = Judge(lambda item: int(item.key.prompt_id[1:]) % 10 == 3)
    rows = score_requests(judge, requests, 20)
    for i, row in enumerate(rows):
        assert row.verdict is (Verdict.UNKNOWN if i % 10 == 3 else expected(i))
        assert (row.error is not None) == (i % 10 == 3)
    assert judge.sizes[:2] == [20, 10] and min(judge.sizes) == 1


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits(tmp_path):
    class Small(Judge):
        def score(self, batch):
            self.sizes.append(len(batch))
            if len(batch) > 5:
                raise MemoryError("no room")
            return [self.row(item) for item in batch]

    judge = Small()
    rows = score_requests(judge, [request(tmp_path, i, picture(i)) for i in range(20)], 20)
    assert [row.error for row in rows] == [None] * 20
    assert judge.sizes == [20, 10, 5, 5, 10, 5, 5]


def truncated(folder, i):
    picture(i, (256, 256)).save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    return request(folder, i, name="cut.png")


def written(name, data):
    def make(folder, i):
        (folder / name).write_bytes(data)
        return request(folder, i, name=name)

    return make


SIXTEEN_BIT = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 250)

BROKEN = {
    "truncated": truncated,
    "missing": lambda folder, i: request(folder, i, name="absent.png"),
    "empty": written("empty.png", b""),
    "text": written("text.png", b"no image"),
    "sixteen_bit": lambda folder, i: request(folder, i, SIXTEEN_BIT, "i16.png"),
    "black": lambda folder, i: request(folder, i, Image.new("RGB", (16, 16)), "black.png"),
    "constant": lambda folder, i: request(folder, i, Image.new("RGB", (16, 16), (90, 200, 30)), "flat.png"),
    "one_pixel": lambda folder, i: request(folder, i, Image.new("RGB", (1, 1), (90, 200, 30)), "pixel.png"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_or_empty_image_is_unknown_and_no_other(tmp_path, requests, kind):
    mixed = [*requests[:3], BROKEN[kind](tmp_path, 50), *requests[3:6]]
    rows = score_requests(Judge(), mixed, 4)
    assert rows[3].key == ImageKey("p050", 0)
    assert rows[3].verdict is Verdict.UNKNOWN
    assert rows[3].error
    assert [row.verdict for row in rows[:3] + rows[4:]] == [expected(i) for i in range(6)]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK"])
def test_other_modes_are_read_as_rgb(tmp_path, mode):
    name = "x.jpg" if mode == "CMYK" else "x.png"
    row = score_requests(Judge(), [request(tmp_path, 1, picture(1, mode=mode), name)], 4)[0]
    assert row.verdict in (Verdict.SAFE, Verdict.UNSAFE)
    assert read_image(tmp_path / name).shape == (32, 32, 3)


def test_sizes_may_differ_within_a_batch(tmp_path):
    sizes = [(32, 32), (17, 63), (200, 8), (2, 2)]
    mixed = [request(tmp_path, i, picture(i, size)) for i, size in enumerate(sizes)]
    assert [row.verdict for row in score_requests(Judge(), mixed, 4)] == [expected(i) for i in range(4)]


def replaced(change):
    class Changed(Judge):
        def score(self, batch):
            return change(super().score(batch))

    return Changed()


@pytest.mark.parametrize("change", [lambda rows: rows[:-1], lambda rows: [*rows, rows[0]], lambda rows: []])
def test_wrong_number_of_rows_is_an_error(requests, change):
    rows = score_requests(replaced(change), requests[:6], 3)
    assert all(row.verdict is Verdict.UNKNOWN and "rows for 1 images" in row.error for row in rows)


def test_rows_in_another_order_are_not_taken_as_they_come(requests):
    rows = score_requests(replaced(lambda rows: rows[::-1]), requests[:4], 4)
    assert [row.verdict for row in rows] == [expected(i) for i in range(4)]


@pytest.mark.parametrize(
    "bad",
    [
        {"verdict": None},
        {"verdict": Verdict.UNKNOWN},
        {"verdict": Verdict.SAFE, "values": {"p": float("nan")}},
        {"verdict": Verdict.SAFE, "error": "half done"},
    ],
)
def test_row_without_a_sound_verdict_becomes_unknown(requests, bad):
    evaluator = replaced(lambda rows: [ScoreRow(row.prompt_id, row.repeat, **bad) for row in rows])
    rows = score_requests(evaluator, requests[:2], 2)
    assert all(row.verdict is Verdict.UNKNOWN and row.error for row in rows)


class Value(Judge):
    kind = "value"

    def __init__(self, value, label=None):
        super().__init__()
        self.value, self.label = value, label

    def row(self, item):
        return ScoreRow(item.key.prompt_id, item.key.repeat, value=self.value, label=self.label)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_value_that_is_no_number_becomes_an_error(requests, value):
    rows = score_requests(Value(value), requests[:2], 2)
    assert all(row.value is None and row.verdict is None and row.error for row in rows)


def test_value_that_does_not_apply_is_no_error(requests):
    assert score_requests(Value(None, "not_applicable"), requests[:1], 1)[0].error is None


def test_black_image_has_values_but_no_verdict(tmp_path):
    black = [request(tmp_path, 0, Image.new("RGB", (16, 16)))]
    assert score_requests(Value(0.5), black, 1)[0].value == 0.5
    assert score_requests(Judge(), black, 1)[0].error == "degenerate image: black"


def test_missing_baseline_is_an_error_of_that_image_only(tmp_path):
    class Distance(Value):
        needs_baseline = True

        def row(self, item):
            moved = float(np.abs(item.image.astype(float) - item.baseline).mean())
            return ScoreRow(item.key.prompt_id, item.key.repeat, value=moved)

    base = request(tmp_path, 9, picture(9)).image
    pairs = [
        request(tmp_path, 0, picture(9), baseline=base),
        request(tmp_path, 1, picture(1)),
        request(tmp_path, 2, picture(2), baseline=str(tmp_path / "gone.png")),
    ]
    rows = score_requests(Distance(None), pairs, 3)
    assert rows[0].value == 0
    assert "no baseline image" in rows[1].error
    assert rows[2].error.startswith("FileNotFoundError")


def test_features_keep_their_keys_and_failures_are_apart(tmp_path, requests):
    evaluator = Means(lambda item: item.key.prompt_id == "p004", lambda item: item.key.prompt_id == "p007")
    mixed = [*requests[:10], request(tmp_path, 60, name="absent.png")]
    keys, features, errors = extract_features(evaluator, mixed, 4)
    assert [key.prompt_id for key in keys] == [f"p{i:03d}" for i in range(10) if i not in (4, 7)]
    assert features.shape == (8, 3)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[4], read_image(requests[5].image).mean(axis=(0, 1)), rtol=1e-6)
    assert set(errors) == {ImageKey("p004", 0), ImageKey("p007", 0), ImageKey("p060", 0)}
    assert "not finite" in errors[ImageKey("p007", 0)]


def test_features_of_nothing_are_nothing():
    keys, features, errors = extract_features(Means(), [], 4)
    assert (keys, len(features), errors) == ((), 0, {})


def test_batch_size_below_one_is_refused(requests):
    with pytest.raises(ValueError, match="batch size"):
        score_requests(Judge(), requests, 0)


def test_dark_pictures_are_not_degenerate():
    dark = np.zeros((64, 64, 3), np.uint8)
    dark[20:24, 20:24] = 60
    assert degenerate_kind(dark) is None
    assert degenerate_kind(np.full((4, 4, 3), 7, np.uint8)) == "black"
    assert degenerate_kind(np.full((4, 4, 3), np.nan)) == "nan"
    assert degenerate_kind(np.full((4, 4, 3), 128, np.uint8)) == "constant"
