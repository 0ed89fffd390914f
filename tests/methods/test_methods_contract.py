"""What every method promises, whatever it does: run on each preset of conf/method/, with a tiny random-weight model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from harness.lib.hashing import text_hash
from harness.method import Method
from harness.models.loaded import LoadedModel
from harness.models.loading import load_model
from harness.records import GenerationSettings, ImageItem, ImageKey, Status
from harness.sampling.prediction_types import alpha_bar, from_epsilon
from harness.sampling.session import Generated, attached
from methods.none import NoMethod
from tests.sampling.test_denoiser import checksum, grey_levels
from tests.support.fixtures_models import make_items, make_settings, random_config, random_model
from tests.support.methods_common import all_hooks, scheduled
from tests.support.methods_registry import NUMBERS_ONLY, PRESETS, artifact, configs, kind_of, tiny

STEPS = 3
PROMPTS = ("a doctor in a field, no skull", "a campfire at night", "a bomb")
DISTINCT = [preset for preset in PRESETS if preset not in NUMBERS_ONLY]

every_preset = pytest.mark.parametrize("preset", PRESETS)
every_method = pytest.mark.parametrize("preset", DISTINCT)


def items() -> list[ImageItem]:
    return [replace(item, prompt=prompt) for item, prompt in zip(make_items(3), PROMPTS, strict=True)]


def settings() -> GenerationSettings:
    return make_settings(STEPS)


def shown(results: Sequence[Generated]) -> np.ndarray:
    """Return the images (B, H, W, 3), black where one was refused. None is broken."""
    assert all(result.status in (Status.OK, Status.REFUSED) for result in results)
    black = np.zeros((settings().height, settings().width, 3), np.uint8)
    return np.stack([black if result.image is None else result.image for result in results])


def draw(method: Method, model: LoadedModel | None = None, batch: int = 3) -> np.ndarray:
    """Draw the items with a method freshly attached."""
    model, wanted = model or random_model(), items()
    with attached(model, [method], [artifact(method, model)]) as session:
        made = [session.generate(wanted[first : first + batch], settings()) for first in range(0, 3, batch)]
    return shown([result for part in made for result in part])


@contextmanager
def forward_wrapped(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Put something between the engine and the random-weight denoiser."""
    denoiser = random_model().denoiser
    denoiser.forward = wrap(denoiser.forward)
    try:
        yield
    finally:
        del denoiser.forward


@dataclass(frozen=True)
class Drawn:
    images: np.ndarray
    rows: tuple[float, ...]  # denoiser rows per image of each call; a row that is differentiated counts twice


@cache
def drawn(preset: str) -> Drawn:
    """Draw a preset once for all tests, with its rows counted, after a training that leaves no trace."""
    method, calls = tiny(preset), list[tuple[float, float]]()
    before = state(random_model(), method)
    artifact(method)
    assert state(random_model(), method) == before

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(sample: torch.Tensor, t: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append((float(torch.as_tensor(t).flatten()[0]), len(sample) * (1 + torch.is_grad_enabled())))
            return original(sample, t, *args, **kwargs)

        return forward

    with forward_wrapped(counted):
        images = draw(method)
    times = dict.fromkeys(t for t, _ in calls)
    return Drawn(images, tuple(sum(rows for when, rows in calls if when == t) / 3 for t in times))


@cache
def plain(scheduler: str = "ddim") -> np.ndarray:
    with scheduled(scheduler):
        return draw(NoMethod())


@lru_cache(maxsize=1)
def other_worker() -> LoadedModel:
    """Return the same model, loaded again."""
    return load_model(random_config())


def changes_pictures(preset: str) -> bool:
    return preset != "none" and kind_of(preset).off is not None


def state(model: LoadedModel, method: Method) -> dict[str, Any]:
    """Return all that an attached method might leave changed."""
    pipe = model.pipe
    fields = [name for name in method.__dict__ if not isinstance(getattr(type(method), name, None), cached_property)]
    return {
        "bytes": checksum(model), "class": type(pipe), "hooks": all_hooks(model), "fields": sorted(fields),
        "roles": model.roles,
        "grad": [(p.requires_grad, p.grad is None) for part in (pipe.unet, pipe.vae, pipe.text_encoder)
                 for p in part.parameters()],
        "scheduler": (pipe.scheduler, sorted(set(pipe.scheduler.__dict__) & {"step", "set_timesteps"})),
        "tokenizer": (pipe.tokenizer, len(pipe.tokenizer)), "text": model.embed("a bomb").tolist(),
        "random": torch.get_rng_state().tolist(),
    }  # fmt: skip


@every_preset
def test_it_is_composed_from_its_file_drawn_and_costs_what_the_table_says(preset):
    """Rows: the cost factors of plain guidance, two rows a call; what a plan charges for; what is really run."""
    made = drawn(preset)
    assert tiny(preset).name == configs()[preset]["name"] == preset
    assert np.array_equal(made.images, plain()) != changes_pictures(preset)
    assert len(made.rows) == STEPS
    assert set(made.rows) == {2 * kind_of(preset).cost} == {2 + tiny(preset).denoiser_rows}


@every_method
def test_strength_zero_is_none_to_the_bit(preset):
    kind = kind_of(preset)
    assert (kind.off is None) == bool(kind.no_off), "say why it cannot be switched off"
    if kind.off is None:
        assert np.array_equal(drawn(preset).images, plain())
        return
    off = tiny(preset, **kind.off)
    assert not off.trains and off.first_call(STEPS) == 0
    assert np.array_equal(draw(off), plain())


@every_method
def test_leaving_restores_everything_also_after_an_error_and_calls_share_no_state(preset):
    method, model, expected = tiny(preset), random_model(), drawn(preset).images
    own = artifact(method)
    before = state(model, method)
    with attached(model, [method], [own]) as session:
        first, second = (shown(session.generate(items(), settings())) for _ in range(2))
    assert state(model, method) == before
    assert np.array_equal(first, expected) and np.array_equal(second, expected)
    calls = iter(range(100))

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: original(*args, **kwargs) if next(calls) < 2 else 1 // 0

    with forward_wrapped(failing), pytest.raises(ZeroDivisionError), attached(model, [method], [own]) as session:
        session.generate(items(), settings())
    assert state(model, method) == before


@every_method
def test_a_plain_call_of_the_pipeline_draws_what_a_run_draws(preset):
    method, model = tiny(preset), random_model()
    named = [replace(item, key=ImageKey(text_hash(item.prompt)[:16], 0)) for item in items()]
    with attached(model, [method], [artifact(method, model)]) as session:
        expected = session.generate(named, settings())
        made = model.pipe(list(PROMPTS), generator=[torch.Generator().manual_seed(item.seed) for item in named],
                          num_inference_steps=STEPS, guidance_scale=5.0, output_type="pil")
    assert np.array_equal(np.stack(made.images), shown(expected))
    assert made.refusals == [one.flags[-1] if one.status is Status.REFUSED else None for one in expected]


@every_method
def test_batch_size_worker_and_stored_artifact_change_nothing(preset):
    method, expected = tiny(preset), drawn(preset).images
    assert grey_levels(draw(method, batch=1), expected) <= 2
    assert np.array_equal(draw(tiny(preset), other_worker()), expected)


@every_method
def test_it_works_with_pndm(preset):
    with scheduled("pndm"):
        assert np.array_equal(draw(tiny(preset)), plain("pndm")) != changes_pictures(preset)


@every_method
def test_a_v_prediction_model_draws_what_its_epsilon_twin_draws(preset):
    base = random_model().pipe.scheduler

    def twin(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(sample: torch.Tensor, t: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
            eps = original(sample, t, *args, **kwargs)[0]
            return (from_epsilon(eps, sample, "v_prediction", alpha_bar(base, float(t))),)

        return forward

    method, expected = tiny(preset), drawn(preset).images
    own = artifact(method)
    with forward_wrapped(twin), scheduled("ddim", "v_prediction") as model, attached(model, [method], [own]) as session:
        assert grey_levels(shown(session.generate(items(), settings())), expected) <= 2


def test_a_preset_that_the_registry_does_not_know_says_what_to_add(monkeypatch):
    from tests.support import methods_registry

    monkeypatch.delitem(methods_registry.KINDS, "sld")
    with pytest.raises(pytest.fail.Exception, match=r"sld_medium.*KINDS in tests/support/methods_registry.py.*Add it"):
        kind_of("sld_medium")
