"""SafeDir: the released rule, its windows, several directions, fair mode, and the artifact it leaves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.bench import screen
from harness.cli.compose import compose_jobs
from harness.errors import (
    HarnessError,
    IncompatibleError,
    InvalidValueError,
    MissingResourceError,
    StoppedError,
    UnknownNameError,
)
from harness.lib.targets import build
from harness.models.loaded import make_scheduler
from harness.pool.engine import EngineToolbox
from harness.records import ImageItem, ImageKey
from harness.sampling.session import attached
from harness.training.artifacts import ArtifactCache, StoredArtifact, artifact_key, prepare_all
from harness.training.frozen import frozen_denoiser, frozen_text_encoder
from harness.training.prompts import TrainingPrompt, read_prompts
from methods.safedir import SafeDir, stored_direction
from methods.safedir_direction import DirectionTrainer, SafeDirTraining, in_window, target
from methods.sld import SLD
from tests.method_parity import agree
from tests.sampling.test_denoiser import checksum, pixels, stock
from tests.support.fakes import fake_cell
from tests.support.fixtures_models import make_items, make_settings, random_model

QUICK = {"trajectories": 2, "steps": 6, "scheduler": "ddim", "guidance_scale": 5.0}


def safedir(**changes: Any) -> SafeDir:
    training = QUICK | changes.pop("training", {})
    return SafeDir(**({"concept": "a bomb", "training": training} | changes))


def trained(method: SafeDir) -> dict[str, torch.Tensor]:
    return dict(method.prepare(random_model(), [], lambda *_: None).tensors)


def artifact(*directions: torch.Tensor) -> StoredArtifact:
    """Wrap directions as a stored artifact of the random-weight model."""
    tensors = {f"d.{index}": value for index, value in enumerate(directions)}
    return StoredArtifact("key", tensors, {"base": {"weights": random_model().fingerprint}})


def some_direction(seed: int = 0) -> torch.Tensor:
    return torch.randn(77, 32, generator=torch.Generator().manual_seed(seed))


def draw(method: SafeDir, directions: Sequence[torch.Tensor], items: Any = None, steps: int = 5) -> np.ndarray:
    with attached(random_model(), [method], [artifact(*directions)]) as session:
        return pixels(session.generate(items or make_items(3), make_settings(steps)))


def test_released_target_is_eta_six_and_a_half():
    u, s = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    assert torch.allclose(target(u, s, 6.5), s + 7.5 * (u - s), atol=1e-5)
    assert torch.allclose(target(u, s, -7.5), u + 7.5 * (s - u), atol=1e-5)


def test_lora_starts_at_zero_with_a_gradient_in_b_only():
    trainer = DirectionTrainer(random_model(), SafeDirTraining(**QUICK), "a bomb", seed=0)
    assert not trainer.direction().any()
    kept = []
    trainer.adam.step = lambda: kept.append({k: v.grad.clone() for k, v in trainer.parameters.items()})
    with frozen_denoiser(random_model()):
        trainer.trajectory([TrainingPrompt("a campfire", 1)], [])
    assert kept[0]["b"].any() and not kept[0]["a"].any()
    assert trainer.parameters["b"].shape == (77, 1) and trainer.parameters["a"].shape == (1, 32)


def test_a_full_direction_starts_at_zero_or_at_its_seeds_noise():
    def start(**changes: Any) -> torch.Tensor:
        recipe = SafeDirTraining(**QUICK | {"parameterisation": "full"} | changes)
        return DirectionTrainer(random_model(), recipe, "a bomb", seed=0).direction().detach()

    assert not start().any()
    assert 0.9 < float(start(init="normal").std()) < 1.1
    assert "init" not in SafeDirTraining(**QUICK).identity()
    with pytest.raises(InvalidValueError, match="parameterisation=full"):
        SafeDirTraining(**QUICK, init="normal")


@pytest.mark.parametrize(("kind", "shapes"), [("lora", {"b.0": (77, 1), "a.0": (1, 32)}), ("full", {"d.0": (77, 32)})])
def test_training_lowers_the_loss_and_repeats_to_the_bit(kind, shapes):
    whole = safedir(training={"parameterisation": kind, "trajectories": 8}).prepare(random_model(), [], lambda *_: None)
    assert {name: tuple(value.shape) for name, value in whole.tensors.items()} == shapes
    losses = whole.meta["losses"]["a bomb"]
    assert len(losses) == 8 and losses[-1] < losses[0]
    first, again, other = (trained(safedir(seed=seed, training={"parameterisation": kind})) for seed in (0, 0, 1))
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not all(torch.equal(other[name], value) for name, value in first.items())


def test_training_steps_once_per_denoising_step_of_its_window():
    trainer = DirectionTrainer(random_model(), SafeDirTraining(**QUICK | {"steps": 10, "start": 11}), "a bomb", seed=0)
    count, step = [], trainer.adam.step
    trainer.adam.step = lambda: (count.append(1), step())
    with frozen_denoiser(random_model()):
        trainer.trajectory([TrainingPrompt("a campfire", 1), TrainingPrompt("a forge", 2)], [])
    assert len(count) == 8


@pytest.mark.parametrize("scheduler", ["lms", "ddim", "pndm", "euler", "dpmsolver++"])
def test_training_leaves_model_and_global_randomness_alone(scheduler):
    model = random_model()
    before, state = checksum(model), torch.get_rng_state()
    trained(safedir(training={"scheduler": scheduler}))
    assert checksum(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad for parameter in model.denoiser.parameters())


def test_half_precision_weights_survive_training_to_the_bit():
    model = copy.copy(random_model())
    model.pipe = copy.copy(model.pipe)
    model.pipe.unet = copy.deepcopy(model.pipe.unet).to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    with frozen_denoiser(model):
        assert model.denoiser.dtype == torch.float32
    assert all(torch.equal(before[name], value) for name, value in model.denoiser.state_dict().items())


@pytest.mark.parametrize("freeze", [frozen_denoiser, frozen_text_encoder])
def test_memory_that_runs_out_on_the_way_to_float32_leaves_the_model_as_it_was(freeze, monkeypatch):
    model = random_model()
    part = model.denoiser if freeze is frozen_denoiser else model.pipe.text_encoder

    def full() -> None:
        raise MemoryError

    monkeypatch.setattr(part, "float", full)
    with pytest.raises(MemoryError), freeze(model):
        pass
    assert all(parameter.requires_grad for parameter in part.parameters())


@pytest.mark.parametrize(("steps", "calls", "window", "first"), [
    (50, 50, "fraction", 14), (50, 51, "fraction", 14), (25, 25, "fraction", 7), (25, 25, "calls", 14),
])  # fmt: skip
def test_window_starts_at_the_papers_call_and_lasts_to_the_end(steps, calls, window, first):
    inside = [call for call in range(calls) if in_window(call, calls, steps, 15, None, window)]
    assert inside == list(range(first, calls))
    assert not in_window(first + 5, calls, steps, 15, 15, window) and in_window(14, 50, 50, 15, 15, window)


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_it_is_the_stock_pipeline_on_shifted_prompt_embeddings(strength):
    model, d, items = random_model(), some_direction(), make_items(3)
    embeds = {"prompt_embeds": model.encode([item.prompt for item in items]) + strength * d,
              "negative_prompt_embeds": model.encode([""] * 3)}
    ours = draw(safedir(start=1, strength=strength), [d])
    agree("safedir", np.abs(ours.astype(int) - stock(model, items, 5, 32, **embeds)).max(), 0)


def test_the_window_opens_at_its_call_and_not_before():
    model, d, items = random_model(), 3 * some_direction(), make_items(2)
    c, u = model.encode([item.prompt for item in items]), model.encode(["", ""])

    def shift(pipe, step, t, tensors):
        return {"prompt_embeds": torch.cat([u, c + d])} if step == 1 else {}

    generators = [torch.Generator().manual_seed(item.seed) for item in items]
    expected = model.pipe(prompt_embeds=c, negative_prompt_embeds=u, num_inference_steps=5, height=32, width=32,
                          guidance_scale=5.0, generator=generators, callback_on_step_end=shift).images
    ours = draw(safedir(start=3, window="calls"), [d], items)
    agree("safedir", np.abs(ours.astype(int) - np.stack([np.asarray(image) for image in expected])).max(), 0)
    assert not np.array_equal(ours, draw(safedir(start=2, window="calls"), [d], items))


def test_directions_add_up():
    d1, d2 = some_direction(1), some_direction(2)
    both = draw(safedir(concept=["a bomb", "a skull"], strength=[1.0, 0.5]), [d1, d2])
    assert np.array_equal(both, draw(safedir(), [d1 + 0.5 * d2]))


def test_fair_mode_draws_one_direction_for_each_image():
    method = safedir(concept=["a round person", "a square person"], combine="draw", start=1)
    directions = [some_direction(1), some_direction(2)]
    items = make_items(6)
    drawn = draw(method, directions, items)
    for index, item in enumerate(items):
        alone = draw(safedir(start=1), [directions[method.draw(item)]], items)
        assert np.array_equal(drawn[index], alone[index])
    assert {method.draw(item) for item in items} == {0, 1}


def test_fair_draws_are_even_and_depend_on_nothing_but_prompt_and_seed():
    method = safedir(concept=["a", "b", "c"], combine="draw")
    again = safedir(concept=["a", "b", "c"], combine="draw", strength=0.3)
    by_seed = [ImageItem(ImageKey("one", 0), "a doctor", seed, 5.0) for seed in range(3000)]
    by_prompt = [ImageItem(ImageKey(f"p{n}", 0), "a doctor", 7, 5.0) for n in range(3000)]  # benches may share a seed
    for items in (by_seed, by_prompt):
        draws = [method.draw(item) for item in items]
        assert draws == [again.draw(item) for item in items]
        assert all(900 < draws.count(index) < 1100 for index in range(3))


def test_it_composes_with_sld():
    items, sld = make_items(2), SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    with attached(random_model(), [safedir(start=1), sld], [artifact(some_direction()), None]) as session:
        both = pixels(session.generate(items, make_settings()))
    assert not np.array_equal(both, draw(safedir(start=1), [some_direction()], items))


def test_anchor_holds_benign_predictions(tmp_path):
    benign = tmp_path / "benign.csv"
    benign.write_text("prompt,seed\na doctor in a field,5\na tree on a beach,6\n")
    model = random_model()

    def moved(tensors: dict[str, torch.Tensor]) -> float:
        from harness.sampling.prediction_types import predict_epsilon

        c, d = model.encode(["a doctor in a field"]), tensors["d.0"]
        z, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
        with torch.no_grad():
            return float((predict_epsilon(model, model.pipe.scheduler, z, t, c + d)
                          - predict_epsilon(model, model.pipe.scheduler, z, t, c)).square().mean())

    base = {"parameterisation": "full", "trajectories": 6}
    held = base | {"anchor_prompts": str(benign), "anchor_weight": 50.0}
    assert moved(trained(safedir(training=held))) < 0.5 * moved(trained(safedir(training=base)))


def test_training_prompts_are_named_by_content_not_by_path(tmp_path):
    def method(file):
        return safedir(concept="a {category}", training={"prompts": str(file)})

    for name, text in (("one.csv", "a"), ("two.csv", "a"), ("three.csv", "b")):
        (tmp_path / name).write_text(f"prompt_id,prompt,category,seed\n1,{text} campfire,flame,7\n")
    one, two, three = (method(tmp_path / f"{name}.csv").identity() for name in ("one", "two", "three"))
    assert one == two != three
    trainer = DirectionTrainer(random_model(), method(tmp_path / "one.csv").recipe, "a {category}", 0)
    rows = trainer._prompts()
    assert [row.prompt for row in rows] == ["a campfire"] * 2
    assert rows[0].seed == 7 != rows[1].seed
    texts = trainer._texts(rows[:1], [])
    assert torch.equal(texts.s.embeds[0], random_model().embed("a flame"))


def test_without_a_file_the_concepts_own_sentence_is_the_prompt():
    rows = DirectionTrainer(random_model(), SafeDirTraining(**QUICK), "hate, harm", 0)._prompts()
    assert {row.prompt for row in rows} == {"an image of hate, harm"}
    assert len({row.seed for row in rows}) == 2


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"strength": -1}, InvalidValueError, "method.strength=-1"),
    ({"strength": [1, 2]}, InvalidValueError, "2 values for 1 concepts"),
    ({"start": 0}, InvalidValueError, "method.start=0"),
    ({"start": 20, "end": 10}, InvalidValueError, "method.end=10"),
    ({"concept": []}, InvalidValueError, "method.concept"),
    ({"combine": "drew"}, UnknownNameError, "draw"),
    ({"training": {"leaning_rate": 1}}, UnknownNameError, "learning_rate"),
    ({"training": {"learning_rate": 0}}, InvalidValueError, "method.training.learning_rate=0"),
    ({"training": {"anchor_weight": 1.0}}, InvalidValueError, "anchor_prompts"),
    ({"concept": "  "}, InvalidValueError, "method.concept"),
    ({"concept": ["a bomb", "a {category}"]}, InvalidValueError, "training.prompts"),
    ({"start": 60}, InvalidValueError, "method.start=60"),
    ({"training": {"start": 60}}, InvalidValueError, "none of the 6 steps"),
    ({"training": {"start": 10, "end": 10}}, InvalidValueError, "none of the 6 steps"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said):
        safedir(**change)


def test_a_missing_prompt_file_is_one_line():
    method = safedir(training={"prompts": "/nowhere/train.csv"})
    assert "/nowhere/train.csv is missing" in str(method.missing())
    with pytest.raises(MissingResourceError, match=r"train\.csv is missing"):
        trained(method)


def test_other_text_encoders_are_refused():
    with pytest.raises(IncompatibleError, match="CLIP text embedding"):
        safedir().check({"name": "flux", "family": "flux"}, 3.5)


def test_strength_and_window_reuse_the_direction_and_the_recipe_does_not(tmp_path, monkeypatch):
    model, made, cache = random_model(), [], ArtifactCache(tmp_path)
    prepare = SafeDir.prepare
    monkeypatch.setattr(SafeDir, "prepare", lambda self, *args: (made.append(self.name), prepare(self, *args))[1])
    for name, change in (("a", {}), ("a", {}), ("b", {"strength": 0.5}), ("c", {"start": 3, "end": 20})):
        prepare_all(model, [safedir(name=name, **change)], cache)
    assert made == ["a"]
    prepare_all(model, [safedir(training={"eta": 3.0})], cache)
    prepare_all(model, [safedir(seed=3)], cache)
    assert made == ["a", "safedir", "safedir"]


def test_training_that_is_stopped_leaves_a_checkpoint_and_no_artifact(tmp_path):
    model = random_model()
    config = {"_target_": "methods.safedir.SafeDir", "name": "safedir", "concept": "a bomb", "training": QUICK}
    artifacts = str(tmp_path / "kept")
    cell = replace(fake_cell(tmp_path / "cell"), model=model.config, methods=(config,), artifacts=artifacts)
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        EngineToolbox().prepare(model, cell, lambda: next(asked))
    assert [file.name for file in (tmp_path / "kept").rglob("*.safetensors")] == ["checkpoint-0.safetensors"]
    assert next(model.denoiser.parameters()).requires_grad
    EngineToolbox().prepare(model, cell, lambda: False)
    assert [file.name for file in (tmp_path / "kept").rglob("*.safetensors")] == ["artifact.safetensors"]


def test_meta_tells_losses_seconds_and_recipe(tmp_path):
    (stored,) = prepare_all(random_model(), [safedir()], ArtifactCache(tmp_path))
    assert len(stored.meta["training"]["losses"]["a bomb"]) == 2
    assert stored.meta["seconds"] >= 0 and stored.meta["recipe"]["params"]["training"]["eta"] == 6.5
    assert stored_direction(stored.tensors, 0).shape == (77, 32)
    assert artifact_key(safedir(), stored.meta["base"], []) == stored.key


def test_pndm_takes_the_direction_in_its_extra_call():
    model, base = random_model(), random_model().pipe.scheduler
    model.pipe.scheduler = make_scheduler(base, "pndm")
    try:
        late = draw(safedir(start=6, window="calls"), [10 * some_direction()], steps=5)
        with pytest.raises(IncompatibleError, match="acts from call 7 on, and 5 steps have no call in its window"):
            draw(safedir(start=7, window="calls"), [10 * some_direction()], steps=5)
        plain = draw(safedir(strength=0.0), [some_direction()], steps=5)
    finally:
        model.pipe.scheduler = base
    assert not np.array_equal(late, plain)


def test_prompts_that_leave_nothing_to_train_on_are_one_line(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("prompt,category\na campfire,\n")
    method = safedir(concept="a {category}", training={"prompts": str(file)})
    with pytest.raises(InvalidValueError, match=r"train\.csv: no prompt has a category"):
        trained(method)
    file.write_text("prompt,category\na campfire,flame\n")
    with pytest.raises(InvalidValueError, match=r"train\.csv: every prompt has a category"):
        trained(safedir(training={"anchor_prompts": str(file), "anchor_weight": 1.0}))


def test_training_that_breaks_down_says_at_which_step(monkeypatch):
    scales = iter([1.0, float("inf")])
    monkeypatch.setattr("methods.safedir_direction.target", lambda u, s, eta: u * next(scales))
    with pytest.raises(HarnessError, match="training of the direction 'a bomb' diverged at step 2"):
        trained(safedir())
    assert next(random_model().denoiser.parameters()).requires_grad


def test_no_training_draws_a_term_that_names_an_age():
    """Stable Diffusion's concept holds one among sexual terms: what is drawn has one term less, the target has all."""
    (job,) = compose_jobs(["method=safedir", "model=sd14", "bench=micro_i2p"], multirun=False)
    method = build(job.methods[0])
    (row, *_) = DirectionTrainer(random_model(), method.recipe, method.concepts[0], 0)._prompts()
    assert screen.is_unfit_to_draw(method.concepts[0]) and not screen.is_unfit_to_draw(row.prompt)
    assert len(row.prompt.split(",")) == len(method.concepts[0].split(",")) - 1
    assert method.training_identity()["params"]["drawn"] and "drawn" not in safedir().training_identity()["params"]


def test_the_anchored_preset_brings_captions_of_its_own():
    (job,) = compose_jobs(["method=safedir_anchor", "model=sd14", "bench=micro_i2p"], multirun=False)
    method = build(job.methods[0])
    assert method.missing() is None
    rows = read_prompts(method.recipe.anchor_prompts)
    assert len({row.prompt for row in rows}) == 64 and not any(row.category for row in rows)


def test_the_fair_mode_for_race_draws_one_of_the_releases_three_directions():
    (job,) = compose_jobs(["method=safedir_fair_race", "model=sd14", "bench=micro_i2p"], multirun=False)
    method = build(job.methods[0])
    assert (method.count, method.combine, method.start) == (3, "draw", 10)
    assert method.recipe.text == "a photo of a face" and method.recipe.eta == -7.5
