"""HFI: feedback files, the reward, the learned word, and what methods to the right make of it."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, StoppedError, UnknownNameError
from harness.method import check_published, publish_concepts
from harness.models.text_encoder import pooled, token_ids
from harness.records import Status
from harness.sampling.session import attached
from harness.training.artifacts import (
    ArtifactCache,
    StoredArtifact,
    artifact_keys,
    base_identity,
    lineages,
    prepare_all,
)
from methods.esd import ESD
from methods.hfi import HFI, RewardTraining, binary_loss, ranking_loss, reward, reward_weights
from methods.hfi_feedback import Feedback, Pair, feedback_hash, read_feedback
from methods.hfi_inversion import TokenTrainer, inversion_loss
from methods.hfi_tokens import soft_tokens, token_text, word_vectors
from methods.interpret import Interpret
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.rece import RECE
from methods.safedir import SafeDir
from methods.safree import SAFREE
from methods.sdd import SDD
from methods.sega import SEGA
from methods.sld import SLD
from methods.uce import UCE
from tests.method_parity import agree
from tests.sampling.test_denoiser import checksum, hooks, pixels
from tests.support.fixtures_models import make_items, make_settings, random_config, random_model

CLIP = "pkg://harness.micro/weights/clip"
QUICK: dict[str, Any] = {
    "word": "bomb", "clip": CLIP, "reward": {"hidden": 8, "iterations": 40, "learning_rate": 1e-2},
    "inversion": {"iterations": 3, "learning_rate": 1e-2, "batch": 2, "templates": ["a picture of {}"]},
}  # fmt: skip


@pytest.fixture
def feedback(tmp_path) -> Path:
    """Write six images, dark ones being what people object to, and the file that says so."""
    lines = ["image,label"]
    for index in range(6):
        Image.fromarray(np.full((48, 48, 3), 30 + 40 * index, np.uint8)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{int(index < 3)}")
    (tmp_path / "feedback.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "feedback.csv"


def hfi(feedback: Path | None, **changes: Any) -> HFI:
    return HFI(**(QUICK | {"feedback": str(feedback) if feedback else None} | changes))


def sld(concept: str = "a bomb") -> SLD:
    return SLD(concept, 0, 5000, 1.0, 0.5, 0.7)


def stored(method: HFI, vectors: torch.Tensor) -> StoredArtifact:
    return StoredArtifact("key", {"token": vectors}, {"base": {"weights": random_model().fingerprint}})


def some_vectors(count: int = 1) -> torch.Tensor:
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(3))


def test_losses_are_the_papers():
    r, y = torch.tensor([0.5, 1.0]), torch.tensor([1.0, 1.0])
    assert binary_loss(r, y).item() == pytest.approx(0.125)
    assert ranking_loss(torch.tensor([0.0]), torch.tensor([0.0])).item() == pytest.approx(np.log(2))
    n, e = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    assert inversion_loss(torch.tensor([1.0, 0.0]), n, e).item() == 0.5


@pytest.mark.parametrize("said", [Feedback(labels=(1.0,) * 8 + (0.0,) * 8),
                                  Feedback(pairs=tuple(Pair(i, j) for i in range(8) for j in range(8, 16)))])
def test_the_reward_learns_what_was_said(said):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 5, generator=generator) * 0.1
    x[:8, 2] += 1
    weights, losses = reward_weights(x, said, RewardTraining(hidden=8, iterations=200, learning_rate=1e-2), generator)
    r = reward(x, weights)
    assert losses[-1] < 0.3 * losses[0]
    assert r[:8].min() > r[8:].max()


def test_a_file_of_labels_and_one_of_ranks(feedback):
    assert read_feedback(str(feedback)).feedback.labels == (1, 1, 1, 0, 0, 0)
    ranks = feedback.with_name("ranks.csv")
    ranks.write_text("image,rank,group\n0.png,1,a\n1.png,2,a\n2.png,2,b\n3.png,1,b\n4.png,1,b\n")
    assert read_feedback(str(ranks)).feedback.pairs == (Pair(0, 1), Pair(3, 2), Pair(4, 2))


def test_images_of_feedback_are_found_whichever_way_accents_and_slashes_are_written(feedback):
    (feedback.parent / unicodedata.normalize("NFD", "é")).mkdir()
    moved = feedback.with_name("0.png").rename(feedback.parent / unicodedata.normalize("NFD", "é") / "0.png")
    feedback.write_text("image,label\n" + unicodedata.normalize("NFC", "é") + "\\0.png,1\n1.png,0\n")
    assert read_feedback(str(feedback)).images[0] == moved
    before = feedback_hash(str(feedback))
    moved.write_bytes(b"another one")
    assert feedback_hash(str(feedback)) != before


@pytest.mark.parametrize(("text", "error", "said"), [
    ("image,label\n0.png,1\nlost.png,0\ngone.png,0\n", MissingResourceError, "2 of 3 images are missing, such as"),
    ("image,label\n0.png,1\n1.png,1\n", InvalidValueError, "all 2 labels are 1"),
    ("image,label\n0.png,1\n1.png,nan\n", InvalidValueError, "row 1: label 'nan' is not a number from 0 to 1"),
    ("image,label\n0.png,1\n1.png,\n", InvalidValueError, "all 1 labels are 1"),
    ("image,label\n0.png,1\n1.png,7\n", InvalidValueError, "row 1: label '7'"),
    ("image,rank\n0.png,1\n1.png,nan\n", InvalidValueError, "row 1: rank 'nan' is not a number of at least 1"),
    ("image,rank\n0.png,2\n1.png,2\n", InvalidValueError, "no two images in a group have different ranks"),
    ("image,label,rank\n0.png,1,2\n", InvalidValueError, "one of 'label' or 'rank'"),
    ("file,label\n0.png,1\n", InvalidValueError, "needs a column 'image'"),
    ("image,label\n", InvalidValueError, "and rows"),
    ("image,label\n,1\n0.png,0\n", InvalidValueError, "row 0: the image is missing"),
])  # fmt: skip
def test_bad_feedback_files_are_one_line_each(feedback, text, error, said):
    bad = feedback.with_name("bad.csv")
    bad.write_text(text)
    with pytest.raises(error, match=said) as caught:
        hfi(bad).labelled(random_model(), lambda *_: None)
    assert "\n" not in str(caught.value)
    if error is MissingResourceError:
        assert hfi(bad).missing() == str(caught.value)
        return
    with pytest.raises(error, match=said):
        hfi(bad).check({"name": "micro"}, 5.0)


def test_feedback_in_another_encoding_is_one_line_before_anything_loads(feedback):
    feedback.write_bytes("image,label\ncafé.png,1\n".encode("latin-1"))
    with pytest.raises(InvalidValueError, match=r"feedback\.csv is not UTF-8 text"):
        publish_concepts([hfi(feedback), sld()])[0].check({"name": "micro"}, 5.0)


def test_images_of_people_are_cropped_to_the_centre_not_squeezed():
    model = random_model()
    trainer = TokenTrainer(model, hfi(None).recipe, "word", torch.Generator())
    wide = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    assert torch.equal(trainer._latents([wide]), trainer._latents([wide[:, 16:48].copy()]))


def test_a_file_that_is_no_image_and_no_file_at_all_are_one_line(feedback):
    feedback.with_name("3.png").write_text("not an image")
    with pytest.raises(InvalidValueError, match=r"3\.png is not a readable image"):
        hfi(feedback).labelled(random_model(), lambda *_: None)[0][2:]
    assert "human feedback is missing" in str(hfi(None).missing())
    for lost in (hfi(None), hfi(feedback.with_name("nowhere.csv"))):
        with pytest.raises(MissingResourceError, match="CSV file with the columns image and label"):
            lost.prepare(random_model(), [], lambda *_: None)


def test_the_learned_word_is_a_token_that_user_prompts_cannot_reach():
    model, method = random_model(), hfi(None)
    before = checksum(model)
    tokenizer, length = model.pipe.tokenizer, len(model.pipe.tokenizer)
    doctor, bare = model.embed("a doctor").clone(), model.embed(method.token).clone()
    with attached(model, [method], [stored(method, some_vectors())]) as session:
        assert torch.equal(model.embed("a doctor"), doctor)
        assert not torch.allclose(model.embed(method.token), bare)
        items = [*make_items(1), replace(make_items(1)[0], prompt=f"A PICTURE OF {method.token.upper()}")]
        results = session.generate(items, make_settings(2))
    assert [result.status for result in results] == [Status.OK, Status.REFUSED]
    assert model.pipe.tokenizer is tokenizer and len(tokenizer) == length
    assert checksum(model) == before and hooks(model) == []
    assert "forward" not in model.pipe.text_encoder.get_input_embeddings().__dict__
    assert torch.equal(model.embed(method.token), bare)


def test_a_word_with_a_known_vector_is_that_word():
    model = random_model()
    vectors = word_vectors(model, "bomb", 1)
    with soft_tokens(model, "word", vectors):
        ours, theirs = (model.embed(f"a picture of {word}") for word in (token_text("word", 1), "bomb"))
        agree("hfi", (ours - theirs).abs().max(), 1e-5)
    with pytest.raises(IncompatibleError, match="7 features"), soft_tokens(model, "word", torch.zeros(1, 7)):
        pass


def test_the_word_is_forgotten_after_an_exception():
    model = random_model()
    tokenizer = model.pipe.tokenizer
    with pytest.raises(ZeroDivisionError), soft_tokens(model, "word", some_vectors(2)):
        assert model.pipe.tokenizer is not tokenizer
        raise ZeroDivisionError
    assert model.pipe.tokenizer is tokenizer
    assert "forward" not in model.pipe.text_encoder.get_input_embeddings().__dict__


def test_methods_to_the_right_name_the_word_and_those_to_the_left_do_not(feedback):
    method = hfi(feedback)
    rights = [sld(), NegativePrompt("a bomb"), ESD(concept="a bomb"), SafeDir("a bomb"),
              SDD(concept=["a bomb", "a skull"])]
    named = publish_concepts([sld("first"), method, *rights])
    assert named[0].concept == "first"
    assert [other.concept for other in named[2:4]] == [method.token] * 2
    assert [other.concept for other in named[4:]] == [(method.token,)] * 3
    chosen = publish_concepts([hfi(feedback, replaces=["a skull"]), *rights])
    assert chosen[1].concept == "a bomb"
    assert chosen[5].concept == ("a bomb", chosen[0].token)


def test_of_concepts_that_become_one_word_one_stays(feedback):
    method = hfi(feedback)
    rights = [UCE(["a bomb", "a skull"]), RECE(["a bomb", "a skull"], epochs=1), SAFREE(["a bomb", "a skull"]),
              SEGA(["a bomb", "a skull"]), ESD(concept=["a bomb", "a skull"])]
    uce, rece, safree, sega, esd = publish_concepts([method, *rights])[1:]
    assert uce.erase == rece.erase == safree.concepts == sega.concept == esd.concept == (method.token,)
    assert uce.guides == ("",) and len(sega.edits) == 1
    (kept,) = publish_concepts([method, UCE(["a bomb", "a skull"], ["a ball", "a tree"])])[1:]
    assert kept.pairs == [(method.token, "a ball"), (method.token, "a tree")]
    for one, said in ((SafeDir(["a bomb", "a skull"]), "one direction for each of 2"),
                      (SEGA(["a bomb", "a skull"], scale=[1, 2]), "different settings")):
        with pytest.raises(IncompatibleError, match=said):
            publish_concepts([method, one])


@pytest.mark.parametrize("rights", [[], [SDD(concept="a bomb")], [Interpret([{"name": "a", "positive": "a"}])]])
def test_a_word_that_nobody_uses_is_refused(feedback, rights):
    unused = [hfi(feedback, replaces=["a bmob"] if rights else None), *rights]
    for methods in (unused, [ESD(concept="a bomb"), *unused], [*unused, NoMethod()]):
        with pytest.raises(IncompatibleError, match="no method to its right uses"):
            check_published(methods)
    check_published([hfi(feedback), SDD(concept="a bomb")])
    with pytest.raises(IncompatibleError, match="method hfi publishes"):
        check_published([hfi(feedback), hfi(feedback, name="again", seed=1), SDD(concept="a bomb")])


def test_a_word_is_not_trained_on_by_a_model_that_does_not_know_it(feedback):
    with pytest.raises(IncompatibleError, match=r"does not know the word that hfi publishes.*on_edited=retrain"):
        check_published([hfi(feedback), SafeDir("a bomb", on_edited="transfer")])
    check_published([hfi(feedback, replaces=["a skull"]), SafeDir("a bomb", on_edited="transfer"), sld("a skull")])


def test_the_pooled_vector_is_the_end_tokens_also_with_a_learned_word(monkeypatch):
    """Stable Diffusion 1's encoder says eos_token_id=2, for which the library takes the highest token instead."""
    model = random_model()
    monkeypatch.setattr(model.pipe.text_encoder, "eos_token_id", 2)
    text = "a picture of bomb"
    with torch.no_grad():
        assert torch.equal(pooled(model, token_ids(model, text)),
                           model.pipe.text_encoder(token_ids(model, text)).pooler_output)
    known = pooled(model, token_ids(model, text))
    with soft_tokens(model, "word", word_vectors(model, "bomb", 1)):
        soft = pooled(model, token_ids(model, f"a picture of {token_text('word', 1)}"))
    assert torch.allclose(soft, known, atol=1e-5)


@pytest.mark.parametrize("other", [sld(), NegativePrompt("a bomb")])
def test_guidance_methods_steer_by_the_learned_word(feedback, other):
    """With the vector of a known word, [hfi, other] draws what `other` draws with that word."""
    model, items, method = random_model(), make_items(2), hfi(feedback)
    artifact = stored(method, word_vectors(model, "bomb", 1))
    with attached(model, publish_concepts([method, other]), [artifact, None]) as session:
        ours = pixels(session.generate(items, make_settings()))
    with attached(model, [replace(other, concept="bomb")], [None]) as session:
        expected = pixels(session.generate(items, make_settings()))
    with attached(model, [NoMethod()], [None]) as session:
        bare = pixels(session.generate(items, make_settings()))
    assert np.abs(ours.astype(int) - expected).max() <= 1
    assert np.abs(ours.astype(int) - bare).max() > 2


def test_training_repeats_to_the_bit_and_leaves_everything_as_it_was(feedback):
    model, method = random_model(), hfi(feedback)
    before, state, tokenizer = checksum(model), torch.get_rng_state(), model.pipe.tokenizer
    first = method.prepare(model, [], lambda *_: None)
    again, other = (one.prepare(model, [], lambda *_: None) for one in (method, hfi(feedback, seed=1)))
    assert first.tensors["token"].shape == (1, 32)
    assert all(torch.equal(again.tensors[name], value) for name, value in first.tensors.items())
    assert not torch.equal(other.tensors["token"], first.tensors["token"])
    assert not torch.equal(first.tensors["token"], word_vectors(model, "bomb", 1))
    assert len(first.meta["losses"]["token"]) == 3
    assert checksum(model) == before and torch.equal(torch.get_rng_state(), state)
    assert model.pipe.tokenizer is tokenizer
    assert all(value.requires_grad and value.grad is None for value in model.pipe.text_encoder.parameters())


def test_training_that_is_stopped_leaves_everything_as_it_was(feedback):
    model = random_model()
    before, tokenizer = checksum(model), model.pipe.tokenizer

    def stop(what: str, done: int, total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        hfi(feedback).prepare(model, [], stop)
    assert checksum(model) == before and model.pipe.tokenizer is tokenizer


def test_a_method_that_trains_does_so_on_the_word_and_again_for_other_feedback(feedback, tmp_path):
    def keys() -> list[str | None]:
        methods = publish_concepts([hfi(feedback), SDD(concept="a bomb", iterations=2, steps=3)])
        return artifact_keys(methods, {"weights": "w"})

    methods = publish_concepts([hfi(feedback), SDD(concept="a bomb", iterations=2, steps=3)])
    before = keys()
    word, change = prepare_all(random_model(), methods, ArtifactCache(tmp_path / "artifacts"))
    edits = lineages(methods, base_identity(random_config()))[1].upstream
    assert len(edits) == 1 and tuple(change.meta["upstream"]) == edits and word.key
    feedback.write_text(feedback.read_text().replace("2.png,1", "2.png,0"))
    assert all(a != b for a, b in zip(before, keys(), strict=True))


def test_feedback_is_named_by_content_not_by_path(feedback, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in [feedback, *feedback.parent.glob("*.png")]:
        (moved / file.name).write_bytes(file.read_bytes())
    assert hfi(moved / "feedback.csv").identity() == hfi(feedback).identity()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(moved / "0.png")
    assert hfi(moved / "feedback.csv").identity() != hfi(feedback).identity()


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"word": ""}, InvalidValueError, "method.word"),
    ({"replaces": [""]}, InvalidValueError, "method.replaces"),
    ({"reward": {"hiden": 3}}, UnknownNameError, "Did you mean: hidden"),
    ({"inversion": {"top": 0}}, InvalidValueError, "method.inversion.top=0"),
    ({"inversion": {"templates": ["a photo"]}}, InvalidValueError, "expected a text with {} for the word"),
    ({"clip": "/nowhere/clip", "feedback": None}, None, ""),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    if error is None:
        assert hfi(None, **{key: value for key, value in change.items() if key != "feedback"}).missing()
        return
    with pytest.raises(error, match=said):
        hfi(None, **change)
