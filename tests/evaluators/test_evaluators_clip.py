"""CLIP evaluators on a tiny CLIP with random weights: the arithmetic, not the judgement."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError
from harness.evaluators.clip import ClipSource, softmax
from harness.evaluators.clip_attribute import ClipAttribute
from harness.evaluators.clip_score import ClipScore
from harness.evaluators.clip_zero_shot import ClipZeroShot
from harness.evaluators.q16 import Q16
from harness.evaluators.q16_prompts import read_prompts
from harness.records import Verdict
from tests.support.evaluator_fixtures import item, picture, random_clip

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "data" / "q16_vit_l14_prompts.p"


def ready(evaluator):
    assert evaluator.missing() is None
    evaluator.setup("cpu")
    return evaluator


def test_features_are_those_of_transformers_scaled_to_length_one(clip_folder, clip):
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

    model = CLIPModel.from_pretrained(clip_folder).eval()
    images, texts = [picture(0), picture(1)], ["a house", "a tree at night"]
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    pixels = processor(images=[Image.fromarray(i) for i in images], return_tensors="pt")["pixel_values"]
    tokens = CLIPTokenizerFast.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=pixels, **tokens).logits_per_image.numpy()
    cosines = clip.image_features(images) @ clip.text_features(texts).T
    np.testing.assert_allclose(clip.logit_scale * cosines, logits, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(clip.image_features(images), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (640, 31)])
def test_images_of_any_size_have_features(clip, size):
    assert np.isfinite(clip.image_features([picture(0, size)])).all()


def test_score_does_not_depend_on_the_batch(clip_folder):
    evaluator = ready(ClipScore("s", clip_folder))
    items = [item(i, picture(i, (20 + i, 40))) for i in range(5)]
    together = [row.value for row in evaluator.score(items)]
    alone = [evaluator.score([one])[0].value for one in items]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 5


def test_clip_score_follows_its_convention(clip_folder, clip):
    one = item(3, prompt="a red ball")
    raw = ready(ClipScore("s", clip_folder)).score([one])[0]
    cosine = float((clip.image_features([one.image]) @ clip.text_features(["a red ball"]).T)[0, 0])
    assert raw.value == pytest.approx(cosine, abs=1e-6)
    prefixed = ready(ClipScore("s", clip_folder, prefix="A photo depicts ")).score([one])[0]
    assert prefixed.value != pytest.approx(raw.value, abs=1e-4)
    scaled = ready(ClipScore("s", clip_folder, scale=2.5)).score([one])[0]
    assert scaled.value == pytest.approx(2.5 * raw.value, abs=1e-6)
    assert scaled.values["cosine"] == raw.values["cosine"]


def test_clip_score_is_cut_off_at_zero_where_asked(clip_folder):
    items = [item(i, prompt=f"word {i}") for i in range(12)]
    raw = [row.value for row in ready(ClipScore("s", clip_folder)).score(items)]
    cut = [row.value for row in ready(ClipScore("s", clip_folder, floor_at_zero=True)).score(items)]
    assert min(raw) < 0 < max(raw)
    assert cut == pytest.approx([max(0, value) for value in raw], abs=1e-6)


def test_over_long_prompts_are_cut_and_marked(clip_folder):
    rows = ready(ClipScore("s", clip_folder)).score([item(0, prompt="tree " * 200), item(1)])
    assert [row.values["truncated"] for row in rows] == [1.0, 0.0]


def test_zero_shot_sums_the_unsafe_texts(clip_folder, clip):
    unsafe, safe = ["a skull", "a bomb"], ["a tree", "a house"]
    evaluator = ready(ClipZeroShot("z", clip_folder, unsafe, safe))
    items = [item(i) for i in range(12)]
    rows = evaluator.score(items)
    features = clip.image_features([one.image for one in items]) @ clip.text_features(unsafe + safe).T
    expected = softmax(clip.logit_scale * features)[:, :2].sum(axis=1)
    assert [row.values["p_unsafe"] for row in rows] == pytest.approx(list(expected), abs=1e-5)
    assert [row.verdict is Verdict.UNSAFE for row in rows] == [p >= 0.5 for p in expected]
    swapped = ready(ClipZeroShot("z", clip_folder, safe, unsafe)).score(items)
    assert all(a.verdict is not b.verdict for a, b in zip(rows, swapped, strict=True))


def test_zero_shot_threshold_moves_the_verdict(clip_folder):
    items = [item(i) for i in range(6)]
    strict = ready(ClipZeroShot("z", clip_folder, ["a skull"], ["a tree"], threshold=0.999)).score(items)
    wide = ready(ClipZeroShot("z", clip_folder, ["a skull"], ["a tree"], threshold=0.001)).score(items)
    assert {row.verdict for row in strict} == {Verdict.SAFE}
    assert {row.verdict for row in wide} == {Verdict.UNSAFE}


@pytest.mark.parametrize("threshold", [0, 1, -0.1])
def test_thresholds_out_of_range_are_refused(clip_folder, threshold):
    with pytest.raises(InvalidValueError, match="threshold"):
        ClipZeroShot("z", clip_folder, ["a"], ["b"], threshold=threshold)
    with pytest.raises(InvalidValueError, match="threshold"):
        Q16("q", clip_folder, "prompts.npy", threshold=threshold)


def prompts_file(folder, array, suffix=".npy"):
    file = folder / f"prompts{suffix}"
    if suffix == ".npy":
        np.save(file, array)
    elif suffix == ".npz":
        np.savez(file, prompts=array)
    elif suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"prompts": array}, file)
    else:
        file.write_bytes(pickle.dumps(array, protocol=3))
    return str(file)


def test_q16_calls_the_second_embedding_inappropriate(clip_folder, clip, tmp_path):
    images = [picture(0), picture(1)]
    file = prompts_file(tmp_path, 20 * clip.image_features(images))  # row 0 is image 0, row 1 is image 1
    rows = ready(Q16("q", clip_folder, file)).score([item(0, images[0]), item(1, images[1])])
    assert [row.verdict for row in rows] == [Verdict.SAFE, Verdict.UNSAFE]
    assert rows[0].values["p_inappropriate"] < 0.5 < rows[1].values["p_inappropriate"]


def test_q16_is_a_softmax_of_100_cosines(clip_folder, clip, tmp_path):
    prompts = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    rows = ready(Q16("q", clip_folder, prompts_file(tmp_path, prompts))).score([item(5)])
    unit = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
    a, b = 100 * (clip.image_features([picture(5)]) @ unit.T)[0].astype(float)
    assert rows[0].values["p_inappropriate"] == pytest.approx(1 / (1 + np.exp(a - b)), abs=1e-4)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".p"])
def test_q16_reads_every_format_of_prompts(tmp_path, suffix):
    array = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float16 if suffix == ".p" else np.float32)
    found = read_prompts(Path(prompts_file(tmp_path, array, suffix)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array.astype(np.float32))


def test_published_prompts_read_without_running_the_pickle():
    if not PUBLISHED.is_file():
        pytest.skip(f"the published Q16 prompts are not at {PUBLISHED.resolve()}")
    prompts = read_prompts(PUBLISHED)
    norms = np.linalg.norm(prompts, axis=1)
    assert prompts.shape == (2, 768)
    assert norms == pytest.approx([22.17, 21.34], abs=0.01)
    assert prompts[0] @ prompts[1] / norms.prod() == pytest.approx(0.888, abs=1e-3)


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "evil.p").write_bytes(pickle.dumps(Bomb(str(tmp_path / "owned"))))
    with pytest.raises(InvalidValueError, match="mkdir"):
        read_prompts(tmp_path / "evil.p")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("array", [np.zeros((3, 8), np.float32), np.zeros(8, np.float32), np.full((2, 4), np.nan)])
def test_prompts_of_another_shape_are_refused(tmp_path, array):
    with pytest.raises(InvalidValueError, match="two finite embeddings"):
        read_prompts(Path(prompts_file(tmp_path, array)))


def test_prompts_of_another_backbone_are_refused(clip_folder, tmp_path):
    evaluator = Q16("q", clip_folder, prompts_file(tmp_path, np.ones((2, 768), np.float32)))
    with pytest.raises(IncompatibleError, match=r"768 wide.*32"):
        evaluator.setup("cpu")


def test_q16_with_other_prompts_than_published_says_so(clip_folder, tmp_path):
    file = prompts_file(tmp_path, np.ones((2, 32), np.float32))
    evaluator = Q16("q", clip_folder, file, prompts_sha256="0" * 64, how_to_get="Get them: curl")
    assert "not the published" in evaluator.missing()
    with pytest.raises(MissingResourceError, match="not the published"):
        evaluator.setup("cpu")


def test_attribute_takes_the_nearest_text_and_keeps_the_margin(clip_folder, clip):
    texts = {"woman": "a woman", "man": "a man", "tree": "a tree"}
    items = [item(i) for i in range(8)]
    rows = ready(ClipAttribute("a", clip_folder, texts)).score(items)
    similarity = clip.image_features([one.image for one in items]) @ clip.text_features(list(texts.values())).T
    assert [row.label for row in rows] == [list(texts)[k] for k in similarity.argmax(axis=1)]
    for row in rows:
        first, second, _ = sorted(row.values.values(), reverse=True)
        assert row.value == pytest.approx(first - second)
        assert sum(row.values.values()) == pytest.approx(1)


def test_small_margins_and_ties_are_undecided(clip_folder):
    wide = ready(ClipAttribute("a", clip_folder, {"x": "a woman", "y": "a man"}, undecided_margin=1.0))
    tie = ready(ClipAttribute("a", clip_folder, {"x": "a man", "y": "a man"}))
    assert {row.label for row in wide.score([item(0), item(1)])} == {"undecided"}
    assert tie.score([item(0)])[0].label == "undecided"


def evaluators(folder):
    return [
        ClipScore("s", folder),
        ClipZeroShot("z", folder, ["a"], ["b"]),
        Q16("q", folder, __file__),
        ClipAttribute("a", folder, {"x": "a", "y": "b"}),
    ]


@pytest.mark.parametrize("source", ["/nowhere/clip", "pkg://harness/no/clip", "nobody/no-such-clip"])
def test_missing_weights_are_named_and_never_fetched(source, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for evaluator in evaluators(source):
        assert evaluator.missing()
        assert "\n" not in evaluator.missing()
        with pytest.raises(MissingResourceError):
            evaluator.setup("cpu")
    assert list(tmp_path.iterdir()) == []


def test_hub_weights_are_found_in_the_cache(clip_folder, monkeypatch, tmp_path):
    snapshot = tmp_path / "models--me--clip" / "snapshots" / "abc123"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(clip_folder)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    evaluator = ready(ClipScore("s", "me/clip", revision="abc123"))
    assert evaluator.score([item(0)])[0].value is not None
    assert "abc124" in ClipScore("s", "me/clip", revision="abc124").missing()


def test_folder_without_weights_is_missing(clip_folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "no CLIP" in ClipSource(str(tmp_path)).missing()


def test_pickled_weights_are_not_read_and_the_line_says_what_to_do(clip_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(clip_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    source = ClipSource(str(folder))
    assert "pickle" in source.missing()
    assert "convert" in source.missing()
    with pytest.raises(MissingResourceError, match="pickle"):
        source.load("cpu")
    assert all("pytorch_model.bin" not in (*one.patterns, *one.one_of) for one in ClipSource("me/clip").downloads())


def test_identity_names_the_weights_and_every_setting(clip_folder, tmp_path):
    same = ClipSource(clip_folder).identity()
    other = ClipSource(random_clip(tmp_path / "other", seed=1)).identity()
    assert same["weights_sha256"] != other["weights_sha256"]
    assert "/" not in same["clip"]
    base = ClipScore("s", clip_folder)
    changed = [replace(base, prefix="x"), replace(base, scale=2.0), replace(base, floor_at_zero=True)]
    assert all(dict(one.identity()) != dict(base.identity()) for one in changed)
    texts = ClipZeroShot("z", clip_folder, ["a"], ["b"])
    assert dict(texts.identity()) != dict(replace(texts, threshold=0.6).identity())


def test_stored_attribute_decided_anew_takes_another_margin(clip_folder):
    texts = {"x": "a woman", "y": "a man", "z": "a tree"}
    stored = ready(ClipAttribute("a", clip_folder, texts)).score([item(i) for i in range(6)])
    wide = ClipAttribute("a", clip_folder, texts, undecided_margin=sorted(row.value for row in stored)[2])
    again = [wide.decide(row) for row in stored]
    assert [row.label == "undecided" for row in again] == [row.value <= wide.undecided_margin for row in stored]
    assert sum(row.label == "undecided" for row in again) == 3
    assert dict(wide.measured()) == dict(ClipAttribute("a", clip_folder, texts).measured())
    assert dict(wide.identity()) != dict(ClipAttribute("a", clip_folder, texts).identity())


def test_label_that_says_undecided_is_refused(clip_folder):
    with pytest.raises(InvalidValueError, match="undecided"):
        ClipAttribute("a", clip_folder, {"undecided": "a", "y": "b"})
    with pytest.raises(InvalidValueError, match="undecided_margin"):
        ClipAttribute("a", clip_folder, {"x": "a", "y": "b"}, undecided_margin=1.5)
