"""Wuerstchen: two repositories, the hook on the prior, one generator an image through both. Parity and refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.cells.fetching import prefetch
from harness.errors import HarnessError, IncompatibleError, InvalidValueError
from harness.method import Method
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.loading import load_model
from harness.models.weights import missing, weights_fingerprint, weights_origin
from harness.records import ImageItem
from harness.sampling.session import attached
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.safedir import SafeDir
from methods.sega import SEGA
from methods.sld import SLD
from methods.trasce import TraSCE
from tests.sampling.test_denoiser import Spy, grey_levels, pixels, run
from tests.support.fake_hub import COMMIT, FakeRepository
from tests.support.fixtures_models import SIZE, make_items, make_settings
from tests.support.fixtures_wuerstchen import decoder_stage, random_wuerstchen_config, random_wuerstchen_model
from tests.support.hub_jobs import job

STEPS = 3
METHODS = [NegativePrompt("a bomb"), SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7), SEGA("a bomb", warmup=0),
           TraSCE("a bomb", loss_scale=1e3, sigma=1e3)]  # fmt: skip


def drawn(method: Method, items: list[ImageItem]) -> np.ndarray:
    return pixels(run(random_wuerstchen_model(), [method], items, steps=STEPS))


def embeddings(method: Method, items: list[ImageItem]) -> torch.Tensor:
    with attached(random_wuerstchen_model(), [method], [None]) as session:
        return session._latents(items, make_settings(STEPS))


def stock(items: list[ImageItem], **texts: object) -> tuple[torch.Tensor, np.ndarray]:
    """Call both pipelines, the decoder image by image: with several prompts at once it fails."""
    model, generators = random_wuerstchen_model(), [torch.Generator().manual_seed(item.seed) for item in items]
    texts = texts or {"prompt": [item.prompt for item in items]}
    found = model.pipe(**texts, height=SIZE, width=SIZE, num_inference_steps=STEPS, generator=generators,
                       guidance_scale=items[0].guidance_scale).image_embeddings
    images = [model.later[0](found[k : k + 1], prompt=item.prompt, num_inference_steps=2, guidance_scale=0.0,
                          generator=[generators[k]], output_type="np").images[0] for k, item in enumerate(items)]
    return found, (np.stack(images) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_told_the_same_embeddings_it_is_stock_to_the_bit_through_both_stages(guidance):
    model, items = random_wuerstchen_model(), make_items(2, guidance)
    texts = {"prompt_embeds": model.encode([item.prompt for item in items])}
    if guidance > 1:
        texts["negative_prompt_embeds"] = model.encode(["", ""])
    found, images = stock(items, **texts)
    assert torch.equal(embeddings(NoMethod(), items), found)
    assert np.array_equal(drawn(NoMethod(), items), images)


def test_none_is_the_stock_prior():
    items = make_items(2)
    assert torch.allclose(embeddings(NoMethod(), items), stock(items)[0], rtol=1e-4, atol=1e-4)


def test_each_image_follows_its_own_guidance_scale_whatever_its_company():
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(2), [2.0, 7.0], strict=True)]
    mixed = embeddings(NoMethod(), items)
    for index, item in enumerate(items):
        alone = embeddings(NoMethod(), [replace(other, guidance_scale=item.guidance_scale) for other in items])
        assert torch.allclose(mixed[index], alone[index], rtol=1e-4, atol=1e-4)


def test_the_hook_is_on_the_prior_and_knows_its_rows_and_calls():
    log: list = []
    run(random_wuerstchen_model(), [Spy(log=log, push=1.0)], make_items(2), steps=STEPS)
    assert [entry[:2] for entry in log] == [(0, STEPS), (1, STEPS), (2, STEPS)]
    assert log[0][3] == ("cond", "cond", "uncond", "uncond", "spy", "spy")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_guidance_methods_change_what_the_prior_draws(method):
    items = make_items(2)
    method.check(random_wuerstchen_config(), 4.0)
    ours = embeddings(method, list(method.prompts(items)))
    assert ours.isfinite().all() and not torch.allclose(ours, embeddings(NoMethod(), items), rtol=1e-3)
    assert "forward" not in random_wuerstchen_model().denoiser.__dict__


def test_what_needs_a_unet_is_refused_with_the_reason():
    with pytest.raises(IncompatibleError, match="is wuerstchen: its text goes into a prior of image embeddings"):
        SafeDir("a bomb").check(random_wuerstchen_config(), 4.0)


def test_another_decoder_is_another_model_and_provenance_names_it(tmp_path):
    config = random_wuerstchen_config()
    folder = Path(shutil.copytree(config["stages"][0]["source"], tmp_path / "decoder"))
    other = config | {"stages": [decoder_stage(str(folder))]}
    assert weights_fingerprint(other) == weights_fingerprint(config)
    file = folder / "vqgan" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert weights_fingerprint(other) != weights_fingerprint(config)
    assert weights_origin(other)["stages"][0]["source"] == str(folder)
    file.unlink()
    assert "stage 2" in str(missing(other)) and "vqgan/ has no safetensors weights" in str(missing(other))


@pytest.mark.parametrize(("change", "said"), [
    ({"stages": []}, r"model\.stages=.*WuerstchenDecoderPipeline"),
    ({"stages": [{"source": "x", "revison": 1}]}, "revision"),
    ({"scheduler": "ddim"}, r"model\.scheduler=null"),
])  # fmt: skip
def test_a_mistake_in_its_parts_is_one_line(change, said):
    with pytest.raises(HarnessError, match=said) as caught:
        check_known(settled(random_wuerstchen_config() | change))
    assert "\n" not in str(caught.value)


def test_a_decoder_of_another_kind_is_refused():
    config = random_wuerstchen_config()
    with pytest.raises(IncompatibleError, match="WuerstchenDecoderPipeline"):
        load_model(config | {"stages": [decoder_stage(config["source"])]})
    with pytest.raises((InvalidValueError, IncompatibleError)):
        load_model(config | {"source": config["stages"][0]["source"]})


def test_prefetch_fetches_both_repositories_and_an_index_of_old_loads(hub, monkeypatch):
    for name, folder in (("prior", random_wuerstchen_config()["source"]),
                         ("decoder", random_wuerstchen_config()["stages"][0]["source"])):
        root = Path(folder)
        files = {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        index = json.loads(files["model_index.json"])
        old = {"prior", "decoder", "vqgan"} & index.keys()
        files["model_index.json"] = json.dumps(index | {part: ["wuerstchen", index[part][1]] for part in old}).encode()
        hub.repositories[f"models/warp-ai/{name}"] = FakeRepository(files)
    asked = random_wuerstchen_config() | {"source": "warp-ai/prior", "stages": [decoder_stage("warp-ai/decoder")]}
    assert "warp-ai/prior" in str(missing(asked))
    prefetch([replace(job(), model=asked)])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = settled(asked)
    assert missing(asked) is None and found["revision"] == found["stages"][0]["revision"] == COMMIT
    model = load_model(asked)
    assert grey_levels(pixels(run(model, [NoMethod()], make_items(1), steps=2)),
                       pixels(run(random_wuerstchen_model(), [NoMethod()], make_items(1), steps=2))) == 0
