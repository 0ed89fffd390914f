"""The safety checker against diffusers' own, and what becomes of an image that it flags."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from harness.cells.plan import make_plan
from harness.cells.store import CellStore
from harness.errors import InvalidValueError, MissingResourceError
from harness.evaluators.checker import concept_scores, image_scores, load_checker
from harness.method import Method
from harness.records import Status
from harness.run import make_cells
from harness.sampling.session import attached
from methods.none import NoMethod
from methods.safety_checker import SafetyChecker
from tests.sampling.test_denoiser import run
from tests.support.fixtures_models import make_items, make_settings, random_model


@lru_cache(maxsize=1)
def checker_folder() -> Path:
    """Write a tiny checker with random weights whose thresholds lie in the middle of what it says of noise."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    folder = Path(tempfile.mkdtemp(prefix="safety-checker-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    vision = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
        with torch.no_grad():
            net.concept_embeds.copy_(torch.randn(17, 8))
            net.special_care_embeds.copy_(torch.randn(3, 8))
            net.concept_embeds_weights.fill_(0.62)
            net.special_care_embeds_weights.fill_(0.5)
    net.save_pretrained(folder)
    return folder


def checker(**changes: Any) -> SafetyChecker:
    return SafetyChecker(**({"source": str(checker_folder())} | changes))


def vectors(count: int = 400) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(1))


class Given(torch.nn.Module):
    """Stands in for the vision tower: its input is the pooled output."""

    def forward(self, x):
        return None, x


def diffusers_flags(embeddings: torch.Tensor) -> list[bool]:
    """Ask diffusers' checker about given image embeddings."""
    net = load_checker(checker_folder(), "cpu").network
    vision, projection = net.vision_model, net.visual_projection
    net.vision_model, net.visual_projection = Given(), torch.nn.Identity()
    try:
        return net(clip_input=embeddings, images=[np.zeros((1, 1, 3)) for _ in embeddings])[1]
    finally:
        net.vision_model, net.visual_projection = vision, projection


def test_flags_are_diffusers_own_on_the_same_embeddings():
    expected = diffusers_flags(vectors())
    ours = load_checker(checker_folder(), "cpu").scores_of(vectors(), 0.0)
    assert [bool(found.flagged()) for found in ours] == expected
    assert 50 < sum(expected) < 350


def test_flags_are_diffusers_own_on_the_same_images():
    loaded = load_checker(checker_folder(), "cpu")
    images = list(np.random.default_rng(0).integers(0, 256, (32, 40, 48, 3), dtype=np.uint8))
    expected = loaded.network(clip_input=loaded.pixels(images), images=[np.zeros((1, 1, 3)) for _ in images])[1]
    assert [bool(found.flagged()) for found in loaded.scores(images, 0.0)] == expected
    assert loaded.pixels(images).shape == (32, 3, 32, 32)


def test_a_special_concept_makes_the_others_stricter():
    cos, limits = np.array([0.295, 0.2], np.float32), np.array([0.3, 0.3], np.float32)
    one = np.array([0.3], np.float32)
    assert image_scores(np.array([0.2], np.float32), one, cos, limits).flagged() == []
    assert image_scores(np.array([0.4], np.float32), one, cos, limits).flagged() == [0]
    assert image_scores(np.array([0.4], np.float32), one, cos, limits, adjustment=0.1).flagged() == [0, 1]
    assert concept_scores(cos, limits, 0.0).tolist() == pytest.approx([-0.005, -0.1])


def test_adjustment_only_adds_flags():
    loaded = load_checker(checker_folder(), "cpu")
    counts = [sum(bool(one.flagged()) for one in loaded.scores_of(vectors(), offset))
              for offset in (-2.0, -0.05, 0.0, 0.05, 2.0)]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 400


def test_flagged_images_are_refused_and_the_others_untouched():
    model, items = random_model(), make_items(6)
    plain = run(model, [NoMethod()], items)
    found = load_checker(checker_folder(), "cpu")
    scores = {offset: [bool(f.flagged()) for f in found.scores([one.image for one in plain], offset)] for offset in
              np.arange(-0.6, 0.6, 0.002)}  # fmt: skip
    offset, expected = next((o, f) for o, f in scores.items() if 0 < sum(f) < 6)
    results = run(model, [checker(adjustment=float(offset))], items)
    assert [one.status is Status.REFUSED for one in results] == expected
    for one, before, refused in zip(results, plain, expected, strict=True):
        if refused:
            assert one.image is None and one.flags[0].startswith("safety_checker: concept")
        else:
            assert np.array_equal(one.image, before.image) and one.flags == ()


@dataclass(frozen=True)
class Marker(Method):
    """Marks each image that it sees."""

    name: str = "marker"
    kind: ClassVar[str] = "marker"

    def post(self, images):
        return [(image, ("seen",)) for image in images]


def test_a_refused_image_is_not_shown_to_later_filters_and_keeps_its_flags():
    before = run(random_model(), [Marker(), checker(adjustment=2.0)], make_items(2))
    assert [one.status for one in before] == [Status.REFUSED] * 2 and before[0].flags[0] == "seen"
    after = run(random_model(), [checker(adjustment=2.0), Marker()], make_items(2))
    assert [one.status for one in after] == [Status.REFUSED] * 2 and "seen" not in after[0].flags


def test_scores_that_are_not_finite_pass_no_image():
    with pytest.raises(ValueError, match="not finite"):
        load_checker(checker_folder(), "cpu").scores_of(torch.full((1, 8), float("nan")), 0.0)


def test_missing_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    problem = SafetyChecker("CompVis/stable-diffusion-safety-checker", "abc").missing()
    assert problem and "hf download CompVis/stable-diffusion-safety-checker --revision abc" in problem
    assert "\n" not in problem
    assert "config.json and model.safetensors" in str(SafetyChecker(str(tmp_path)).missing())
    cut = tmp_path / "cut"
    shutil.copytree(checker_folder(), cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-10])
    assert "incomplete weights" in str(SafetyChecker(str(cut)).missing())
    with pytest.raises(MissingResourceError, match="incomplete weights"), \
            attached(random_model(), [SafetyChecker(str(cut))], [None]):
        pass
    assert checker().missing() is None


def test_a_plan_names_what_a_method_lacks(tmp_path, monkeypatch):
    from harness.cli.compose import compose_jobs

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    words = ["method=safety_checker", "method.source=CompVis/stable-diffusion-safety-checker", f"results={tmp_path}"]
    jobs = compose_jobs([*words, "mode=plan", "limit=1"], multirun=False)
    plan = make_plan(make_cells(jobs).cells, tmp_path, 1, verify=False)
    problems = {entry.cell.method: entry.problems for entry in plan.cells}
    assert "hf download" in problems["safety_checker"][0]
    assert not problems.get("none")


def test_weights_are_named_by_content(tmp_path):
    shutil.copytree(checker_folder(), tmp_path / "copy")
    assert checker().identity() == checker(source=str(tmp_path / "copy")).identity()
    assert checker().identity() != checker(adjustment=0.01).identity()
    hub = SafetyChecker("CompVis/stable-diffusion-safety-checker", "abc").identity()["params"]
    assert hub["revision"] == "abc"


@pytest.mark.parametrize(("change", "said"), [({"adjustment": 5}, "method.adjustment=5"), ({"source": ""}, "source")])
def test_wrong_settings_are_named(change, said):
    with pytest.raises(InvalidValueError, match=said):
        checker(**change)


def test_a_withheld_image_is_stored_as_refused(tmp_path):
    """Through worker and store: a row without a file, which counts as done."""
    from harness.sampling.batches import BatchRunner

    with attached(random_model(), [checker(adjustment=2.0)], [None]) as session:
        outcomes = BatchRunner(session, make_settings(2), lambda: None).run(make_items(3))
    assert [outcome.status for outcome in outcomes] == [Status.REFUSED] * 3
    assert all(outcome.image is None and outcome.error is None for outcome in outcomes)
    from harness.records import Origin

    store, origin = CellStore(tmp_path), Origin(tmp_path.name, "w")
    store.append_images("a", [outcome.row(None, origin) for outcome in outcomes])
    assert store.done() == {item.key for item in make_items(3)}
    assert store.images()[make_items(1)[0].key].flags[0].startswith("safety_checker")
