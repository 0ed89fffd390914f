"""Every shipped evaluator: whatever goes wrong with an image, it is unknown, and no other image changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from harness.errors import MissingResourceError
from harness.evaluator import CompositeEvaluator, Evaluator
from harness.evaluators.scoring import extract_features, score_requests
from harness.lib.targets import build
from harness.records import ImageKey, ScoreItem, ScoreRow, Verdict
from tests.support.evaluator_stand_ins import StandIns, broken_networks, set_up, without_weights

META = {"profession": "teacher", "place": "field", "pre_attack": "safe", "attack": "none"}
WITHOUT_NETWORK = ("degenerate", "pre_attack_success_micro")  # their score comes from no network


def read(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


FILES = sorted((Path(__file__).parents[2] / "conf" / "evaluator").glob("*.yaml"))
MADE = {file: build(read(file)) for file in FILES}
COMPOSITES = [file for file in FILES if isinstance(MADE[file], CompositeEvaluator)]
STORED = {(MADE[file].stored_as, json.dumps(dict(MADE[file].measured()), sort_keys=True)): file
          for file in reversed(FILES) if file not in COMPOSITES}  # fmt: skip
JUDGES = sorted(STORED.values())
SHARING = [file for file in FILES if file not in COMPOSITES and file not in JUDGES]  # what the first of them stored
WITH_WEIGHTS = [file for file in (*JUDGES, *SHARING) if file.stem != "degenerate"]


def stem(file):
    return file.stem


def noise(i, size=(48, 48), mode="RGB"):
    rng = np.random.default_rng(i)
    pixels = rng.integers(0, 100, (size[1], size[0], 3)) + rng.integers(0, 156, 3)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


@dataclass(frozen=True)
class Said:
    """What was said of one image: unknown, or words and numbers."""

    unknown: bool
    words: tuple[Any, ...] = ()
    numbers: tuple[float, ...] = ()

    def __eq__(self, other):
        alike = (self.unknown, self.words, len(self.numbers)) == (other.unknown, other.words, len(other.numbers))
        return alike and bool(np.allclose(self.numbers, other.numbers, atol=2e-3, rtol=1e-3))


@dataclass
class Case:
    """One evaluator that is set up, a folder of good images, and what it says of them."""

    evaluator: Evaluator
    folder: Path
    good: list[Said] = field(default_factory=list)

    def request(self, i, image=None, name=None, baseline=None):
        file = self.folder / (name or f"{i}.png")
        if image is not None:
            image.save(file)
        return ScoreItem(ImageKey(f"p{i:03d}", 0), "a tree", ("0",), META, str(file),
                            baseline or str(self.folder / "baseline.png"))  # fmt: skip

    def said(self, requests, batch_size=8):
        """Ask of the requests; one answer each, in order."""
        if self.evaluator.kind == "features":
            found = extract_features(self.evaluator, requests, batch_size)
            features = dict(zip(found.keys, found.features, strict=True))
            assert {*features, *found.errors} == {one.key for one in requests}
            return [said_of(features.get(one.key)) for one in requests]
        rows = score_requests(self.evaluator, requests, batch_size)
        assert [row.key for row in rows] == [one.key for one in requests]
        return [said_by(row, self.evaluator.kind) for row in rows]


def said_of(features) -> Said:
    return Said(True) if features is None else Said(False, (), tuple(map(float, features)))


def said_by(row: ScoreRow, kind: str) -> Said:
    if row.error is not None:
        assert row.verdict is (Verdict.UNKNOWN if kind == "verdict" else None)
        assert row.value is None
        return Said(True)
    assert row.verdict is not Verdict.UNKNOWN
    numbers = [*([] if row.value is None else [row.value]), *(row.values[name] for name in sorted(row.values))]
    assert np.isfinite(numbers).all()
    return Said(False, (row.verdict, row.label), tuple(numbers))


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    return StandIns(tmp_path_factory.mktemp("random-weights"))


@pytest.fixture(scope="module", params=JUDGES, ids=stem)
def case(request, stand_ins, tmp_path_factory):
    evaluator = build(stand_ins.of(read(request.param)))
    made = Case(set_up(evaluator), tmp_path_factory.mktemp(request.param.stem))
    noise(99).save(made.folder / "baseline.png")
    made.good = made.said([made.request(i, noise(i)) for i in range(4)])
    assert not any(one.unknown for one in made.good)
    return made


def among(case, bad):
    """Return what is said of bad images, with four good ones before and between them, which must not change."""
    requests = [case.request(i) for i in range(4)]
    for place, one in enumerate(bad.values()):
        requests.insert(2 * place + 1, one)
    said = dict(zip([str(one.image) for one in requests], case.said(requests, 4), strict=True))
    assert [said[case.request(i).image] for i in range(4)] == case.good
    return {name: said[one.image] for name, one in bad.items()}


def cut_in_half(case):
    noise(50, (256, 256)).save(case.folder / "whole.png")
    data = (case.folder / "whole.png").read_bytes()
    (case.folder / "cut.png").write_bytes(data[: len(data) // 2])
    return case.request(50, name="cut.png")


def bytes_of(data):
    def make(case):
        (case.folder / "bytes.png").write_bytes(data)
        return case.request(50, name="bytes.png")

    return make


SIXTEEN_BIT = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 250)
DAMAGED = {
    "truncated": cut_in_half,
    "absent": lambda case: case.request(50, name="absent.png"),
    "empty": bytes_of(b""),
    "text": bytes_of(b"no image"),
    "sixteen_bit": lambda case: case.request(50, SIXTEEN_BIT, "deep.png"),
}


def test_damaged_images_are_unknown_and_no_others(case):
    said = among(case, {name: make(case) for name, make in DAMAGED.items()})
    assert {name for name, one in said.items() if one.unknown} == set(DAMAGED)


def test_images_of_one_colour_get_no_verdict_and_no_other_image_changes(case):
    """One pixel, black, or grey all over. Values may be measured of them: they are then finite."""
    colours = {"black": (0, 0, 0), "grey": (128, 128, 128), "green": (90, 200, 30)}
    flat = {f"{name}_{side}": case.request(50 + k + side, Image.new("RGB", (side, side), colour), f"{name}_{side}.png")
            for side in (1, 40) for k, (name, colour) in enumerate(colours.items())}  # fmt: skip
    said = among(case, flat)
    assert case.evaluator.kind != "verdict" or {name for name, one in said.items() if one.unknown} == set(flat)


def test_grey_palette_and_transparent_images_are_judged_as_their_colours(case):
    images = {mode: noise(7, mode=mode) for mode in ("L", "RGBA", "LA", "P", "1")}
    for mode in ("RGBA", "LA"):
        images[mode].putalpha(Image.fromarray(np.linspace(0, 255, 48 * 48).astype(np.uint8).reshape(48, 48)))
    stored = {mode: case.request(50 + k, image, f"mode_{mode}.png") for k, (mode, image) in enumerate(images.items())}
    plain = {mode: case.request(60 + k, image.convert("RGB"), f"mode_{mode}_rgb.png")
             for k, (mode, image) in enumerate(images.items())}  # fmt: skip
    assert among(case, stored) == among(case, plain)


def test_images_of_another_size_are_judged_as_alone_and_no_other_changes(case):
    odd = {size: case.request(50 + size[0], noise(8, size), f"odd_{size[0]}.png")
           for size in ((200, 30), (17, 160), (3, 2))}  # fmt: skip
    assert among(case, odd) == {size: case.said([one])[0] for size, one in odd.items()}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_exception_in_the_middle_of_a_batch_costs_that_image_only(case, monkeypatch, batch_size):
    name = "features" if case.evaluator.kind == "features" else "score"
    own = getattr(case.evaluator, name)

    def raising(batch):
        if any(item.key.prompt_id == "p001" for item in batch):
            raise RuntimeError("the network fell over")
        return own(batch)

    monkeypatch.setattr(case.evaluator, name, raising)
    said = case.said([case.request(i) for i in range(4)], batch_size)
    assert said[1].unknown
    assert [said[0], *said[2:]] == [case.good[0], *case.good[2:]]


def test_network_that_puts_out_nan_gives_no_verdict_and_no_value(case):
    requests = [case.request(i) for i in range(4)]
    with broken_networks(case.evaluator) as parts:
        said = case.said(requests, 2)
    if case.evaluator.name not in WITHOUT_NETWORK:
        assert parts > 0
        assert all(one.unknown for one in said)
    assert case.said(requests) == case.good


@pytest.mark.parametrize("case", [file for file in JUDGES if MADE[file].needs_baseline], ids=stem, indirect=True)
def test_damaged_baseline_is_unknown_for_its_image_only(case):
    (case.folder / "bad_baseline.png").write_bytes(b"no image")
    own = case.request(50, noise(5), "own.png", str(case.folder / "bad_baseline.png"))
    assert among(case, {"own": own})["own"].unknown


@pytest.mark.parametrize("file", WITH_WEIGHTS, ids=stem)
def test_missing_weights_are_one_line_and_nothing_is_judged(file, monkeypatch, tmp_path):
    from harness.micro import hazard_judge

    evaluator = build(without_weights(read(file)))
    monkeypatch.setattr(hazard_judge, "WEIGHTS", tmp_path / "judge.safetensors")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    missing = evaluator.missing()
    assert missing
    assert "\n" not in missing
    with pytest.raises(MissingResourceError) as error:
        evaluator.setup("cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", SHARING, ids=stem)
def test_an_evaluator_that_reads_what_another_stored_leaves_failures_unknown(file):
    failed = ScoreRow("p", 0, Verdict.UNKNOWN if MADE[file].kind == "verdict" else None, error="damaged")
    assert MADE[file].decide(failed) == failed


@pytest.mark.parametrize("file", COMPOSITES, ids=stem)
def test_a_composite_is_unknown_where_its_parts_are(file):
    evaluator = MADE[file]
    failed = {part: ScoreRow("p", 0, Verdict.UNKNOWN, error="damaged") for part in evaluator.parts}
    found = evaluator.combine(failed)
    assert found.error is not None
    assert found.verdict in (None, Verdict.UNKNOWN)
    assert found.value is None
