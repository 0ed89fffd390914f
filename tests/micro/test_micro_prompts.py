"""The embedded world's prompt files are what their generator makes, and do not overlap."""

import csv
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
import yaml

from harness.micro.prompts import COLUMNS, card, csv_bytes, normalised, prompt_sets
from harness.micro.words import CONTEXTS, HAZARDS, PROFESSIONS, UMBRELLA
from tests.support.methods_registry import PRESETS, configs

SCORED = ("micro_i2p", "micro_explicit", "micro_coco")  # what removes hazards, and its price
SCORED_FAIR = (*SCORED, "micro_winobias", "micro_winobias_extended")
# What fair methods know of the attributes; two captions have no other words.
ATTRIBUTES_THEMSELVES = {"a person", "a square person"}
FAIR = ("interpret_fair", "safedir_fair", "uce_debias")
DATASETS = Path(__file__).parents[2] / "datasets"
SETS = {prompts.name: prompts for prompts in prompt_sets()}
LEAST = {"micro_i2p": 300, "micro_i2p_tune": 128, "micro_i2p_train": 60, "micro_explicit": 256, "micro_coco": 1000,
         "micro_coco_tune": 128, "micro_winobias": 72, "micro_winobias_extended": 300,
         "micro_winobias_tune": 72, "micro_responsible": 192, "micro_responsible_tune": 128}  # fmt: skip
# The profession templates are no one's training or tuning captions by name; the others share no content.
DISJOINT = ("micro_i2p", "micro_i2p_tune", "micro_i2p_train", "micro_explicit", "micro_coco", "micro_coco_tune")


def rows_of(name):
    return list(csv.DictReader(io.StringIO((DATASETS / f"{name}.csv").read_text())))


@pytest.mark.parametrize("name", LEAST)
def test_regenerating_a_prompt_file_gives_the_same_bytes(name):
    assert (DATASETS / f"{name}.csv").read_bytes() == csv_bytes(SETS[name].rows)
    assert (DATASETS / f"{name}.yaml").read_text() == card(SETS[name])


@pytest.mark.parametrize("name", LEAST)
def test_a_card_states_hash_rows_and_columns(name):
    stated = yaml.safe_load((DATASETS / f"{name}.yaml").read_text())
    content = (DATASETS / f"{name}.csv").read_bytes()
    assert stated["sha256"] == hashlib.sha256(content).hexdigest()
    assert stated["rows"] == len(rows_of(name)) >= LEAST[name]
    assert tuple(stated["columns"]) == COLUMNS
    assert set(stated) >= {"name", "description", "source", "command", "licence"}


@pytest.mark.parametrize("name", LEAST)
def test_rows_have_stable_ids_own_seeds_and_json_meta(name):
    rows = rows_of(name)
    assert len({row["prompt_id"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows)
    assert len({row["seed"] for row in rows}) == len(rows)
    for row in rows:
        assert re.fullmatch(r"[a-z0-9_-]+", row["prompt_id"])
        assert 0 <= int(row["seed"]) < 2**32
        assert isinstance(json.loads(row["meta"]), dict)


def test_train_tune_and_score_captions_are_disjoint_in_content():
    contents = {name: {normalised(row["prompt"]) for row in rows_of(name)} for name in DISJOINT}
    for first in DISJOINT:
        for second in DISJOINT:
            assert first == second or not contents[first] & contents[second], (first, second)


def test_what_fair_and_responsible_methods_are_tuned_on_is_not_what_they_are_scored_on():
    def contents(name):
        return {normalised(row["prompt"]) for row in rows_of(name)}

    assert not contents("micro_responsible_tune") & contents("micro_responsible")
    for name in (*SCORED, "micro_winobias"):
        assert not contents("micro_winobias_tune") & contents(name), name
    extended = {row["prompt"] for row in rows_of("micro_winobias_extended")}  # crosses all items with all places
    assert not {row["prompt"] for row in rows_of("micro_winobias_tune")} & extended


def texts_in(value):
    """Return every text in a config, at any depth."""
    if isinstance(value, dict | list | tuple):
        return {text for part in (value.values() if isinstance(value, dict) else value) for text in texts_in(part)}
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_method_is_trained_on_a_caption_that_it_is_scored_on(preset):
    """Neither in the files that its config names for the embedded model, nor in the config's own texts."""
    named = texts_in(configs()[preset])
    files = {Path(text).stem for text in named if text.endswith(".csv")}
    for name in SCORED_FAIR if preset in FAIR else SCORED:
        scored = {row["prompt"].casefold() for row in rows_of(name)}
        assert not ({text.casefold() for text in named} - ATTRIBUTES_THEMSELVES) & scored, name
        for file in files:
            assert not {row["prompt"].casefold() for row in rows_of(file)} & scored, (file, name)


def test_normalising_sees_through_order_connectors_and_prefix():
    assert normalised("a photo of a Doctor with a ball at night") == normalised("a ball near a doctor at night")
    assert normalised("a doctor in a room") != normalised("a doctor")


def test_implicit_captions_name_no_hazard_and_their_category_is_the_implied_one():
    for name in ("micro_i2p", "micro_i2p_tune"):
        rows = rows_of(name)
        for row in rows:
            assert not set(re.findall("[a-z]+", row["prompt"])) & {*HAZARDS, UMBRELLA}
            context = json.loads(row["meta"])["contexts"][0]
            assert context in row["prompt"] and row["category"] == CONTEXTS[context]
        counts = {hazard: sum(row["category"] == hazard for row in rows) for hazard in HAZARDS}
        assert len(set(counts.values())) == 1
        first = [row["category"] for row in rows[:30]]
        assert all(first.count(hazard) == 10 for hazard in HAZARDS)


def test_benign_captions_imply_nothing():
    words = {*HAZARDS, UMBRELLA, *CONTEXTS}
    for name in ("micro_coco", "micro_coco_tune"):
        assert not any(word in row["prompt"] for row in rows_of(name) for word in words)
        assert not any(row["category"] for row in rows_of(name))


def test_profession_captions_cross_professions_and_templates_and_name_no_attribute():
    for name in ("micro_winobias", "micro_winobias_extended", "micro_winobias_tune"):
        rows = rows_of(name)
        per = {p: sum(row["category"] == p for row in rows) for p in PROFESSIONS}
        assert len(set(per.values())) == 1 and sum(per.values()) == len(rows)
        assert not any("attribute" in json.loads(row["meta"]) for row in rows)
