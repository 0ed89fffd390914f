"""SAeUron: the released hook, the features that it picks, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.errors import IncompatibleError, InvalidValueError, UnknownNameError
from harness.sampling.session import attached
from methods.saeuron import Autoencoder, SAeUron, StepFeatures, feature_scores, selected, unlearned
from tests.method_parity import agree
from tests.support.fixtures_models import make_items, make_settings, random_model
from tests.support.methods_common import draw

POINT, WIDTH, FEATURES, K, STEPS = "unet.up_blocks.0.attentions.1", 32, 64, 6, 5


def tensors(width: int = WIDTH) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    def noise(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=generator)
    return {"encoder.weight": noise(FEATURES, width), "encoder.bias": noise(FEATURES),
            "W_dec": noise(FEATURES, width), "b_dec": noise(width)}


def write(root: Path, state: dict[str, torch.Tensor] | None = None, nested: bool = True, **config: Any) -> str:
    """Write an autoencoder as the release's save_to_disk does, in a folder of its hook point."""
    folder = root / POINT if nested else root
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {"expansion_factor": 2, "num_latents": 0, "k": K, "batch_topk": True, "sample_topk": False,
                "input_unit_norm": False, "multi_topk": False, "d_in": WIDTH}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(defaults | config))
    save_file(state or tensors(), folder / "sae.safetensors")
    return str(root)


def gathered(features: int = FEATURES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(4, STEPS, features, generator=generator) for name in ("bomb", "tree", "house")}


@pytest.fixture
def files(tmp_path) -> dict[str, Any]:
    save_file(gathered(), tmp_path / "activations.safetensors")
    return {"checkpoint": write(tmp_path / "sae"), "activations": str(tmp_path / "activations.safetensors"),
            "hookpoint": POINT, "concepts": ["bomb"], "percentile": 80.0, "multiplier": -5.0}


def released_hook(output: torch.Tensor, step: int, percentile: float, multiplier: float, concept: str) -> torch.Tensor:
    """Apply the release's SAEMaskedUnlearningHook (preserve_error), written out."""
    state, acts = tensors(), gathered()
    own = acts[concept][:, step].mean(0)
    others = torch.cat([acts[name][:, step] for name in acts if name != concept]).mean(0)
    scores = own / (own.sum() + 1e-8) - others / (others.sum() + 1e-8)
    top = torch.where(scores > torch.quantile(scores, percentile / 100))[0]
    average = sum(acts[name][:, step, top].mean(0) for name in acts) / len(acts)
    b, c, h, w = output.shape
    x = output.permute(0, 2, 3, 1).reshape(b * h * w, c)
    pre = torch.relu((x - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"])
    values, where = pre.topk(K, sorted=False)
    latents = torch.zeros_like(pre).scatter_(-1, where, values)
    original = latents @ state["W_dec"] + state["b_dec"]
    error = original - x
    chosen = latents[:, top]
    latents[:, top] = torch.where(chosen > average, chosen * (own[top] * multiplier), chosen)
    return (latents @ state["W_dec"] + state["b_dec"] + error).reshape(b, h, w, c).permute(0, 3, 1, 2)


def test_every_step_is_the_released_hook(files):
    model, seen = random_model(), []
    block = model.denoiser.up_blocks[0].attentions[1]
    first = block.register_forward_hook(lambda m, i, o: seen.append(o[0].clone()))
    with attached(model, [SAeUron(**files)], [None]) as session:
        last = block.register_forward_hook(lambda m, i, o: seen.append(o[0].clone()))
        session.generate(make_items(2), make_settings(STEPS))
    first.remove()
    last.remove()
    assert len(seen) == 2 * STEPS
    for step in range(STEPS):
        theirs = released_hook(seen[2 * step], step, 80.0, -5.0, "bomb")
        agree("saeuron", (seen[2 * step + 1] - theirs).abs().max(), 1e-3)
        assert not torch.allclose(seen[2 * step], theirs, atol=1e-2)


@pytest.mark.parametrize(("steps", "expected"), [(10, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), (3, [0, 1, 3])])
def test_runs_of_other_length_take_the_nearest_earlier_step(steps, expected, files, monkeypatch):
    seen = []
    plain = SAeUron._steps
    monkeypatch.setattr(SAeUron, "_steps", lambda self, model, n: Noting(plain(self, model, n), seen))
    draw(SAeUron(**files), None, steps=steps)
    assert seen == expected


class Noting(list):
    """A list that notes which entries are read."""

    def __init__(self, values: Any, seen: list[int]) -> None:
        super().__init__(values)
        self.seen = seen

    def __getitem__(self, index: Any) -> Any:
        self.seen.append(index)
        return super().__getitem__(index)


def test_exact_error_leaves_what_is_not_selected_untouched():
    sae = Autoencoder(*(tensors()[name] for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")), k=K)
    nothing = StepFeatures(torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0))
    x = torch.randn(2, 3, WIDTH)
    assert torch.allclose(unlearned(x, sae, nothing, "exact"), x, atol=1e-5)
    released = unlearned(x, sae, nothing, "released")
    assert torch.allclose(released, 2 * sae.decode(sae.encode(x)) - x, atol=1e-5)


def test_features_are_those_of_the_concept():
    acts = {"bomb": torch.zeros(2, 1, 8), "tree": torch.ones(3, 1, 8)}
    acts["bomb"][:, :, 5] = 4.0
    step = selected(acts, ["bomb"], 0, 90.0, -2.0)
    assert step.index.tolist() == [5] and step.scale.tolist() == [-8.0] and step.threshold.tolist() == [2.5]
    assert feature_scores(acts["bomb"][0, 0], acts["tree"][0, 0]).argmax() == 5
    both = selected(acts, ["bomb", "tree"], 0, 85.0, -1.0)
    assert both.index.tolist()[0] == 5 and len(both.index) == len(both.scale) == len(both.threshold)


def test_of_concepts_that_share_a_feature_the_last_one_counts():
    acts = {name: torch.zeros(2, 1, 8) for name in ("bomb", "skull", "tree")}
    acts["bomb"][:, :, 5], acts["skull"][:, :, 5], acts["tree"][:] = 4.0, 2.0, 1.0
    step = selected(acts, ["bomb", "skull"], 0, 90.0, -2.0)
    assert step.index.tolist() == [5] and step.scale.tolist() == [-4.0] and len(step.threshold) == 1


def test_only_k_features_of_a_position_are_active():
    sae = Autoencoder(*(tensors()[name] for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")), k=K)
    assert ((sae.encode(torch.randn(5, 7, WIDTH)) != 0).sum(-1) <= K).all()


def test_the_folder_may_be_the_hook_points_own(files, tmp_path):
    own = files | {"checkpoint": str(Path(files["checkpoint"]) / POINT)}
    assert np.array_equal(draw(SAeUron(**own), None), draw(SAeUron(**files), None))
    assert SAeUron(**own).identity() == SAeUron(**files).identity()


def attach(files: dict[str, Any], **changes: Any) -> None:
    with attached(random_model(), [SAeUron(**files | changes)], [None]):
        pass


@pytest.mark.parametrize(("state", "config", "said"), [
    (None, {"d_in": 16, "num_latents": FEATURES}, "has shape"),
    (tensors(16), {"d_in": 16, "num_latents": FEATURES}, "reads 16 channels"),
    (None, {"input_unit_norm": True}, "normalises its input"),
    (tensors() | {"extra": torch.zeros(1)}, {}, "extra is not in the model"),
    (tensors() | {"b_dec": torch.full((WIDTH,), torch.nan)}, {}, "non-finite"),
])  # fmt: skip
def test_a_wrong_layout_is_refused_in_one_line(files, tmp_path, state, config, said):
    with pytest.raises(InvalidValueError, match=said) as caught:
        attach(files, checkpoint=write(tmp_path / "wrong", state, **config))
    assert "\n" not in str(caught.value)


def test_activations_must_fit_and_hold_the_concepts(files, tmp_path):
    save_file(gathered(8), tmp_path / "narrow.safetensors")
    with pytest.raises(InvalidValueError, match="do not fit"):
        attach(files, activations=str(tmp_path / "narrow.safetensors"))
    with pytest.raises(UnknownNameError, match="bomb"):
        attach(files, concepts=["bom"])
    with pytest.raises(InvalidValueError, match="bomb, house, tree"):
        attach(files, concepts=[])
    with pytest.raises(UnknownNameError, match=r"up_blocks\.0\.attentions\.1"):
        attach(files, hookpoint="unet.up_blocks.0.attentions.7",
               checkpoint=write(tmp_path / "flat", nested=False))


def test_what_is_missing_says_where_to_get_it(files):
    assert "bcywinski/SAeUron" in str(SAeUron().missing())
    assert "method.activations=<file>" in str(SAeUron(**files | {"activations": None}).missing())
    assert SAeUron(**files).missing() is None
    with pytest.raises(IncompatibleError, match="sdxl"):
        SAeUron().check({"name": "xl", "family": "sdxl"}, 5.0)
    with pytest.raises(UnknownNameError, match="exact"):
        SAeUron(error="none")
