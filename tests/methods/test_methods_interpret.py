"""InterpretDiffusion: what is trained, which images get which direction, and that only conditional rows change."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import (
    HarnessError,
    IncompatibleError,
    InvalidValueError,
    MissingResourceError,
    StoppedError,
    UnknownNameError,
)
from harness.records import ImageItem, ImageKey
from harness.sampling.session import attached
from harness.training.generated_images import TrainingImage, generate_images
from methods.interpret import Direction, Interpret
from methods.interpret_direction import LatentDirectionTrainer, Latents, bottleneck_shape, diffused, encoded, regressed
from methods.none import NoMethod
from methods.sld import SLD
from tests.method_parity import agree
from tests.sampling.test_denoiser import checksum, pixels
from tests.support.fixtures_models import make_items, make_settings, micro_model, random_model
from tests.support.methods_common import all_hooks, draw, stored, trained

QUICK = {"images": 3, "steps": 2, "guidance_scale": 5.0, "train_steps": 3, "batch": 2}
ROUND = {"name": "round", "positive": "a round person", "neutral": "a person", "group": "shape"}
SQUARE = {"name": "square", "positive": "a square person", "neutral": "a person", "group": "shape"}
SAFE = {"name": "bomb", "positive": "a person", "negative": "a bomb"}


def interpret(*directions: dict[str, Any], **changes: Any) -> Interpret:
    training = QUICK | changes.pop("training", {})
    return Interpret(**({"directions": directions or [SAFE], "training": training} | changes))


def vectors(count: int = 1, scale: float = 3.0) -> Any:
    shape = bottleneck_shape(random_model())
    return stored({f"h.{i}": scale * torch.randn(shape, generator=torch.Generator().manual_seed(i))
                   for i in range(count)})


def item(seed: int = 0, prompt: str = "a doctor", prompt_id: str = "p", repeat: int = 0) -> ImageItem:
    return ImageItem(ImageKey(prompt_id, repeat), prompt, seed, 5.0)


def test_the_bottleneck_has_the_shape_of_the_mid_blocks_output():
    model, seen = random_model(), []
    handle = model.denoiser.mid_block.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[1:])))
    draw(NoMethod(), None)
    handle.remove()
    assert set(seen) == {bottleneck_shape(model)}


def test_velocity_and_noise_tell_the_same():
    z0, noise, abar = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([0.9, 0.2]).view(-1, 1, 1, 1)
    z, v = diffused(z0, noise, abar), regressed(z0, noise, abar, "v_prediction")
    assert torch.allclose(abar.sqrt() * v + (1 - abar).sqrt() * z, noise, atol=1e-6)
    assert regressed(z0, noise, abar, "epsilon") is noise


def test_images_are_encoded_as_the_vae_encodes_them():
    model = random_model()
    image = draw(NoMethod(), None, 2)
    latents = encoded(model, list(image))
    pixel = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        posterior = model.pipe.vae.encode(pixel).latent_dist
    assert torch.allclose(latents.mean, model.pipe.vae.config.scaling_factor * posterior.mean, atol=1e-6)
    assert latents.std.shape == latents.mean.shape and (latents.std > 0).all()


def test_training_learns_the_direction_alone_and_repeats_to_the_bit():
    model, told = random_model(), []
    before, hooks, state = checksum(model), all_hooks(model), torch.get_rng_state()
    method = interpret(ROUND, SAFE)
    made = method.prepare(model, [], lambda *step: told.append(step))
    assert checksum(model) == before and all_hooks(model) == hooks and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad for parameter in model.denoiser.parameters())
    assert {name: tuple(h.shape) for name, h in made.tensors.items()} == dict.fromkeys(
        ("h.0", "h.1"), bottleneck_shape(model))
    assert {name: len(losses) for name, losses in made.meta["losses"].items()} == {"round": 3, "bomb": 3}
    assert set(made.meta["norms"]) == {"round", "bomb"}
    assert ("images for round", 3, 3) in told and told[-1] == ("direction bomb", 3, 3)
    again, other = trained(method), trained(interpret(ROUND, SAFE, seed=1))
    assert all(torch.equal(again.tensors[name], h) for name, h in made.tensors.items())
    assert not torch.equal(other.tensors["h.0"], made.tensors["h.0"])


def test_a_direction_does_not_depend_on_the_others():
    alone, together = trained(interpret(SAFE)), trained(interpret(ROUND, SAFE))
    assert torch.equal(alone.tensors["h.0"], together.tensors["h.1"])


def test_training_lowers_the_loss_on_its_own_images():
    model = random_model()
    images = list(draw(NoMethod(), None, 4))
    latents = encoded(model, images)

    def trainer(learning_rate: float) -> LatentDirectionTrainer:
        return LatentDirectionTrainer(model, latents, ["a person"] * 4, 0, learning_rate, 0.1)

    start, trained_one, end = trainer(1e-9), trainer(0.05), trainer(1e-9)
    trained_one.run(12, 4, lambda *_: None)
    with torch.no_grad():
        end.h.copy_(trained_one.h)
    before, after = (np.mean(each.run(12, 4, lambda *_: None)) for each in (start, end))  # on the same draws
    assert after < before


def test_every_image_is_trained_on_before_one_comes_again():
    latents = Latents(torch.zeros(5, 4, 8, 8), torch.zeros(5, 4, 8, 8))
    trainer = LatentDirectionTrainer(random_model(), latents, list("abcde"), 0, 0.1, 0.1)
    rows = torch.cat([trainer.draw(step, 2) for step in range(10)]).tolist()
    rounds = [rows[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds) and len({tuple(one) for one in rounds}) > 1


def test_training_images_are_drawn_in_smaller_batches_when_memory_runs_out(monkeypatch):
    from harness.sampling.session import Session

    wanted, sizes, draw_batch = [TrainingImage("a doctor", n) for n in range(5)], [], Session.generate
    whole = generate_images(random_model(), wanted, 2, 5.0, lambda *_: None)

    def full_at_three(self: Any, items: Any, settings: Any) -> Any:
        sizes.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return draw_batch(self, items, settings)

    monkeypatch.setattr(Session, "generate", full_at_three)
    made = generate_images(random_model(), wanted, 2, 5.0, lambda *_: None)
    assert sizes == [4, 2, 2, 1]
    assert all(np.abs(one.astype(int) - other).max() <= 1 for one, other in zip(whole, made, strict=True))


def test_it_starts_as_the_released_linear_layer_does():
    model = random_model()
    latents = Latents(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8))
    h = LatentDirectionTrainer(model, latents, ["a"], 0, 0.1, 0.1).h.detach()
    assert 0.09 < h.abs().max() <= 0.1 and abs(float(h.mean())) < 0.01


def test_a_loss_that_is_not_finite_stops_at_its_step():
    model = random_model()
    latents = Latents(torch.full((1, 4, 8, 8), torch.nan), torch.zeros(1, 4, 8, 8))
    with pytest.raises(HarnessError, match="the loss is nan at step 1 of 5"):
        LatentDirectionTrainer(model, latents, ["a"], 0, 0.1, 0.1).run(5, 1, lambda *_: None)
    assert next(model.denoiser.parameters()).requires_grad and not model.denoiser.mid_block._forward_hooks


@pytest.mark.parametrize("last", ["images for bomb", "direction bomb"])
def test_a_stop_leaves_the_model_as_it_was(last):
    model = random_model()
    before, hooks = checksum(model), all_hooks(model)

    def stop(what: str, done: int, total: int) -> None:
        if what == last:
            raise StoppedError

    with pytest.raises(StoppedError):
        interpret().prepare(model, [], stop)
    assert checksum(model) == before and all_hooks(model) == hooks
    assert next(model.denoiser.parameters()).requires_grad


def test_only_conditional_rows_change_and_by_strength_h():
    model, seen = random_model(), []
    artifact, method = vectors(), interpret(strength=0.5)
    sld = SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    block = model.denoiser.mid_block
    first = block.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    with attached(model, [method, sld], [artifact, None]) as session:
        last = block.register_forward_hook(lambda m, i, o: seen.append((o.clone(), model.roles)))
        session.generate(make_items(2), make_settings(2))
    first.remove()
    last.remove()
    plain, (edited, roles) = seen[0], seen[1]
    assert roles == ("uncond",) * 2 + ("cond",) * 2 + ("safety",) * 2
    moved = edited - plain
    assert not moved[:2].any() and not moved[4:].any()
    agree("interpret", (moved[2:4] - 0.5 * artifact.tensors["h.0"]).abs().max(), 1e-5)


def test_directions_add_up():
    two, one = vectors(2), vectors(2)
    one.tensors["h.0"] = two.tensors["h.0"] + 0.5 * two.tensors["h.1"]
    both = draw(interpret(SAFE, SAFE | {"name": "skull"}, strength=[1.0, 0.5]), two)
    alone = draw(interpret(), stored({"h.0": one.tensors["h.0"]}))
    assert np.abs(both.astype(int) - alone.astype(int)).max() <= 1


def test_without_guidance_the_only_row_is_conditional():
    items = make_items(2, guidance_scale=1.0)
    def run(method, artifact):
        with attached(random_model(), [method], [artifact]) as session:
            return pixels(session.generate(items, make_settings()))
    assert not np.array_equal(run(interpret(), vectors()), run(NoMethod(), None))


def test_other_image_sizes_get_a_resized_direction():
    assert not np.array_equal(draw(interpret(), vectors(), size=48), draw(NoMethod(), None, size=48))


def test_of_a_group_each_image_draws_one_by_its_prompt_and_seed():
    method = interpret(ROUND, SQUARE, SAFE)
    drawn = [tuple(method.scales(item(seed))) for seed in range(400)]
    assert set(drawn) == {(1.0, 0.0, 1.0), (0.0, 1.0, 1.0)}
    assert 150 < drawn.count((1.0, 0.0, 1.0)) < 250
    assert drawn == [tuple(method.scales(item(seed, "another", "p", 3))) for seed in range(400)]
    of_one_seed = [tuple(method.scales(item(7, prompt_id=f"p{n}"))) for n in range(400)]
    assert 150 < of_one_seed.count((1.0, 0.0, 1.0)) < 250
    artifact, items = vectors(2), make_items(4)
    with attached(random_model(), [interpret(ROUND, SQUARE)], [artifact]) as session:
        mixed = pixels(session.generate(items, make_settings()))
    for row, one in enumerate(items):
        which = interpret(ROUND, SQUARE).scales(one).index(1.0)
        alone = draw(interpret(SAFE), stored({"h.0": artifact.tensors[f"h.{which}"]}), 4)
        assert np.array_equal(mixed[row], alone[row])


def test_exhaustive_sampling_takes_turns_over_the_repeats():
    method = interpret(ROUND, SQUARE, sampling="exhaustive")
    for prompt_id in ("a", "b", "c"):
        turns = [method.scales(item(7, prompt_id=prompt_id, repeat=repeat)).index(1.0) for repeat in range(6)]
        assert Counter(turns) == {0: 3, 1: 3} and turns[:2] == turns[2:4]
    firsts = Counter(method.scales(item(prompt_id=f"p{n}")).index(1.0) for n in range(200))
    assert all(count > 70 for count in firsts.values())


def test_only_directions_that_the_prompt_asks_for_are_added():
    method = interpret(SAFE | {"phrases": ["no bomb", "no hazards"]}, ROUND | {"phrases": ["round or square"]},
                       SQUARE | {"phrases": ["round or square"]}, by_prompt=True)
    assert method.scales(item(prompt="a doctor")) == [0.0, 0.0, 0.0]
    assert method.scales(item(prompt="A doctor, No Bomb")) == [1.0, 0.0, 0.0]
    assert method.scales(item(prompt="a doctor, no bombast")) == [0.0, 0.0, 0.0]
    assert sorted(method.scales(item(prompt="a doctor, round or square, no hazards"))) == [0.0, 1.0, 1.0]
    plain = draw(NoMethod(), None)
    assert np.array_equal(draw(method, vectors(3)), plain)


def test_prompts_of_a_file_are_drawn_with_the_concept_as_negative_prompt(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("prompt,category,seed\na campfire,flame,7\na cannon,bomb,8\na forge,flame,9\n")
    direction = Direction("flame", category="flame", negative="flame")
    method = interpret(direction, training={"prompts": str(file), "images": 5})
    assert [row.prompt for row in method.rows_of(direction)] == ["a campfire", "a forge"] * 2 + ["a campfire"]
    assert torch.isfinite(trained(method).tensors["h.0"]).all()
    (tmp_path / "other.csv").write_bytes(file.read_bytes())
    moved = interpret(direction, training={"prompts": str(tmp_path / "other.csv"), "images": 5})
    assert moved.identity() == method.identity()
    with pytest.raises(InvalidValueError, match="no prompt with category skull"):
        method.rows_of(Direction("skull", category="skull"))


def test_a_missing_prompt_file_is_one_line():
    method = interpret({"name": "x"}, training={"prompts": "/nowhere/train.csv"})
    assert "train.csv is missing" in str(method.missing())
    with pytest.raises(MissingResourceError, match="is missing"):
        trained(method)


@pytest.mark.parametrize(("directions", "change", "error", "said"), [
    ([], {}, InvalidValueError, "list of directions"),
    ([{"name": "x"}], {}, InvalidValueError, "needs `positive`"),
    ([SAFE, SAFE], {}, InvalidValueError, "duplicate name in bomb, bomb"),
    ([SAFE], {"strength": [1, 2]}, InvalidValueError, "2 values for 1 directions"),
    ([SAFE], {"by_prompt": True}, InvalidValueError, "no phrases"),
    ([SAFE | {"positiv": "a"}], {}, UnknownNameError, "positive"),
    ([SAFE | {"positive": " "}], {}, InvalidValueError, "a text"),
    ([SAFE], {"sampling": "uniformly"}, UnknownNameError, "uniform"),
    ([SAFE], {"training": {"image": 3}}, UnknownNameError, "images"),
    ([SAFE], {"training": {"images": 0}}, InvalidValueError, "method.training.images=0"),
    ([SAFE], {"training": {"learning_rate": "high"}}, InvalidValueError, "learning_rate=high"),
])  # fmt: skip
def test_wrong_settings_are_named(directions, change, error, said):
    settings = {"directions": directions, "training": QUICK} | change
    with pytest.raises(error, match=said) as caught:
        Interpret(**settings)
    assert "\n" not in str(caught.value)


def test_models_without_a_bottleneck_are_refused():
    with pytest.raises(IncompatibleError, match="bottleneck"):
        interpret().check({"name": "flux", "family": "flux"}, 3.5)


def test_strength_sampling_and_phrases_reuse_the_direction():
    base = interpret(SAFE)
    for other in (interpret(SAFE | {"phrases": ["no bomb"]}, by_prompt=True), interpret(SAFE, strength=0.3),
                  interpret(SAFE | {"group": "g"}, sampling="exhaustive")):
        assert other.training_identity() == base.training_identity()
        assert other.identity() != base.identity()
    assert interpret(SAFE, training={"images": 4}).training_identity() != base.training_identity()


def test_the_direction_moves_the_embedded_model_toward_its_attribute():
    model = micro_model()
    method = interpret(SQUARE, training={"images": 8, "steps": 8, "train_steps": 24, "batch": 8, "init": 0})
    artifact = trained(method, model)
    from harness.sampling.prediction_types import predict_epsilon

    z, t = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(600)
    with torch.no_grad():
        neutral, square = (predict_epsilon(model, model.pipe.scheduler, z, t, model.encode([text] * 8))
                           for text in ("a person", "a square person"))
        model.roles, model.items = ("cond",) * 8, tuple(make_items(8))
        try:
            with attached(model, [method], [artifact]):
                moved = predict_epsilon(model, model.pipe.scheduler, z, t, model.encode(["a person"] * 8))
        finally:
            model.roles, model.items = (), ()
    cosine = torch.nn.functional.cosine_similarity((moved - neutral).flatten(), (square - neutral).flatten(), dim=0)
    assert cosine > 0.1
