"""One canonical JSON and one hash of files: their exact text, which ids and fingerprints are hashes of."""

from __future__ import annotations

import hashlib
import os

import pytest

from harness.lib.hashing import cached_file_hash, canonical_hash, canonical_json, file_hash

VALUE = {"b": [1, 2.5, None], "a": "\u00e9"}


@pytest.mark.parametrize(("options", "text"), [
    ({}, '{"a":"\u00e9","b":[1,2.5,null]}'),
    ({"spaced": True}, '{"a": "\u00e9", "b": [1, 2.5, null]}'),
    ({"spaced": True, "ascii_only": True}, '{"a": "\\u00e9", "b": [1, 2.5, null]}'),
])  # fmt: skip
def test_canonical_json_is_this_text_for_ever(options, text):
    assert canonical_json(VALUE, **options) == text == canonical_json(dict(reversed(VALUE.items())), **options)


def test_what_json_lacks_is_converted_or_refused():
    assert canonical_json({"a": {1}}, other=sorted) == '{"a":[1]}'
    with pytest.raises(TypeError):
        canonical_json({"a": {1}})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"), finite=True)
    assert canonical_json(float("nan")) == "NaN"


def test_a_hash_of_a_value_or_file_is_plain_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    assert canonical_hash({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert file_hash(tmp_path / "a") == cached_file_hash(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()


def test_a_file_that_changes_is_hashed_again(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = cached_file_hash(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert cached_file_hash(path) == file_hash(path) != first
