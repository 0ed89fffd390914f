"""Names of results on disk stay as they are: a cell, artifact or score of last year is found again."""

from __future__ import annotations

import json

from tests import goldens


def test_cell_ids_artifact_keys_and_fingerprints_are_those_of_the_file():
    assert goldens.differences(json.loads(goldens.FILE.read_text()), goldens.identities()) == []


def test_a_name_that_changed_or_is_gone_is_listed():
    before = {"cells": {"a": "1", "b": "2"}}
    assert goldens.differences(before, {"cells": {"a": "1", "b": "3"}}) == ["cells: b: 2 -> 3"]
    assert goldens.differences(before, {"cells": {"b": "2"}}) == ["cells: a: 1 -> nothing"]
    assert goldens.differences(before, before | {"evaluators": {"c": "4"}}) == ["evaluators: c: nothing -> 4"]
