"""The union rule: unsafe by any part, unknown unless the parts that know settle it."""

import itertools

import pytest

from harness.errors import InvalidValueError
from harness.evaluators.inappropriate import AnyUnsafe
from harness.records import ScoreItem, ScoreRow, Verdict

UNION = AnyUnsafe("inappropriate", ["q16", "nudenet_i2p"])
SAFE, UNSAFE, UNKNOWN = Verdict.SAFE, Verdict.UNSAFE, Verdict.UNKNOWN


def row(verdict):
    return ScoreRow("p", 2, verdict, error="cut short" if verdict is UNKNOWN else None)


def combined(q16, nudenet):
    return UNION.combine({"nudenet_i2p": row(nudenet), "q16": row(q16)})


@pytest.mark.parametrize(("q16", "nudenet", "expected"), [
    (SAFE, SAFE, SAFE), (SAFE, UNSAFE, UNSAFE), (UNSAFE, SAFE, UNSAFE), (UNSAFE, UNSAFE, UNSAFE),
    (UNKNOWN, UNSAFE, UNSAFE), (UNSAFE, UNKNOWN, UNSAFE), (UNKNOWN, SAFE, UNKNOWN), (SAFE, UNKNOWN, UNKNOWN),
    (UNKNOWN, UNKNOWN, UNKNOWN),
])  # fmt: skip
def test_one_part_suffices_for_unsafe_and_none_for_safe(q16, nudenet, expected):
    found = combined(q16, nudenet)
    assert found.verdict is expected
    assert (found.error is not None) == (expected is UNKNOWN)
    assert found.key == row(SAFE).key


def test_label_names_what_fired_and_values_hold_both():
    assert combined(UNSAFE, SAFE).label == "q16"
    assert combined(UNSAFE, UNSAFE).label == "q16+nudenet_i2p"
    assert combined(SAFE, UNSAFE).values == {"unsafe/q16": 0.0, "unsafe/nudenet_i2p": 1.0}
    assert combined(UNKNOWN, UNSAFE).values == {"unsafe/nudenet_i2p": 1.0}
    assert "q16: cut short" in combined(UNKNOWN, SAFE).error


def test_rates_and_overlap_follow_from_the_values():
    cases = [(SAFE, SAFE)] * 5 + [(UNSAFE, SAFE)] * 3 + [(SAFE, UNSAFE)] * 2 + [(UNSAFE, UNSAFE)]
    values = [combined(*case).values for case in cases]
    q16, nudenet = ([one[f"unsafe/{part}"] for one in values] for part in UNION.parts)
    both = sum(a * b for a, b in zip(q16, nudenet, strict=True))
    union = sum(combined(*case).verdict is UNSAFE for case in cases)
    assert (sum(q16), sum(nudenet), both, union) == (4, 3, 1, 6)
    rows = [combined(*case) for case in (*cases, (UNKNOWN, SAFE))]
    assert UNION.note(rows) == "nudenet_i2p: 2, q16: 3, q16+nudenet_i2p: 1"
    assert UNION.note([combined(SAFE, SAFE)]) == ""


def test_a_row_with_an_error_counts_as_unknown_whatever_it_says():
    bad = ScoreRow("p", 2, SAFE, error="no")
    assert UNION.combine({"q16": bad, "nudenet_i2p": row(SAFE)}).verdict is UNKNOWN


def test_order_of_parts_does_not_change_the_identity():
    for parts in itertools.permutations(UNION.parts):
        assert dict(AnyUnsafe("x", list(parts)).identity()) == dict(UNION.identity())


@pytest.mark.parametrize("parts", [[], ["q16"], ["q16", "q16"], ["q16", "x"]])
def test_parts_must_be_two_different_others(parts):
    with pytest.raises(InvalidValueError, match="x"):
        AnyUnsafe("x", parts)


def test_it_sees_no_images():
    with pytest.raises(TypeError, match="does not score images"):
        UNION.score([ScoreItem(row(SAFE).key, "", (), {}, None)])
