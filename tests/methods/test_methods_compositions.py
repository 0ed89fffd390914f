"""Methods in lists: what the issue's combinations train on, and that every member has its say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from harness.method import Artifact, Method, publish_concepts
from harness.sampling.session import attached
from harness.training.artifacts import artifact_keys, base_identity, lineages, prepare_all
from tests.sampling.test_denoiser import grey_levels, pixels
from tests.support.fixtures_models import make_items, make_settings, random_config, random_model
from tests.support.methods_registry import artifact_cache, tiny


def listed(*presets: str) -> list[Method]:
    return publish_concepts([tiny(preset) for preset in presets])


def prepared(methods: Sequence[Method]) -> list[Artifact | None]:
    return prepare_all(random_model(), methods, artifact_cache())


@cache
def drawn(*presets: str) -> np.ndarray:
    methods = listed(*presets)
    with attached(random_model(), methods, prepared(methods)) as session:
        return pixels(session.generate(make_items(2), make_settings(3)))


def keys(*methods: Method) -> list[str | None]:
    return artifact_keys(methods, base_identity(random_config()))


@pytest.mark.parametrize("presets", [("safedir", "sld_medium"), ("esd_x", "safedir"), ("hfi", "sdd"),
                                     ("interpret_safe", "sld_medium")], ids="+".join)  # fmt: skip
def test_every_member_of_a_list_has_its_say(presets):
    together = drawn(*presets)
    assert all(grey_levels(together, drawn(preset)) > 1 for preset in presets)


@pytest.mark.parametrize(("left", "right"), [("esd_x", "safedir"), ("uce", "interpret_safe"), ("hfi", "sdd")])
def test_what_trains_to_the_right_of_edited_weights_is_keyed_and_trained_by_them(left, right):
    methods = listed(left, right)
    first, second = prepared(methods)
    edits = lineages(methods, base_identity(random_config()))[1].upstream
    assert len(edits) == 1 and tuple(second.meta["upstream"]) == edits
    assert first.key == keys(*methods)[0]
    assert second.key == keys(*methods)[1] != keys(tiny(right))[0]
    (alone,) = prepared([tiny(right)])
    assert any(not np.array_equal(second.tensors[name], value) for name, value in alone.tensors.items())


def test_other_upstream_settings_make_another_artifact():
    safedir = tiny("safedir")
    found = [keys(esd, safedir)[1] for esd in (tiny("esd_x"), tiny("esd_x", iterations=3), tiny("esd_u"))]
    assert len(set(found)) == 3


def test_another_strength_to_the_left_makes_another_artifact():
    safedir = tiny("safedir")
    found = [keys(tiny("esd_x", strength=strength), safedir) for strength in (0.5, 1.0)]
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_transfer_takes_the_direction_of_the_bare_model():
    esd, safedir = tiny("esd_x"), tiny("safedir", on_edited="transfer")
    assert keys(esd, safedir)[1] == keys(safedir)[0] == keys(tiny("safedir"))[0]
    _, transferred = prepared([esd, safedir])
    (own,) = prepared([tiny("safedir")])
    assert transferred.key == own.key and transferred.meta["upstream"] == []


def test_to_the_left_of_edited_weights_a_direction_is_the_bare_models():
    safedir, esd = tiny("safedir"), tiny("esd_x")
    assert keys(safedir, esd) == [keys(safedir)[0], keys(esd)[0]]


def test_members_that_train_nothing_leave_keys_alone():
    assert keys(tiny("safedir"), tiny("sld_medium")) == [keys(tiny("safedir"))[0], None]
    assert keys(tiny("interpret_safe"), tiny("sld_medium")) == [keys(tiny("interpret_safe"))[0], None]
