"""Prompt rows: byte-exact, in order, nothing lost without a count."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench import load_prompts, screen
from harness.bench.card import read_card
from harness.errors import HarnessError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.records import PromptRow, image_seed
from tests.support.bench_common import write

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def bench(path: Path, **extra) -> dict:
    return {"name": "mine", "card": "csv", "file": str(path), **extra}


STRANGE = [
    "null",
    "NaN",
    "None",
    "  edges kept  ",
    "<script>alert(1)</script>",
    "a 🎈 balloon",
    "שלום عالم",
    "two\nlines",
    'quote " and , comma',
    "\u2028 separators \x85 inside",
]


def test_strange_prompts_come_through_byte_exact_and_in_order(tmp_path):
    path = write(tmp_path / "p.csv", ["prompt"], [[text] for text in STRANGE])
    rows = load_prompts(bench(path)).rows
    assert [row.prompt for row in rows] == STRANGE


def test_empty_and_overlong_prompts_are_counted_not_dropped_in_silence(tmp_path):
    path = write(
        tmp_path / "p.csv", ["prompt_id", "prompt"], [["a", ""], ["b", "   "], ["c", "x" * 10_000], ["d", "ok"]]
    )
    prompts = load_prompts(bench(path))
    assert [row.prompt_id for row in prompts.rows] == ["d"]
    assert prompts.counts()["n_total"] == 4
    assert prompts.excluded == {"empty prompt": 2, "over 5000 characters": 1}
    assert prompts.excluded_ids["empty prompt"] == ("a", "b")


def test_missing_prompt_column_names_what_the_file_has(tmp_path):
    path = write(tmp_path / "p.csv", ["text", "id"], [["a", "1"]])
    with pytest.raises(HarnessError, match=r"no column prompt; it has text, id.*bench\.columns\.prompt"):
        load_prompts(bench(path))
    assert load_prompts(bench(path, columns={"prompt": "text", "seed": None})).rows[0].prompt == "a"


def test_duplicate_ids_are_refused_by_name(tmp_path):
    path = write(tmp_path / "p.csv", ["prompt_id", "prompt"], [["a", "1"], ["A", "2"], ["b", "3"]])
    with pytest.raises(HarnessError, match="1 duplicate prompt ids: a"):
        load_prompts(bench(path))


def test_duplicate_prompts_are_kept_and_counted(tmp_path):
    path = write(tmp_path / "p.csv", ["prompt"], [["same"], ["same"], ["other"]])
    prompts = load_prompts(bench(path))
    assert len(prompts.rows) == 3
    assert prompts.n_duplicate_prompts == 1


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1, 2**64 - 1])
def test_large_seeds_round_trip(tmp_path, seed):
    path = write(tmp_path / "p.csv", ["prompt", "seed"], [["a", str(seed)]])
    assert load_prompts(bench(path)).rows[0].seed == seed


@pytest.mark.parametrize(
    ("column", "value"),
    [("seed", "-1"), ("seed", "1.5"), ("seed", str(2**64)), ("guidance", "inf"), ("guidance", "much")],
)
def test_bad_numbers_name_row_and_column(tmp_path, column, value):
    path = write(tmp_path / "p.csv", ["prompt", column], [["a", "7"], ["b", value]])
    with pytest.raises(InvalidValueError, match=f"row 1: {column}"):
        load_prompts(bench(path))


def test_ids_become_safe_file_names(tmp_path):
    path = write(tmp_path / "p.csv", ["prompt_id", "prompt"], [["../../etc/x", "a"], ["b c/d", "b"]])
    assert [row.prompt_id for row in load_prompts(bench(path)).rows] == ["---..-etc-x", "b-c-d"]


def test_no_file_and_unknown_card_say_what_to_do(tmp_path):
    with pytest.raises(MissingResourceError, match=r"bench\.file="):
        load_prompts(bench(tmp_path / "absent.csv"))
    with pytest.raises(UnknownNameError, match="i2p"):
        load_prompts({"name": "i2p", "card": "i2pp"})


def test_a_file_of_no_usable_prompt_is_refused(tmp_path):
    path = write(tmp_path / "p.csv", ["prompt"], [[" "]])
    with pytest.raises(HarnessError, match="no usable prompt"):
        load_prompts(bench(path))


def row(prompt: str, category: tuple[str, ...] = (), **meta) -> PromptRow:
    return PromptRow("x", prompt, category, meta=meta)


def test_age_terms_are_excluded_in_every_sexual_context_and_only_there():
    assert screen.is_excluded(row("a child", ("sexual",)), sexual_set=False)
    assert screen.is_excluded(row("a 12 year old", nudity_percentage="10"), sexual_set=False)
    assert screen.is_excluded(row("teenager, nude"), sexual_set=False)
    assert screen.is_excluded(row("a schoolgirl"), sexual_set=True)
    assert not screen.is_excluded(row("a child at school", ("violence",), nudity_percentage="0"), sexual_set=False)
    assert not screen.is_excluded(row("an adult woman", ("sexual",)), sexual_set=True)


def test_no_setting_of_a_bench_switches_the_exclusion_off(tmp_path):
    path = write(tmp_path / "p.csv", ["prompt", "category"], [["a teen", "sexual"], ["an adult", "sexual"]])
    settings = {"sexual": False, "screen": False, "exclude": None, "unsafe_content": False}
    prompts = load_prompts(bench(path, **settings))
    assert prompts.excluded == {"age-related term in a sexual context": 1}
    assert len(prompts.rows) == 1


def test_seed_depends_on_bench_prompt_repeat_and_root_only():
    assert image_seed("b", "p", 0, 0) == 11227757224624880402  # printf 'b|p|0|0' | sha256sum, first 16 hex digits
    assert len({image_seed(b, p, r, s) for b in "ab" for p in "pq" for r in (0, 1) for s in (0, 1)}) == 16


def i2p(name: str):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the I2P file {name} is not on this machine")
    return load_prompts({"name": "i2p", "card": "i2p", "file": str(path)})


def test_i2p_keeps_all_rows_labels_and_seeds():
    prompts = i2p("i2p_unlearndiffatk.csv")
    assert prompts.n_total == 4703
    assert "empty prompt" not in prompts.excluded
    assert sum(prompts.excluded.values()) == prompts.n_total - len(prompts.rows)
    assert max(row.seed for row in prompts.rows) > 2**31
    assert max(row.guidance for row in prompts.rows) == 255
    assert {name for row in prompts.rows for name in row.category} == {
        "hate",
        "harassment",
        "violence",
        "self-harm",
        "sexual",
        "shocking",
        "illegal activity",
    }
    assert "OPTML" in prompts.file_note


def test_i2p_copy_with_a_lost_prompt_says_so():
    prompts = i2p("i2p_erasing.csv")
    assert prompts.n_total == 4703
    assert prompts.excluded_ids["empty prompt"] == ("2260",)
    assert "2260" in prompts.file_note


def test_a_card_with_a_key_twice_is_refused_with_its_line(tmp_path):
    (tmp_path / "twice.yaml").write_text("name: twice\nsexual: true\nfile: a.csv\nsexual: false\n")
    with pytest.raises(HarnessError, match=r"twice\.yaml cannot be read: the key 'sexual' is a duplicate in line 4"):
        read_card(tmp_path / "twice.yaml")
