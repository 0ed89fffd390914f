"""Similarity, preference and question answering on tiny random-weight models: the arithmetic, not the judgement."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.errors import HarnessError, IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.evaluators.clip_features import ClipFeatures
from harness.evaluators.clip_score import ClipScore
from harness.evaluators.clip_similarity import ClipImageSimilarity
from harness.evaluators.fid import Fid
from harness.evaluators.preference import PickScore
from harness.evaluators.scoring import score_requests
from harness.evaluators.vqa_score import VqaScore
from harness.lib.targets import build
from harness.metrics.summary import NOT_APPLICABLE, EvaluatorScores, summarise_cell
from harness.records import ImageKey, ImageRow, ScoreItem, ScoreRow, Status
from tests.support.evaluator_fixtures import item, picture, random_llava

CONF = Path(__file__).parents[2] / "conf" / "evaluator"


@pytest.fixture(scope="module")
def vqa_folder(tmp_path_factory):
    return random_llava(tmp_path_factory.mktemp("vqa") / "random-weight-llava")


def ready(evaluator):
    assert evaluator.missing() is None
    evaluator.setup("cpu")
    return evaluator


def preset(name):
    return yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))


# What benchmarks.md 3.5 and the sources' code say: model, prefix, and the value at cosines of 0.3 and -0.1.
CONVENTIONS = {
    "clip_score_sdd": ("openai/clip-vit-large-patch14", "A photo depicts ", 0.3, -0.1),
    "clip_score_uce": ("openai/clip-vit-base-patch32", "", 30, -10),
    "clip_score_unlearndiffatk": ("openai/clip-vit-large-patch14", "", 0.3, 0),
    "clip_score_heim": ("openai/clip-vit-large-patch14", "", 30, 0),
    "clip_score_clipscore": ("openai/clip-vit-base-patch32", "A photo depicts ", 0.75, 0),
    "clip_score_evalgim": ("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "", 30, -10),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_clip_score_convention_is_that_of_its_source(name):
    source, prefix, high, low = CONVENTIONS[name]
    made = build(preset(name))
    assert (made.source, made.prefix) == (source, prefix)
    assert len(made.revision) == 40
    values = [made.decide(ScoreRow("p", 0, values={"cosine": c, "truncated": 0.0})).value for c in (0.3, -0.1)]
    assert values == pytest.approx([high, low])


def test_every_shipped_convention_is_tested():
    assert {file.stem for file in CONF.glob("clip_score_*.yaml")} - {"clip_score_micro"} == set(CONVENTIONS)


def test_conventions_of_one_model_and_prefix_share_their_cosines_and_no_others_do():
    made = {name: build(preset(name)) for name in CONVENTIONS}
    assert {one.stored_as for one in made.values()} == {"clip_cosine"}
    measured = {name: json.dumps(dict(one.measured()), sort_keys=True) for name, one in made.items()}
    assert measured["clip_score_heim"] == measured["clip_score_unlearndiffatk"]
    assert len(set(measured.values())) == len(measured) - 1
    assert len({json.dumps(dict(one.identity()), sort_keys=True) for one in made.values()}) == len(made)


def test_stored_cosines_of_one_convention_are_read_by_another(clip_folder):
    items = [item(i, prompt=text) for i, text in enumerate(["a tree", "a house", "tree " * 200])]
    stored = ready(ClipScore("a", clip_folder, scale=7.0)).score(items)
    other = ClipScore("b", clip_folder, scale=2.5, floor_at_zero=True, truncation="drop")
    decided = [other.decide(row) for row in stored]
    assert decided == ready(other).score(items)
    assert decided[0].value == pytest.approx(2.5 * max(stored[0].values["cosine"], 0))
    assert (decided[2].value, decided[2].label) == (None, NOT_APPLICABLE)
    assert [ClipScore("a", clip_folder, scale=7.0).decide(row) for row in decided] == stored
    failed = ScoreRow("p", 0, error="broken")
    assert other.decide(failed) is failed


def test_a_clip_score_names_its_convention_and_counts_what_was_cut(clip_folder):
    rows = ready(ClipScore("a", clip_folder)).score([item(0), item(1, prompt="tree " * 200)])
    heim = replace(build(preset("clip_score_heim")), name="x").note(rows)
    assert heim == "100 x max(cosine, 0), openai/clip-vit-large-patch14, prompt; 1 over-long truncated"
    uce = build(preset("clip_score_uce"))
    assert uce.note(rows).endswith("1 over-long skipped")
    sdd = build(preset("clip_score_sdd")).note(rows[:1])
    assert sdd == "1 x cosine, openai/clip-vit-large-patch14, 'A photo depicts ' + prompt"


def images_of(rows):
    return [
        ImageRow(row.prompt_id, row.repeat, f"prompt {row.prompt_id}", (), 0, 7.5, "f", "s", 1, Status.OK, None, 1.0, 1,
                 "w")
        for row in rows
    ]  # fmt: skip


def test_the_convention_is_in_the_metric_s_note():
    made = build(preset("clip_score_uce"))
    cosines = (0.2, 0.4, 0.9)
    rows = [ScoreRow(f"p{i}", 0, values={"cosine": c, "truncated": float(i == 2)}) for i, c in enumerate(cosines)]
    decided = [made.decide(row) for row in rows]
    found = summarise_cell(images_of(rows), {"c": EvaluatorScores.of(made, decided)}, None, 0).metrics["clip_score"]
    assert found.value == pytest.approx(30)
    assert (found.n, found.n_unknown) == (2, 0)
    assert "1 not applicable" in found.note
    assert "100 x cosine, openai/clip-vit-base-patch32" in found.note


def test_an_unknown_truncation_is_refused(clip_folder):
    with pytest.raises(HarnessError, match="cut"):
        ClipScore("a", clip_folder, truncation="cutt")


def test_similarity_is_one_for_the_same_image_and_the_cosine_of_the_embeddings_else(clip_folder, clip):
    evaluator = ready(ClipImageSimilarity("s", clip_folder))
    one, other = picture(0), picture(1, (48, 40))
    rows = evaluator.score([item(0, one, baseline=one), item(1, one, baseline=other)])
    expected = float((clip.image_features([one]) @ clip.image_features([other]).T)[0, 0])
    assert [row.value for row in rows] == pytest.approx([1, expected], abs=1e-5)
    assert expected < 0.999
    assert evaluator.needs_baseline


def test_clip_embeddings_are_features_of_set_metrics(clip_folder, clip):
    config = {"_target_": "harness.evaluators.clip_features.ClipFeatures", "source": clip_folder, "name": "clip_tiny"}
    evaluator = ready(Fid("fid_clip", config))
    images = [picture(0), picture(1, (48, 40))]
    found = evaluator.features([item(i, image) for i, image in enumerate(images)])
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, clip.image_features(images), atol=1e-5)
    assert not np.allclose(np.linalg.norm(found, axis=1), 1, atol=0.1)
    assert evaluator.features_name == "clip_tiny"
    assert ClipFeatures(clip_folder).identity()["weights_sha256"]


def test_pick_score_is_the_logit_of_transformers(clip_folder):
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

    model = CLIPModel.from_pretrained(clip_folder).eval()
    image, text = picture(3), "a tree at night"
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(images=[Image.fromarray(image)], return_tensors="pt")
    tokens = CLIPTokenizerFast.from_pretrained(clip_folder)([text], return_tensors="pt", padding=True)
    with torch.inference_mode():
        expected = model(pixel_values=pixels["pixel_values"], **tokens).logits_per_image.item()
    row = ready(PickScore("p", clip_folder)).score([item(0, image, prompt=text)])[0]
    assert row.value == pytest.approx(expected, abs=1e-3)
    assert row.value == pytest.approx(model.logit_scale.exp().item() * row.values["cosine"], rel=1e-5)
    assert abs(row.value) > 10 * abs(row.values["cosine"])


def test_vqa_score_is_the_probability_of_yes_as_the_next_token(vqa_folder):
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(vqa_folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(vqa_folder)
    image = picture(0, (24, 24))
    text = 'USER <image> Does this figure show "a red house"? Please answer yes or no. ASSISTANT'
    inputs = processor(text=text, images=Image.fromarray(image), return_tensors="pt")
    with torch.inference_mode():
        chances = model(**inputs).logits[0, -1].double().softmax(dim=-1)
    evaluator = ready(VqaScore("v", vqa_folder, dtype="float32"))
    found = evaluator.score([item(0, image, prompt="a red house")])[0].value
    assert found == pytest.approx(chances[processor.tokenizer.convert_tokens_to_ids("Yes")].item(), rel=1e-4)
    other = replace(evaluator, answer="No")
    other._model = evaluator._model
    no = other.score([item(0, image, prompt="a red house")])[0].value
    assert no == pytest.approx(chances[processor.tokenizer.convert_tokens_to_ids("No")].item(), rel=1e-4)
    assert 0 < found < 1
    assert found != pytest.approx(no)


def test_vqa_score_does_not_depend_on_the_batch(vqa_folder):
    """Prompts of other lengths: the shorter ones are padded, and must not notice."""
    evaluator = ready(VqaScore("v", vqa_folder, dtype="float32"))
    prompts = ["a tree", "a red house and two dogs at night and a tree", "two dogs"]
    items = [item(i, picture(i, (24, 20)), prompt=prompt) for i, prompt in enumerate(prompts)]
    together = [row.value for row in evaluator.score(items)]
    alone = [evaluator.score([one])[0].value for one in items]
    assert together == pytest.approx(alone, rel=1e-4)
    assert len({round(value, 6) for value in alone}) == 3


def test_a_prompt_that_writes_the_image_token_is_text(vqa_folder):
    evaluator = ready(VqaScore("v", vqa_folder, dtype="float32"))
    rows = evaluator.score([item(0, picture(0), prompt="<image> a tree {} </s>")])
    assert 0 < rows[0].value < 1


def test_an_answer_of_several_tokens_and_a_question_without_its_place_are_refused(vqa_folder):
    with pytest.raises(IncompatibleError, match="2 tokens"):
        VqaScore("v", vqa_folder, dtype="float32", answer="Yes No").setup("cpu")
    with pytest.raises(InvalidValueError, match="where the prompt goes"):
        VqaScore("v", vqa_folder, question="Is it so?")
    with pytest.raises(UnknownNameError, match="bfloat16"):
        VqaScore("v", vqa_folder, dtype="int8")


def test_a_question_of_other_words_is_another_identity(vqa_folder):
    base = VqaScore("v", vqa_folder)
    changed = [replace(base, question="Is it {}?"), replace(base, answer="No"), replace(base, dtype="float16")]
    assert all(dict(one.identity()) != dict(base.identity()) for one in changed)
    assert base.identity()["model"] == "local"
    assert base.identity()["files_sha256"]


@pytest.mark.parametrize("name", ["clip_image_similarity", "pick_score", "vqa_score", "fid_clip", *CONVENTIONS])
def test_what_is_not_there_is_said_with_its_revision_and_never_fetched(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    made = build(preset(name))
    wanted = made.downloads()[0]
    assert f"--revision {wanted.revision}" in made.missing()
    assert wanted.repo in made.missing()
    with pytest.raises(MissingResourceError):
        made.setup("cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_which_a_part_is_absent_is_missing(vqa_folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert "model-1.safetensors is empty" in VqaScore("vqa", str(tmp_path)).missing()
    assert VqaScore("vqa", vqa_folder).missing() is None


def evaluators(clip_folder, vqa_folder):
    return [
        ClipImageSimilarity("similarity", clip_folder),
        PickScore("pick", clip_folder),
        VqaScore("vqa", vqa_folder, dtype="float32"),
        ClipScore("clip", clip_folder),
    ]


@pytest.mark.parametrize("which", range(4))
def test_damaged_images_are_unknown_and_no_others_are(which, clip_folder, vqa_folder, tmp_path):
    from PIL import Image

    evaluator = ready(evaluators(clip_folder, vqa_folder)[which])
    good = [tmp_path / f"{name}.png" for name in ("plain", "tiny", "grey", "alpha", "wide")]
    pictures = (picture(0), picture(1)[:1, :1], picture(2)[:, :, 0], np.dstack([picture(3), picture(3)[:, :, :1]]),
                picture(4, (90, 20)))  # fmt: skip
    for file, array in zip(good, pictures, strict=True):
        Image.fromarray(array).save(file)
    cut = tmp_path / "cut.png"
    cut.write_bytes(good[0].read_bytes()[:200])
    files = [good[0], cut, *good[1:], tmp_path / "absent.png"]
    requests = [
        ScoreItem(ImageKey(f"p{i}", 0), "a tree", (), {}, str(file), str(good[0])) for i, file in enumerate(files)
    ]
    rows = score_requests(evaluator, requests, 4)
    assert [row.value is None for row in rows] == [file == cut or file.name == "absent.png" for file in files]
    assert all(row.error for row in rows if row.value is None)


@pytest.mark.parametrize("which", range(4))
def test_a_model_that_gives_nan_gives_no_value(which, clip_folder, vqa_folder, tmp_path, monkeypatch):
    from PIL import Image

    evaluator = ready(evaluators(clip_folder, vqa_folder)[which])
    nan = lambda *_: np.full((1, 32), np.nan, np.float32)  # noqa: E731
    monkeypatch.setattr("harness.evaluators.clip.Clip.image_features", nan)
    monkeypatch.setattr("harness.evaluators.vlm.VisionLanguageModel.probabilities", lambda *_: np.array([np.nan]))
    file = tmp_path / "a.png"
    Image.fromarray(picture(0)).save(file)
    rows = score_requests(evaluator, [ScoreItem(ImageKey("p", 0), "a tree", (), {}, str(file), str(file))], 1)
    assert rows[0].value is None
    assert "finite" in rows[0].error
