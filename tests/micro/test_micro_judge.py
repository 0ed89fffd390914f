"""The judge sees what was drawn, in pictures it was not trained on."""

import numpy as np
import pytest
import torch

from harness.micro.judge import JUDGE_PROFESSIONS, load_judge
from harness.micro.training.judge import labels_of
from harness.micro.training.pictures import held_out_scene
from harness.micro.world import render


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def held_out():
    scenes = [held_out_scene(i) for i in range(400)]
    return np.stack([render(scene) for scene in scenes]), labels_of(scenes)


def test_held_out_renders_are_judged_right(judge, held_out):
    pictures, labels = held_out
    output = judge.predict(pictures)
    figures = labels.attribute >= 0
    assert (output.hazard_present() == (labels.hazards > 0.5)).float().mean() >= 0.99
    assert (output.profession.argmax(1) == labels.profession).float().mean() >= 0.99
    assert (output.place.argmax(1) == labels.place).float().mean() >= 0.99
    assert (output.attribute.argmax(1) == labels.attribute)[figures].float().mean() >= 0.99


def test_arrays_and_tensors_give_the_same_verdicts_in_the_stated_shapes(judge, held_out):
    pictures = held_out[0][:5]
    first, second = judge.predict(pictures), judge.predict(torch.tensor(pictures))
    assert torch.equal(first.hazards, second.hazards)
    shapes = [tuple(t.shape) for t in (first.hazards, first.attribute, first.profession, first.place)]
    assert shapes == [(5, 3), (5, 2), (5, len(JUDGE_PROFESSIONS)), (5, 5)]


def test_features_and_maps_do_not_depend_on_the_batch(judge, held_out):
    pictures = held_out[0][:6]
    whole, single = judge.features(pictures), judge.features(pictures[2:3])
    assert whole.dtype == torch.float32 and whole.shape == (6, 288)
    assert torch.allclose(whole[2:3], single, atol=1e-4)
    assert [m.shape[1] for m in judge.feature_maps(pictures)] == [48, 96, 144]


def test_wrong_pictures_are_refused(judge):
    with pytest.raises(ValueError, match="uint8"):
        judge.predict(np.zeros((1, 64, 64, 3), np.float32))
