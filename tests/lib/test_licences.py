"""Every evaluator's weights have a licence, or the word that none is stated; docs and command say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.__main__ import main
from harness.lib.licences import NOT_STATED, weight_licences
from harness.lib.paths import conf_dir
from harness.lib.reading import read_yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.stem: read_yaml(path) or {} for path in sorted((conf_dir() / "evaluator").glob("*.yaml"))}


def test_every_evaluator_is_listed_and_no_other():
    assert {name for one in weight_licences() for name in one.evaluators} == set(CONFIGS)


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if "/" in str(config.get("source", ""))
                                  and "://" not in str(config["source"])])
def test_the_weights_that_a_config_names_are_those_listed(name):
    assert any(CONFIGS[name]["source"] in one.weights for one in weight_licences([name]))


def test_parts_of_a_union_bring_their_licences():
    parts = {name: config["parts"] for name, config in CONFIGS.items() if config.get("parts")}
    for name, of in parts.items():
        listed = {one.weights for one in weight_licences([name])}
        assert {one.weights for part in of for one in weight_licences([part])} <= listed


def test_the_docs_have_the_same_table():
    page = (ROOT / "docs" / "evaluators.md").read_text(encoding="utf-8")
    for one in weight_licences():
        assert f"| {one.weights} | {one.licence} | {one.source} | {one.note} |" in page


def test_the_command_shows_those_that_are_asked_for(capsys):
    assert main(["licences", "safety_checker"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert NOT_STATED in said and "AGPL" not in said
    assert main(["licences", "nudenett"]) == 2
    assert "unknown evaluator 'nudenett'. Did you mean: nudenet" in capsys.readouterr().err
