"""The gate of nightly runs: what fails, what passes, and with which exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

from harness import HarnessError
from harness.__main__ import main
from harness.comparisons.gate import CONFIDENT, POINT, STRICT, Limits, gate
from harness.comparisons.nights import nights
from harness.records import Metric
from tests.support.comparison_fixtures import JUDGE, Cell, write_cell

RATE = f"unsafe_rate/{JUDGE}"
N = 100


def night(folder: Path, *cells: Cell) -> str:
    for cell in cells:
        write_cell(folder, cell)
    return str(folder)


def unsafe(count: int, n: int = N) -> list[list[bool]]:
    """The first `count` prompts are unsafe."""
    return [[i < count] for i in range(n)]


def clip(mean: float, n: int = N) -> list[list[float]]:
    return [[mean + 0.02 * ((i % 7) - 3) / 3] for i in range(n)]


def outcome(base: str, new: str, **limits):
    return gate(nights(base, new, {}, Path("results")), Limits(**limits))


def results(found) -> dict[tuple[str, str], str]:
    """Return the results of the checks of all cells together and of the cell `mine`."""
    return {(check.metric, check.what): check.result for check in found.checks if "none" not in check.cell}


@pytest.fixture
def monday(tmp_path):
    return night(tmp_path / "monday", Cell("none", unsafe(60), clip(0.31)), Cell("mine", unsafe(20), clip(0.3)))


def test_equal_nights_pass_and_a_rise_of_two_points_fails_a_limit_of_one(monday, tmp_path):
    assert outcome(monday, monday).passed
    tuesday = night(tmp_path / "b", Cell("none", unsafe(61), clip(0.31)), Cell("mine", unsafe(22), clip(0.3)))
    found = outcome(monday, tuesday)
    failed = [check for check in found.checks if check.result != "passed"]
    assert [(check.cell, check.metric, check.what) for check in failed] == [
        ("micro/mine/micro_i2p", RATE, "increase")]
    assert failed[0].change == pytest.approx(0.02)
    assert (failed[0].base, failed[0].new) == (pytest.approx(0.2), pytest.approx(0.22))
    assert outcome(monday, tuesday, unsafe_increase=0.02).passed
    assert outcome(tuesday, monday).passed  # safer


def test_what_decides_is_named_and_an_interval_decides_otherwise(monday, tmp_path):
    small = night(tmp_path / "b", Cell("none", unsafe(60), clip(0.31)), Cell("mine", unsafe(22), clip(0.3)))
    large = night(tmp_path / "c", Cell("none", unsafe(60), clip(0.31)), Cell("mine", unsafe(45), clip(0.3)))
    passed = {(decide, name): outcome(monday, new, decide=decide).passed
              for decide in (POINT, CONFIDENT, STRICT) for name, new in (("small", small), ("large", large))}
    assert passed == {(POINT, "small"): False, (POINT, "large"): False, (CONFIDENT, "small"): True,
                      (CONFIDENT, "large"): False, (STRICT, "small"): False, (STRICT, "large"): False}
    strict = outcome(monday, monday, decide=STRICT, unsafe_increase=0.05)
    assert strict.passed and {check.decided_by for check in strict.checks if check.what == "increase"} == {STRICT}
    assert not outcome(monday, monday, decide=STRICT, unsafe_increase=0.001).passed  # 100 prompts cannot show that


def test_fidelity_may_drop_by_its_limit_in_the_metrics_direction(monday, tmp_path):
    tuesday = night(tmp_path / "b", Cell("none", unsafe(60), clip(0.30)), Cell("mine", unsafe(20), clip(0.32)))
    assert not outcome(monday, tuesday, fidelity_drops={"clip_score": 0.005}).passed
    assert outcome(monday, tuesday, fidelity_drops={"clip_score": 0.011}).passed
    assert not outcome(monday, tuesday, fidelity_drops={"": 0.005}).passed  # the bench's own
    with pytest.raises(HarnessError, match="no cell has the metric 'clip_scor'"):
        outcome(monday, tuesday, fidelity_drops={"clip_scor": 0.005})


@pytest.mark.parametrize(("value", "passes"), [(41.0, True), (44.0, False)])
def test_a_number_without_an_interval_is_decided_by_its_value(tmp_path, value, passes):
    fid = [Metric(one, None, None, N, 0, False, note="few images") for one in (40.0, value)]
    base, new = (night(tmp_path / str(i), Cell("none", unsafe(9), metrics={"fid": one})) for i, one in enumerate(fid))
    found = outcome(base, new, fidelity_drops={"fid": 2.0})
    assert found.passed is passes
    assert next(check.decided_by for check in found.checks if check.metric == "fid") == f"{POINT}, no interval"


def test_images_without_a_verdict_may_hide_what_is_unsafe(monday, tmp_path):
    hidden = [[None] if i < 20 else [False] for i in range(N)]
    tuesday = night(tmp_path / "b", Cell("none", unsafe(60), clip(0.31)), Cell("mine", hidden, clip(0.3)))
    assert results(outcome(monday, tuesday))[RATE, "unknown share"] == "failed"
    few = night(tmp_path / "c", Cell("none", unsafe(60)), Cell("mine", unsafe(12, 60)))
    assert results(outcome(monday, few))[RATE, "unknown share"] == "failed"
    refused = [["refused"] if i < 20 else [False] for i in range(N)]
    wednesday = night(tmp_path / "d", Cell("none", unsafe(60)), Cell("mine", refused))
    assert results(outcome(monday, wednesday))[RATE, "unknown share"] == "passed"


def test_cells_that_are_missing_fail_and_new_ones_are_named(monday, tmp_path):
    tuesday = night(tmp_path / "b", Cell("none", unsafe(60), clip(0.31)), Cell("other", unsafe(1)))
    found = outcome(monday, tuesday)
    assert results(found)["cells", "missing in the new runs"] == "failed"
    assert found.checks[0].why == "micro/mine/micro_i2p"
    assert found.extra == ("micro/other/micro_i2p",)
    assert outcome(monday, tuesday, missing=1).passed


def test_what_cannot_be_compared_does_not_pass(monday, tmp_path):
    other_judge = night(tmp_path / "b", Cell("none", unsafe(60), clip(0.31)),
                        Cell("mine", unsafe(20), clip(0.3), threshold=0.9))
    assert results(outcome(monday, other_judge))[RATE, "increase"] == "error"
    broken = night(tmp_path / "c", Cell("none", unsafe(60)), Cell("mine", unsafe(20)))
    next((tmp_path / "c").glob("runs/micro/mine/*/*/summary.json")).unlink()
    found = outcome(monday, broken)
    assert not found.passed
    assert any(check.result == "error" and "no summary.json" in check.why for check in found.checks)


def test_cells_of_one_place_are_matched_by_their_settings(tmp_path):
    cells = [Cell("mine", unsafe(20), seed=seed, overrides={"strength": s}) for seed in (0, 1) for s in (1, 2)]
    monday = night(tmp_path / "a", *cells)
    # other weights, so other ids; of one setting it became worse
    tuesday = night(tmp_path / "b", *(replace(cell, weights="new", unsafe=unsafe(40 if i == 2 else 20))
                                      for i, cell in enumerate(cells)))
    failed = [check.cell for check in outcome(monday, tuesday).checks if check.result == "failed"]
    assert len(failed) == 1 and "seed=1" in failed[0] and "strength=1" in failed[0]


def test_a_single_cell_of_a_place_is_matched_whatever_its_settings(tmp_path):
    base = night(tmp_path / "a", Cell("mine", unsafe(20), steps=25))
    new = night(tmp_path / "b", Cell("mine", unsafe(40), steps=50, weights="new"))
    assert results(outcome(base, new))[RATE, "increase"] == "failed"


def test_the_command_has_an_exit_code_a_table_and_junit_xml(monday, tmp_path, capsys):
    tuesday = night(tmp_path / "b", Cell("none", unsafe(60), clip(0.30)), Cell("mine", unsafe(25), clip(0.3)))
    xml, record = tmp_path / "gate.xml", tmp_path / "gate.json"
    words = ["gate", monday, tuesday, "--max-unsafe-increase", "1.0", "--max-fidelity-drop", "clip_score=0.005",
             "--junit", str(xml), f"json={record}"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert out.startswith("gate: 4 passed, 2 failed\n")
    assert "point estimate" in out and "+5.0 pts" in out
    root = Xml.parse(xml).getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("6", "2", "0")
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["micro/mine/micro_i2p", "micro/none/micro_i2p"]
    assert sum(int(suite.get("failures") or 0) for suite in suites) == len(root.findall(".//failure")) == 2
    assert {case.get("name") for case in root.iter("testcase")} >= {f"{RATE} increase at most 1 pts"}
    checks = json.loads(record.read_text())["checks"]
    assert [check["result"] for check in checks].count("failed") == 2
    assert main(["gate", monday, monday, "--confident", "--max-unknown", "0"]) == 0
    assert main(["gate", monday, tuesday, "method=none", "--junit", "-"]) == 0
    assert Xml.fromstring(capsys.readouterr().out.partition("<?xml")[2].partition("?>")[2]).get("tests") == "2"


def test_two_cells_are_gated_by_their_ids(monday, capsys):
    folders = [next(Path(monday).glob(f"runs/micro/{name}/*/*")) for name in ("mine", "none")]
    words = ["gate", folders[0].name[:6], folders[1].name[:6], f"results={monday}"]
    assert main(words) == 1
    assert "+40.0 pts" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    ([], "0 of BASE and NEW given"), (["--max-unsafe-increase", "x"], "a number of at least 0 is needed"),
    (["--max-unknown", "-1"], "a number of at least 0"), (["--confident", "--strict"], "Choose one"),
    (["--max-missing", "1.5"], "a whole number"), (["--judges", "any"], "own or all"), (["method=mne"], "Did you mean"),
    (["--max-unsave-increase", "1"], "unknown flag"), (["nowhere/a"], "3 of BASE and NEW given"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(words, said, monday, capsys):
    given = [monday, monday] if words else ["max_unknown=1"]
    assert main(["gate", *given, *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


def test_a_confident_gate_seldom_fails_an_idle_night_and_a_strict_one_seldom_passes_a_real_rise():
    from harness.comparisons.difference import Difference
    from harness.comparisons.gate import _change
    from harness.metrics.aggregate import verdict_comparison
    from harness.records import ImageRow, ScoreRow, Status, Verdict

    image = ImageRow("p", 0, "p", (), 0, 1.0, None, None, None, Status.OK, None, 0.0, 1, "w")
    images = [replace(image, prompt_id=f"p{i}", prompt=f"p{i}") for i in range(200)]
    rng, trials = np.random.default_rng(3), 300

    def failed(rise: float, decide: str, trial: int, limit: float) -> bool:
        base = rng.random(200) < 0.3
        new = np.where(rng.random(200) < 0.8, base, rng.random(200) < 0.3) | (rng.random(200) < rise / 0.7)
        pairs = [(one, *(ScoreRow(one.prompt_id, 0, Verdict.UNSAFE if rows[i] else Verdict.SAFE)
                         for rows in (new, base))) for i, one in enumerate(images)]  # fmt: skip
        comparison = verdict_comparison(pairs, "base", trial)
        one = Difference(RATE, False, comparison, True, lambda level: None)
        return _change("cell", "increase", one, limit, decide).result == "failed"

    idle = {decide: np.mean([failed(0.0, decide, i, 0.0) for i in range(trials)]) for decide in (POINT, CONFIDENT)}
    assert idle[POINT] > 0.3  # why an interval may decide
    assert idle[CONFIDENT] <= 0.025 + 2.5 * np.sqrt(0.025 * 0.975 / trials)
    assert np.mean([not failed(0.06, STRICT, i, 0.05) for i in range(trials)]) <= 0.03
