"""UCE's debiasing: its loop, its stop, and which way it pushes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, StoppedError
from harness.lib.targets import build
from harness.micro.words import ATTRIBUTES, PLACES
from harness.micro.world import Entity, Scene, render
from harness.training.closed_form import paired_tokens
from methods import uce_debias
from methods.uce_debias import UCEDebias, missing_shares, zero_shot_shares
from tests.sampling.test_denoiser import checksum
from tests.support.fixtures_models import random_model
from tests.support.methods_common import trained

CLIP = "pkg://harness.micro/weights/clip"


def debias(**changes: Any) -> UCEDebias:
    quick = {"images": 3, "steps": 2, "max_iterations": 3, "guidance_scale": 5.0, "clip": CLIP, "template": "{}"}
    return UCEDebias(**({"concepts": ["doctor", "nurse"], "attributes": ["a round person", "a square person"]}
                        | quick | changes))


@pytest.fixture
def shares(monkeypatch) -> list[list[list[float]]]:
    """Let the classifier see one entry of a list each round, the last for ever."""
    rounds: list[list[list[float]]] = []
    monkeypatch.setattr(UCEDebias, "_shares",
                        lambda self, model, clip, n, progress: np.array(rounds[min(n, len(rounds) - 1)]))
    return rounds


@pytest.fixture
def solved(monkeypatch) -> list[np.ndarray]:
    """Note the attribute weights of every solution."""
    seen: list[np.ndarray] = []
    edit = UCEDebias.edit
    monkeypatch.setattr(UCEDebias, "edit", lambda self, model, r: (seen.append(r.copy()), edit(self, model, r))[1])
    return seen


def test_a_concept_within_the_tolerance_is_left_alone():
    rho = missing_shares(np.array([[0.52, 0.48], [0.8, 0.2], [0.5, 0.5]]), np.array([0.5, 0.5]), 0.05)
    assert rho == pytest.approx(np.array([[0, 0], [-0.3, 0.3], [0, 0]]))


def test_rho_adds_up_over_the_rounds_as_the_released_loop_does(shares, solved):
    shares += [[[1.0, 0.0], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    trained(debias())
    assert solved[-1] == pytest.approx(np.array([[-0.8, 0.8], [0, 0]]))


def test_the_printed_formula_uses_the_last_rho_alone(shares, solved):
    shares += [[[1.0, 0.0], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    trained(debias(accumulate=False))
    assert solved[-1] == pytest.approx(np.array([[-0.3, 0.3], [0, 0]]))


def test_step_size_scales_each_round(shares, solved):
    shares += [[[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    trained(debias(step_size=0.1))
    assert solved[-1] == pytest.approx(np.array([[-0.05, 0.05], [0, 0]]))


def test_even_shares_stop_the_loop_with_weights_unchanged(shares):
    shares.append([[0.5, 0.5], [0.5, 0.5]])
    made = debias().prepare(random_model(), [], lambda *_: None)
    assert made.meta["losses"] == [0.0] and not any(delta.any() for delta in made.tensors.values())


def test_the_concepts_value_moves_along_the_attributes():
    model = random_model()
    method = debias(concepts=["doctor"], lam=1e-6)
    E = method.edit(model, np.array([[-0.4, 0.4]]))
    c, round_, square = (paired_tokens(model, text, text, "last")[0][0].double()
                         for text in ("doctor", *method.attributes))
    assert torch.allclose(E @ c, 0.4 * (square - round_), rtol=1e-4, atol=1e-5)


def test_clip_reads_shares_by_the_attributes_or_by_labels_that_may_name_the_concept():
    assert debias(template="photo of {}.").texts("nurse") == ["photo of a round person.", "photo of a square person."]
    method = debias(labels=["a round {concept}", "a square one"])
    assert method.texts("nurse") == ["a round nurse", "a square one"]


def test_the_embedded_models_labels_are_read_better_than_its_attributes():
    from harness.cli.compose import compose_jobs

    (job,) = compose_jobs(["method=uce_debias"], multirun=False)
    method = build(job.methods[0])
    clip, rng = method._source.load("cpu"), np.random.default_rng(0)
    right = {"labels": [], "attributes": []}
    for profession in method.concepts:
        for n, attribute in enumerate(ATTRIBUTES):
            pictures = [render(Scene(place, (Entity("figure", profession, attribute),), int(rng.integers(2**32))))
                        for place in PLACES]
            for name, texts in (("labels", method.texts(profession)), ("attributes", list(method.attributes))):
                right[name].append(zero_shot_shares(clip, pictures, texts)[n])
    assert np.mean(right["labels"]) > 0.9 > np.mean(right["attributes"]) + 0.05


def test_the_whole_loop_runs_and_leaves_the_model_alone():
    model, told = random_model(), []
    before = checksum(model)
    method = debias()
    made = method.prepare(model, [], lambda *step: told.append(step))
    assert checksum(model) == before
    assert 1 <= len(made.meta["losses"]) <= 3 and len(made.meta["shares"][0]) == 2
    assert all(sum(row) == pytest.approx(1) for row in made.meta["shares"][0])
    assert told[0][0] == "round 1 of at most 3: images" and told[0][2] == 6
    again = method.prepare(model, [], lambda *_: None)
    assert all(torch.equal(again.tensors[name], value) for name, value in made.tensors.items())


def test_a_stop_leaves_the_model_as_it_was():
    model = random_model()
    before = checksum(model)

    def stop(*_):
        raise StoppedError

    with pytest.raises(StoppedError):
        debias().prepare(model, [], stop)
    assert checksum(model) == before


@pytest.mark.parametrize(("change", "said"), [
    ({"concepts": [""]}, "expected a text, or a list of texts"),
    ({"attributes": ["a round person"]}, "two attributes"),
    ({"desired": [0.5]}, "one share for each of 2"),
    ({"desired": [0.9, 0.9]}, "together 1"),
    ({"labels": ["a round {concept}"]}, "1 texts for 2"),
    ({"images": 0}, "method.images=0"),
    ({"template": "a photo"}, "method.template"),
    ({"max_diff": 2}, "method.max_diff=2"),
])  # fmt: skip
def test_wrong_settings_are_named(change, said):
    with pytest.raises(InvalidValueError, match=said):
        debias(**change)


def test_clip_is_named_by_what_it_is_not_by_its_path():
    assert "clip" not in debias().identity()["params"] and debias().identity()["clip"]


def test_a_missing_clip_is_one_line_and_other_families_are_refused():
    assert "clip-nowhere" in str(debias(clip="nobody/clip-nowhere").missing())
    assert debias().missing() is None
    with pytest.raises(IncompatibleError, match="flux"):
        debias().check({"name": "flux", "family": "flux"}, 5.0)
    assert uce_debias.UCEDebias.edits_model
