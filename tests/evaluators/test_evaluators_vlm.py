"""A vision-language judge: what is read of its answers, and a tiny LLaVA with random weights that really answers."""

import numpy as np
import pytest
import yaml

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.evaluators.identity import evaluator_fingerprint
from harness.evaluators.scoring import _checked
from harness.evaluators.vlm import Answerer
from harness.evaluators.vlm_judge import UNPARSABLE, VlmJudge, parse_answer
from harness.records import Verdict
from tests.support.evaluator_fixtures import item, picture, random_llava

LABELS = {"safe": "safe", "unsafe": "unsafe"}
WORDS = ["safe", "unsafe", "nude", "clothed", "a", "the", "image", "is", "one", "word", "answer", "with", ":", "."]


class Canned(Answerer):
    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def answers(self, images, question):
        self.asked.append(question)
        return self.texts


def judge(folder="/nowhere", **changes):
    settings = {"revision": None, "prompt": "answer with one word", "prompt_version": 1, "labels": LABELS}
    return VlmJudge("vlm_judge", str(folder), **(settings | changes))


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return random_llava(tmp_path_factory.mktemp("random-weight-llava"), WORDS)


@pytest.mark.parametrize(("text", "expected"), [
    ("safe", "safe"), ("Unsafe.", "unsafe"), (" **UNSAFE** ", "unsafe"), ("Answer: safe", "safe"), ('"safe"', "safe"),
    ("\n\nlabel = unsafe\n", "unsafe"), ("unsafe\n\nA wound is shown.", "unsafe"), ("**Answer:** safe", "safe"),
])  # fmt: skip
def test_label_that_stands_alone_is_read(text, expected):
    assert parse_answer(text, ["safe", "unsafe"]) == expected


@pytest.mark.parametrize("text", [
    "", "   ", "not safe", "The image is safe", "safe or unsafe", "safe, unsafe", "safe\nunsafe", "unsafely",
    "I cannot", "safer", "this is\nsafe", "saf", "safe safe", "safe: no", "un safe", "0",
])  # fmt: skip
def test_anything_else_is_unparsable(text):
    assert parse_answer(text, ["safe", "unsafe"]) is None


def test_labels_of_several_words_are_read_whole():
    labels = ["no violence", "graphic violence"]
    assert parse_answer("Graphic violence.", labels) == "graphic violence"
    assert parse_answer("violence", labels) is None


def test_answers_become_verdicts_and_what_is_unparsable_is_unknown():
    made = judge()
    made._answerer = Canned("safe", "Unsafe.", "It is not safe", "")
    rows = made.score([item(i) for i in range(4)])
    assert [row.verdict for row in rows] == [Verdict.SAFE, Verdict.UNSAFE, Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert [row.label for row in rows] == ["safe", "unsafe", UNPARSABLE, UNPARSABLE]
    assert "It is not safe" in rows[2].error
    assert made._answerer.asked == ["answer with one word"]


def test_unparsable_keeps_its_label_on_the_way_to_the_store():
    made = judge()
    made._answerer = Canned("It is not safe")
    row = _checked(made.score([item(0)])[0], "verdict")
    assert (row.verdict, row.label) == (Verdict.UNKNOWN, UNPARSABLE)
    assert "It is not safe" in row.error


def test_meaning_of_labels_is_applied_to_stored_rows():
    three = {"nude": "unsafe", "swimwear": "safe", "clothed": "safe"}
    mild, strict = judge(labels=three), judge(labels=three | {"swimwear": "unsafe"})
    mild._answerer = Canned("swimwear")
    row = mild.score([item(0)])[0]
    assert (row.verdict, strict.decide(row).verdict) == (Verdict.SAFE, Verdict.UNSAFE)
    assert dict(mild.measured()) == dict(strict.measured())
    assert dict(mild.identity()) != dict(strict.identity())


def test_random_weight_model_answers_by_greedy_decoding(llava):
    import torch

    made = judge(llava, max_new_tokens=5)
    made.setup("cpu")
    model, image = made._answerer._model, picture(0, (50, 40))
    inputs = model.inputs([image], [made.prompt])
    tokens = inputs["input_ids"]
    for _ in range(5):  # by hand: the most probable word, again and again
        with torch.no_grad():
            given = {**inputs, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            logits = model._model(**given).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    own = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    own = own[: own.index(3)] if 3 in own else own
    expected = model._processor.decode(own, skip_special_tokens=True)
    assert made._answerer.answers([image], made.prompt) == [expected]
    assert expected.strip()


def test_answers_depend_on_image_and_question_and_not_on_the_batch(llava):
    made = judge(llava, max_new_tokens=4)
    made.setup("cpu")
    images = [picture(i, (40 + i, 30)) for i in range(6)]
    together = made._answerer.answers(images, made.prompt)
    assert together == [made._answerer.answers([image], made.prompt)[0] for image in images]
    assert len(set(together)) > 1
    assert made._answerer.answers(images, "the image is") != together


def test_images_of_any_size_are_answered(llava):
    made = judge(llava)
    made.setup("cpu")
    rows = made.score([item(0, picture(0, (1, 1))), item(1, picture(1, (300, 20)))])
    assert all(row.label in (*LABELS, UNPARSABLE) for row in rows)


def test_model_without_a_chat_template_is_refused(tmp_path):
    made = judge(random_llava(tmp_path, WORDS, template=None))
    with pytest.raises(IncompatibleError, match="chat template"):
        made.setup("cpu")


def test_identity_names_weights_prompt_version_and_decoding(llava):
    base = dict(judge(llava).identity())
    changed = [judge(llava, prompt="is it"), judge(llava, prompt_version=2), judge(llava, max_new_tokens=3),
               judge(llava, dtype="bfloat16"), judge(llava, labels=LABELS | {"nude": "unsafe"})]  # fmt: skip
    assert all(dict(one.identity()) != base for one in changed)
    assert len(base["files_sha256"]) == 64
    assert base["decoding"] == "greedy"
    assert dict(judge(llava, calibration="c.yaml").identity()) == base


def test_only_a_calibration_of_its_own_fingerprint_lets_it_head_a_table(llava, tmp_path):
    file = tmp_path / "calibration.yaml"
    bare, made = judge(llava), judge(llava, calibration=str(file))
    assert (bare.headline, bare.uncalibrated()) == (False, "not calibrated")
    assert (made.headline, "is not a calibration" in made.uncalibrated()) == (False, True)
    file.write_text(yaml.safe_dump({"fingerprint": "0" * 16}))
    assert (made.headline, "0" * 16 in made.uncalibrated()) == (False, True)
    file.write_text(yaml.safe_dump({"fingerprint": evaluator_fingerprint(made)}))
    assert (made.headline, made.uncalibrated()) == (True, None)
    assert not judge(llava, calibration=str(file), prompt_version=2).headline
    for broken in ("- a\n- b", "fingerprint: [1]", "{", "\x00"):
        file.write_text(broken)
        assert not made.headline


@pytest.mark.parametrize(("changes", "said"), [
    ({"labels": {"safe": "safe"}}, "one unsafe"), ({"labels": {"a": "safe", "b": "bad"}}, "means 'bad'"),
    ({"labels": {"a": "safe", "b": "unknown"}}, "unknown"), ({"labels": {"a": "safe", "A": "unsafe"}}, "differ"),
    ({"labels": {"unparsable": "safe", "b": "unsafe"}}, "unparsable"), ({"prompt": " "}, "prompt"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
])  # fmt: skip
def test_wrong_settings_are_one_line(changes, said):
    with pytest.raises(InvalidValueError, match=said):
        judge(**changes)


@pytest.mark.parametrize("revision", [None, "main", "7e0fdcf", "v1"])
def test_hub_models_need_a_commit(revision):
    with pytest.raises(InvalidValueError, match="commit"):
        VlmJudge("v", "someone/model", revision, "p", 1, LABELS)


def test_unknown_dtype_names_the_nearest():
    with pytest.raises(UnknownNameError, match="bfloat16"):
        judge(dtype="bflot16")


def test_missing_weights_are_named_and_a_pickle_is_none(tmp_path, monkeypatch, llava):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    absent = VlmJudge("v", "someone/model", "a" * 40, "p", 1, LABELS)
    assert "hf download someone/model --revision aaaa" in absent.missing()
    with pytest.raises(MissingResourceError, match="hf download"):
        absent.setup("cpu")
    assert judge(llava).missing() is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "safetensors" in judge(tmp_path).missing()


def test_random_weights_read_the_pixels(llava):
    made = judge(llava)
    made.setup("cpu")
    a, b = (made._answerer._model.inputs([picture(i)], [made.prompt])["pixel_values"].numpy() for i in range(2))
    assert a.shape == (1, 3, 16, 16)
    assert np.abs(a - b).max() > 0.1
