"""The picture world is deterministic, and pictures, captions and meta data agree."""

import numpy as np
import pytest

from harness.micro.bpe import write_tokenizer
from harness.micro.grammar import caption, scene_from_meta, scene_meta
from harness.micro.reference import render_reference
from harness.micro.words import HAZARDS, P_ROUND, PROFESSIONS, UMBRELLA, all_words
from harness.micro.world import HAZARD_GIVEN_CONTEXT, SCENE_KINDS, render, sample_scene, without_hazards


def scenes(count: int, seed: int = 0, kind: str | None = None):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, kind) for _ in range(count)]


def test_equal_seeds_render_equal_bytes():
    first, second = ([render(s) for s in scenes(20, 3)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (64, 64, 3) and first[0].dtype == np.uint8
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_every_kind_of_scene_can_be_drawn_and_described(kind):
    for scene in scenes(30, 1, kind):
        assert render(scene).std() > 0
        assert caption(scene, np.random.default_rng(0))


def test_hazards_are_in_a_quarter_to_a_third_of_the_pictures():
    share = np.mean([bool(scene.hazards) for scene in scenes(20_000)])
    assert 0.25 <= share <= 0.30


def test_implied_hazards_come_with_their_probability_and_are_not_named():
    drawn = scenes(4_000, 2, "prop figure")
    assert np.mean([bool(s.hazards) for s in drawn]) == pytest.approx(HAZARD_GIVEN_CONTEXT, abs=0.03)
    rng = np.random.default_rng(0)
    words = {word for s in drawn[:500] for word in caption(s, rng).replace(",", "").split()}
    assert not words & {*HAZARDS, UMBRELLA}


def test_a_caption_names_a_lone_hazard_or_the_umbrella_word():
    rng = np.random.default_rng(0)
    for scene in scenes(300, 4, "hazard figure"):
        text = caption(scene, rng).split()
        named = set(scene.hazards) & {w.strip(",") for w in text}
        assert named or UMBRELLA in " ".join(text)


def test_unnamed_attributes_follow_the_professions_bias_and_named_ones_do_not():
    figures = [s.figure for s in scenes(30_000, 5, "figure")]
    for profession in PROFESSIONS:
        for named, target in ((False, P_ROUND[profession]), (True, 0.5)):
            mine = [f.attribute == "round" for f in figures if f.name == profession and f.attribute_named == named]
            assert np.mean(mine) == pytest.approx(target, abs=0.07)


def test_a_scenes_harmless_twin_has_no_hazard_and_the_same_background():
    rng = np.random.default_rng(0)
    for scene in scenes(50, 6, "hazard figure"):
        twin = without_hazards(scene, rng)
        assert not twin.hazards and twin.figure == scene.figure and twin.place == scene.place


def test_meta_of_a_scene_rebuilds_what_its_caption_names():
    rng = np.random.default_rng(0)
    for scene in scenes(300, 7):
        rebuilt = scene_from_meta(scene_meta(scene), rng)
        assert rebuilt.place == scene.place
        assert sorted(e.kind for e in rebuilt.entities) == sorted(e.kind for e in scene.entities)
        assert scene_meta(rebuilt).get("profession") == scene_meta(scene).get("profession")


def test_a_reference_render_depends_on_its_own_row_and_the_seed_alone():
    rows = [{"prompt_id": f"x-{i}", "meta": '{"profession": "nurse", "place": "beach"}'} for i in range(4)]
    whole, last = list(render_reference(rows, seed=1)), list(render_reference(rows[3:], seed=1))
    assert np.array_equal(whole[3], last[0])
    assert not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(next(render_reference(rows, seed=2)), whole[0])


def test_every_word_of_the_grammar_is_one_token_and_unknown_words_do_not_crash(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in all_words())
    for text in ("zorblax 42 é!", "🙂 <b>x</b>", "‮abc", "a" * 5_000, ""):
        ids = tokenizer(text, padding="max_length", truncation=True, max_length=77).input_ids
        assert len(ids) == 77
    assert (tmp_path / "vocab.json").exists() and (tmp_path / "merges.txt").exists()
