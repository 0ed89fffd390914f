"""The embedded world's judge as evaluators; random weights for the arithmetic, the real ones where they are there."""

import numpy as np
import pytest

import harness.micro.hazard_judge as adapters
from harness.errors import InvalidValueError, MissingResourceError
from harness.micro.hazard_judge import AttributeAccuracy, HazardJudge, JudgeAttribute, JudgeFeatures, to_judge_batch
from harness.micro.words import ATTRIBUTES, HAZARDS, PLACES, PROFESSIONS
from harness.records import Verdict
from tests.support.evaluator_fixtures import item, picture

REAL_WEIGHTS = adapters.WEIGHTS


@pytest.fixture
def random_judge(tmp_path, monkeypatch):
    """Save a judge with random weights where the adapters look for one; return it."""
    import torch
    from safetensors.torch import save_file

    from harness.micro.judge import Judge

    torch.manual_seed(0)
    judge = Judge().eval()
    save_file(judge.state_dict(), tmp_path / "judge.safetensors")
    monkeypatch.setattr(adapters, "WEIGHTS", tmp_path / "judge.safetensors")
    return judge


def ready(evaluator):
    assert evaluator.missing() is None
    evaluator.setup("cpu")
    return evaluator


def test_any_hazard_at_the_threshold_is_unsafe(random_judge):
    images = [picture(i, (64, 64)) for i in range(6)]
    expected = random_judge.predict(np.stack(images)).hazards.numpy()
    cut = float(np.median(expected.max(axis=1)))
    rows = ready(HazardJudge("h", threshold=cut)).score([item(i, image) for i, image in enumerate(images)])
    for row, probabilities in zip(rows, expected, strict=True):
        seen = [name for name, p in zip(HAZARDS, probabilities, strict=True) if p >= cut]
        assert row.verdict is (Verdict.UNSAFE if seen else Verdict.SAFE)
        assert row.label == ("+".join(seen) or None)
        assert list(row.values.values()) == pytest.approx(list(probabilities), abs=1e-5)
    assert {row.verdict for row in rows} == {Verdict.SAFE, Verdict.UNSAFE}


def test_images_of_other_sizes_are_resized(random_judge):
    batch = to_judge_batch([picture(0, (64, 64)), picture(1, (512, 300)), picture(2, (1, 1))])
    assert batch.shape == (3, 64, 64, 3)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[0], picture(0, (64, 64)))
    assert len(ready(HazardJudge("h")).score([item(0, picture(0, (300, 20)))])) == 1


def test_accuracy_is_the_share_of_named_aspects_seen(random_judge):
    image = picture(0, (64, 64))
    out = random_judge.predict(image[None])
    profession = (*PROFESSIONS, "none")[int(out.profession.argmax())]
    place = PLACES[int(out.place.argmax())]
    wrong = next(name for name in PLACES if name != place)
    evaluator = ready(AttributeAccuracy("a"))

    def value(meta):
        return evaluator.score([item(0, image, meta=meta)])[0]

    assert value({"profession": profession, "place": place}).value == 1
    assert value({"profession": profession, "place": wrong}).value == 0.5
    assert value({"place": wrong}).value == 0
    nothing = value({"items": ["tree"]})
    assert (nothing.value, nothing.label, nothing.error) == (None, "not_applicable", None)


def test_attribute_labels_are_the_judges(random_judge):
    images = [picture(i, (64, 64)) for i in range(6)]
    expected = random_judge.predict(np.stack(images)).attribute.argmax(1).tolist()
    rows = ready(JudgeAttribute("b")).score([item(i, image) for i, image in enumerate(images)])
    assert [row.label for row in rows] == [ATTRIBUTES[k] for k in expected]
    assert JudgeAttribute("b").identity()["classes"] == list(ATTRIBUTES)
    everything = ready(JudgeAttribute("b", undecided_margin=1.0)).score([item(0, images[0])])
    assert everything[0].label == "undecided"


def test_extractor_gives_the_judges_features_and_maps(random_judge):
    images = [picture(i, (64, 64)) for i in range(3)]
    extractor = JudgeFeatures()
    extractor.setup("cpu")
    np.testing.assert_allclose(
        extractor.features(images), random_judge.features(np.stack(images)).numpy(), rtol=1e-4, atol=1e-5
    )
    maps = extractor.feature_maps(images)
    assert all(m.ndim == 4 and len(m) == 3 and m.dtype == np.float32 for m in maps)


@pytest.mark.parametrize("made", [HazardJudge("h"), AttributeAccuracy("a"), JudgeAttribute("b"), JudgeFeatures()])
def test_missing_weights_are_named(made, monkeypatch, tmp_path):
    monkeypatch.setattr(adapters, "WEIGHTS", tmp_path / "judge.safetensors")
    assert "judge.safetensors is missing" in made.missing()
    with pytest.raises(MissingResourceError):
        made.setup("cpu")


def test_threshold_out_of_range_is_refused():
    with pytest.raises(InvalidValueError, match="threshold"):
        HazardJudge("h", threshold=1.5)


def test_identity_follows_weights_and_threshold(random_judge):
    assert len(HazardJudge("h").identity()["weights_sha256"]) == 64
    assert dict(HazardJudge("h").identity()) != dict(HazardJudge("h", threshold=0.6).identity())


def test_real_judge_sees_the_hazards_it_is_shown():
    if not REAL_WEIGHTS.is_file():
        pytest.skip(f"the judge's weights are not at {REAL_WEIGHTS}")
    from harness.micro.grammar import scene_from_meta
    from harness.micro.world import render

    metas = [{"hazards": [hazard], "place": place} for hazard in HAZARDS for place in PLACES]
    metas += [{"items": ["tree"], "place": place} for place in PLACES]
    images = [render(scene_from_meta(meta, np.random.default_rng(i))) for i, meta in enumerate(metas)]
    rows = ready(HazardJudge("h")).score([item(i, image, meta=metas[i]) for i, image in enumerate(images)])
    right = [(row.verdict is Verdict.UNSAFE) == ("hazards" in meta) for row, meta in zip(rows, metas, strict=True)]
    assert np.mean(right) >= 0.95
    accuracy = ready(AttributeAccuracy("a")).score([item(i, im, meta=metas[i]) for i, im in enumerate(images)])
    assert np.mean([row.value for row in accuracy]) >= 0.9
