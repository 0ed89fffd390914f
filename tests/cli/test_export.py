"""Exported artifacts: files that diffusers reads without the harness, and pictures that are those of the method."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.cli.export import base_loader, export_artifact, write_export
from harness.errors import IncompatibleError, InvalidValueError
from harness.method import Method, publish_concepts
from harness.sampling.session import attached
from harness.training.artifacts import StoredArtifact
from harness.training.fine_tuning import parameter_names
from methods.esd import ESD
from methods.hfi import HFI
from methods.interpret import Interpret
from methods.interpret_direction import bottleneck_shape
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.safedir import SafeDir
from methods.uce import UCE
from tests.sampling.test_denoiser import pixels, stock
from tests.support.fixtures_models import make_items, make_settings, random_config, random_model


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(method: Method, tensors: dict[str, torch.Tensor], **meta: Any) -> StoredArtifact:
    """Return an artifact as the cache would."""
    kind = type(method)
    own = {"method": method.name, "class": f"{kind.__module__}.{kind.__qualname__}", "model": "random-weight",
           "recipe": method.training_identity(), "settings": method.params(),
           "base": {"weights": random_model().fingerprint}, "upstream": []}
    return StoredArtifact("abc123", tensors, own | meta)


def deltas(which: str, suffix: str = "") -> dict[str, torch.Tensor]:
    denoiser = random_model().denoiser
    own = dict(denoiser.named_parameters())
    return {name + suffix: noise(*own[name].shape, scale=0.3) for name in parameter_names(denoiser, which)}


@lru_cache(maxsize=1)
def plain_pipeline():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(random_config()["source"], safety_checker=None,
                                                   requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def applied(artifact: StoredArtifact, folder: Path, monkeypatch: Any, steps: int = 5) -> tuple[Any, dict[str, Any]]:
    """Export, run how_to_use.txt on a pipeline that the harness never saw; return it and the code's names."""
    files = write_export(export_artifact(artifact, random_model), artifact, folder)
    assert {file.suffix for file in files} == {".safetensors", ".txt"}
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"pipe": copy.deepcopy(plain_pipeline())}
    code = (folder / "how_to_use.txt").read_text()
    exec(code.replace("steps, start, end = 50", f"steps, start, end = {steps}"), names)
    return names["pipe"], names


def outside(pipe: Any, **texts: Any) -> np.ndarray:
    items = make_items(2)
    prompts = [item.prompt for item in items]
    return stock(SimpleNamespace(pipe=pipe), items, 5, 32, prompt=prompts, **texts)  # type: ignore[arg-type]


def inside(*methods: Method, artifact: StoredArtifact | None = None) -> np.ndarray:
    artifacts = [artifact if method.trains else None for method in methods]
    with attached(random_model(), publish_concepts(methods), artifacts) as session:
        return pixels(session.generate(make_items(2), make_settings()))


def check(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Check that pictures agree to 1 grey level, and that the method did something."""
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.abs(ours.astype(int) - inside(NoMethod())).max() > 2


@pytest.mark.parametrize(("method", "which", "suffix"), [
    (ESD(concept="a bomb"), "xattn", ".delta"), (UCE(["a bomb"]), "x_strict", "")])  # fmt: skip
def test_edited_weights_load_into_the_stock_unet(method, which, suffix, tmp_path, monkeypatch):
    tensors = deltas(which, suffix)
    artifact = made(method, tensors)
    pipe, _ = applied(artifact, tmp_path / "out", monkeypatch)
    file = load_file(tmp_path / "out" / f"{method.kind}.safetensors")
    assert set(file) == {name.removesuffix(".delta") for name in tensors}
    check(inside(method, artifact=artifact), outside(pipe))


@pytest.mark.parametrize("full", [False, True])
def test_safe_directions_shift_the_stock_pipelines_embeddings(full, tmp_path, monkeypatch):
    method = SafeDir("a bomb" if full else ["a bomb", "a ball"])
    tensors = {"d.0": noise(77, 32)} if full else {
        f"{name}.{n}": noise(*shape, seed=n) for n in (0, 1) for name, shape in (("a", (1, 32)), ("b", (77, 1)))}
    artifact = made(method, tensors)
    pipe, names = applied(artifact, tmp_path / "out", monkeypatch)
    assert names["apply"].pop("num_inference_steps") == 5
    check(inside(method, artifact=artifact), outside(pipe, **names["apply"]))


def rank_one(count: int) -> dict[str, torch.Tensor]:
    return {f"{name}.{n}": noise(*shape, seed=n) for n in range(count) for name, shape in (("a", (1, 32)),
                                                                                         ("b", (77, 1)))}


def test_an_export_applies_strength_and_window_as_the_method_does(tmp_path, monkeypatch):
    method = SafeDir(["a bomb", "a ball"], strength=[0.5, 1.5], start=2, end=3, window="calls")
    artifact = made(method, rank_one(2))
    pipe, names = applied(artifact, tmp_path / "out", monkeypatch)
    assert "in these calls of any number;" in (tmp_path / "out" / "how_to_use.txt").read_text()
    del names["apply"]["num_inference_steps"]
    check(inside(method, artifact=artifact), outside(pipe, **names["apply"]))


def test_an_export_of_the_fair_mode_adds_one_direction_not_their_sum(tmp_path, monkeypatch):
    method = SafeDir(["a man", "a woman"], combine="draw", start=2, window="calls")
    artifact = made(method, rank_one(2))
    _, names = applied(artifact, tmp_path / "out", monkeypatch)
    assert torch.allclose(names["d"][0], artifact.tensors["b.0"] @ artifact.tensors["a.0"])
    assert not (tmp_path / "out" / "how_to_use.txt").read_text().count("sum(")


def test_exported_directions_have_the_shapes_of_the_authors_file(tmp_path):
    artifact = made(SafeDir("a bomb"), rank_one(1))
    write_export(export_artifact(artifact, random_model), artifact, tmp_path / "out")
    found = load_file(tmp_path / "out" / "safe_direction.safetensors")
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {"b": (1, 77, 1), "a": (1, 1, 32)}  # as models/safe-direction.pth of the release, but for D


def test_an_export_that_cannot_say_what_the_method_does_is_refused():
    old = made(SafeDir(["a bomb", "a ball"]), rank_one(2), settings=None)
    with pytest.raises(IncompatibleError, match=r"does not say whether they are summed or drawn.*method\.combine"):
        export_artifact(old, random_model)
    with pytest.raises(IncompatibleError, match="starts at call 1"):
        export_artifact(made(SafeDir("a bomb", start=1), rank_one(1)), random_model)


def test_bottleneck_directions_are_the_released_lookup_table(tmp_path, monkeypatch):
    method = Interpret([{"name": name, "positive": f"a {name}"} for name in ("bomb", "ball")], strength=[1.0, 0.0])
    shape = bottleneck_shape(random_model())
    artifact = made(method, {f"h.{n}": noise(*shape, scale=3.0, seed=n) for n in (0, 1)})
    pipe, _ = applied(artifact, tmp_path / "out", monkeypatch)
    table = load_file(tmp_path / "out" / "interpret.safetensors")["fc1.weight"]
    layer = torch.nn.Linear(2, int(np.prod(shape)), bias=False)
    layer.load_state_dict({"weight": table})
    assert torch.equal(layer(torch.tensor([0.0, 1.0])).view(shape).detach(), artifact.tensors["h.1"])
    check(inside(method, artifact=artifact), outside(pipe))


@pytest.mark.parametrize("vectors", [1, 2])
def test_learned_words_are_read_by_load_textual_inversion(vectors, tmp_path, monkeypatch):
    method = HFI(word="bomb", clip="pkg://harness.micro/weights/clip", inversion={"vectors": vectors})
    artifact = made(method, {"token": noise(vectors, 32)})
    pipe, names = applied(artifact, tmp_path / "out", monkeypatch)
    check(inside(method, NegativePrompt("a bomb"), artifact=artifact),
          outside(pipe, negative_prompt=[names["word"]] * 2))


def test_weights_trained_on_other_edits_are_not_exported():
    method = ESD(concept="a bomb")
    alone = made(method, deltas("x_strict", ".delta"), upstream_classes=["methods.hfi.HFI"])
    assert export_artifact(alone, random_model).files
    after = made(method, alone.tensors, upstream_classes=["methods.hfi.HFI", "methods.uce.UCE"])
    with pytest.raises(IncompatibleError, match=r"on weights that methods\.uce\.UCE had edited"):
        export_artifact(after, random_model)


def test_what_cannot_be_exported_is_one_line(tmp_path):
    artifact = made(UCE(["a bomb"]), deltas("x_strict"))
    with pytest.raises(IncompatibleError, match="no format outside"):
        export_artifact(made(NoMethod(), {}), random_model)
    with pytest.raises(InvalidValueError, match="does not record the class"):
        export_artifact(StoredArtifact("key", {}, {}), random_model)
    with pytest.raises(IncompatibleError, match=r"weights .{12} of random-weight, and model micro has .{12}"):
        base_loader(artifact, ["model=micro"], [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("")
    with pytest.raises(InvalidValueError, match="not empty"):
        write_export(export_artifact(artifact, random_model), artifact, tmp_path / "full")
