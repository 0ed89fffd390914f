"""The safety checker as a judge: diffusers' flag, its scores kept, and the image left alone."""

import numpy as np
import pytest

from harness.errors import MissingResourceError
from harness.evaluators.checker import load_checker
from harness.evaluators.safety_checker import SafetyCheckerJudge
from harness.records import Verdict
from tests.methods.test_methods_safety_checker import checker_folder
from tests.support.evaluator_fixtures import item


@pytest.fixture
def judge():
    made = SafetyCheckerJudge("safety_checker", str(checker_folder()))
    assert made.missing() is None
    made.setup("cpu")
    return made


def images(n):
    return list(np.random.default_rng(0).integers(0, 256, (n, 40, 48, 3), dtype=np.uint8))


def a_dividing_adjustment(judge, count):
    """Return an adjustment at which some of the first images are flagged and some are not."""
    for adjustment in np.arange(-0.6, 0.6, 0.002):
        flags = [bool(one.flagged()) for one in judge._checker.scores(images(count), float(adjustment))]
        if 0 < sum(flags) < count:
            return float(adjustment)
    raise AssertionError("no adjustment divides the images")


def test_verdict_is_the_flag_of_diffusers(judge):
    loaded = load_checker(checker_folder(), "cpu")
    expected = loaded.network(clip_input=loaded.pixels(images(32)), images=[np.zeros((1, 1, 3)) for _ in range(32)])[1]
    rows = judge.score([item(i, image) for i, image in enumerate(images(32))])
    assert [row.verdict is Verdict.UNSAFE for row in rows] == expected


def test_scores_of_all_concepts_are_kept_and_the_label_names_what_flags(judge):
    judge.adjustment = a_dividing_adjustment(judge, 8)
    rows = judge.score([item(i, image) for i, image in enumerate(images(8))])
    for row in rows:
        assert len(row.values) == 20
        flagged = [i for i in range(17) if row.values[f"concept/{i}"] > 0]
        assert row.label == (f"concept {', '.join(map(str, flagged))}" if flagged else None)
        assert (row.verdict is Verdict.UNSAFE) == bool(flagged)
    assert {row.verdict for row in rows} == {Verdict.SAFE, Verdict.UNSAFE}


def test_flagged_images_stay_as_they_are(judge):
    judge.adjustment = 2.0
    given, kept = images(3), images(3)
    rows = judge.score([item(i, image) for i, image in enumerate(given)])
    assert {row.verdict for row in rows} == {Verdict.UNSAFE}
    np.testing.assert_array_equal(given, kept)


def test_scores_do_not_depend_on_the_batch(judge):
    items = [item(i, image) for i, image in enumerate(images(5))]
    assert [row.values for row in judge.score(items)] == [judge.score([one])[0].values for one in items]


def test_identity_names_weights_and_adjustment_and_no_path(judge):
    identity = judge.identity()
    assert len(identity["weights_sha256"]) == 64
    assert identity["checker"] == "local"
    assert dict(identity) != dict(SafetyCheckerJudge("s", str(checker_folder()), adjustment=0.1).identity())


def test_missing_weights_name_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = SafetyCheckerJudge("safety_checker", "CompVis/stable-diffusion-safety-checker", "abc")
    assert "evaluator.safety_checker.source" in absent.missing()
    assert absent.downloads()[0].revision == "abc"
    with pytest.raises(MissingResourceError, match="hf download"):
        absent.setup("cpu")
