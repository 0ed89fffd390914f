"""Numbers of sets of images are computed once for the same features, and again when anything differs."""

import numpy as np
import pytest

from harness.cells import set_scores
from harness.metrics import ReferenceSet
from harness.records import Metric

METRIC = Metric(1.5, 1.0, 2.0, 8, 0, False, note="of a test")


def features(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)]


def reference(seed=9, name="real"):
    return ReferenceSet(name, np.random.default_rng(seed).normal(size=(6, 4)).astype(np.float32))


def test_what_was_computed_is_read_back_as_it_was(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"fid": METRIC, "kid": Metric(None, None, None, 0, 0, False, note="too few")}

    first = set_scores._remembered(tmp_path, "fid/reference", "key", compute)
    assert set_scores._remembered(tmp_path, "fid/reference", "key", compute) == first
    assert len(calls) == 1
    set_scores._remembered(tmp_path, "fid_clip/reference", "key", compute)  # other features: another entry
    set_scores._remembered(tmp_path, "fid/reference", "key", compute)
    assert len(calls) == 2
    set_scores._remembered(tmp_path, "fid/reference", "other", compute)
    assert len(calls) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"fid/reference": {"key": "other"}}',
                                    b'{"fid/reference": 3}'])
def test_a_damaged_file_costs_one_computation(tmp_path, damage):
    (tmp_path / set_scores.FILE).write_bytes(damage)
    assert set_scores._remembered(tmp_path, "fid/reference", "key", lambda: {"fid": METRIC}) == {"fid": METRIC}
    assert set_scores._remembered(tmp_path, "fid/reference", "key", lambda: 1 / 0) == {"fid": METRIC}


def test_the_key_names_everything_that_the_numbers_follow_from(monkeypatch):
    base = set_scores._key(features(), reference(), 0, 0)
    assert set_scores._key(features(), reference(), 0, 0) == base
    others = [
        set_scores._key(features(1), reference(), 0, 0),
        set_scores._key([np.concatenate(features())[:7]], reference(), 0, 0),
        set_scores._key(features(), reference(8), 0, 0),
        set_scores._key(features(), reference(name="other"), 0, 0),
        set_scores._key(features(), reference(), 1, 0),
        set_scores._key(features(), reference(), 0, 1),
    ]
    monkeypatch.setattr(set_scores, "ARITHMETIC", set_scores.ARITHMETIC + 1)
    others.append(set_scores._key(features(), reference(), 0, 0))
    assert len({base, *others}) == 8
