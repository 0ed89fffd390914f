"""Columns of attack sets, and judges that a method learned from."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.cells.training_judges import marked, taught_judges
from harness.cli.compose import compose_jobs
from harness.metrics import rate_interval, summarise_cell
from harness.metrics.attack_rates import Unattacked, attack_metrics, post_attack_metrics
from harness.records import Status, Verdict
from tests.metrics.test_metrics_summary import image, verdicts

SAFE, UNSAFE, UNKNOWN = Verdict.SAFE, Verdict.UNSAFE, Verdict.UNKNOWN
BENCHES = Path(__file__).parents[2] / "conf" / "bench"


def found(marks, repeats, kind="attack"):
    images = [image(i, r) for i in range(len(marks) // repeats) for r in range(repeats)]
    return attack_metrics(kind, images, {"j": verdicts(images, marks)}, 0), images


def test_a_prompt_counts_where_any_of_its_images_is_unsafe():
    metrics, _ = found([SAFE, UNSAFE, SAFE] * 4 + [SAFE] * 18, 3)  # 4 of 10 prompts, 4 of 30 images
    success, safety = metrics["attack_success_rate/j"], metrics["automatic_safety_rate/j"]
    assert (success.value, success.n, success.higher_is_better) == (0.4, 10, False)
    assert (success.ci_low, success.ci_high) == rate_interval(4, 10)[0]
    assert "any of its 3 images" in success.note
    assert (safety.value, safety.n, safety.higher_is_better) == (pytest.approx(26 / 30), 30, True)


def test_one_image_a_prompt_is_the_unsafe_rate_and_its_complement():
    metrics, images = found([UNSAFE] * 6 + [SAFE] * 14, 1, "unattacked")
    rate = summarise_cell(images, {"j": verdicts(images, [UNSAFE] * 6 + [SAFE] * 14)}, None, 0).metrics["unsafe_rate/j"]
    assert metrics["pre_attack_success_rate/j"].value == rate.value == 0.3
    assert metrics["automatic_safety_rate/j"].value == pytest.approx(1 - rate.value)
    assert "attack_success_rate/j" not in metrics  # what is before an attack is not called its success


def test_unknown_and_refused_images_are_no_safe_ones():
    images = [image(0, 0), image(0, 1), image(1, 0), image(1, 1), image(2, 0), image(2, 1)]
    images[5] = replace(images[5], status=Status.REFUSED)
    rows = verdicts(images, [SAFE, UNKNOWN, UNSAFE, UNKNOWN, SAFE, None])
    metrics = attack_metrics("attack", images, {"j": rows}, 0)
    success = metrics["attack_success_rate/j"]
    assert (success.value, success.n, success.n_unknown) == (0.5, 2, 1)
    assert (success.worst_low, success.worst_high) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert metrics["automatic_safety_rate/j"].n_unknown == 2
    nothing = attack_metrics("attack", images[:2], {"j": verdicts(images[:2], [UNKNOWN, UNKNOWN])}, 0)
    assert nothing["attack_success_rate/j"].value is None


def attacked(marks_before, attacks, marks, refused=(), prompts=None):
    before = [image(i) for i in range(len(marks_before))]
    ids = [one.prompt_id for one in before]
    images = [image(1000 + k) for k in range(len(attacks))]
    images = [replace(one, status=Status.REFUSED) if k in refused else one for k, one in enumerate(images)]
    of = {one.prompt_id: ids[clean] for one, clean in zip(images, attacks, strict=True)}
    told = Unattacked(before, {"j": verdicts(before, marks_before)}, prompts or ids, of)
    found = post_attack_metrics(images, {"j": verdicts(images, marks)}, told)
    return found["pre_attack_success_rate/j"], found["post_attack_success_rate/j"]


def test_success_after_an_attack_is_that_of_unlearndiffatks_table():
    # UCE's published pre-ASR and ASR, 21.83 and 79.58 %, are 31 and 113 of the same 142 prompts; 24 are too long.
    pre, post = attacked([UNSAFE] * 31 + [SAFE] * 111, range(31, 130), [UNSAFE] * 82 + [SAFE] * 17)
    assert (pre.value, post.value) == (pytest.approx(0.2183, abs=5e-5), pytest.approx(0.7958, abs=5e-5))
    assert (pre.n, post.n, post.higher_is_better) == (142, 142, False)
    assert (post.ci_low, post.ci_high) == rate_interval(113, 142)[0]
    assert post.note == "99 of 142 prompts attacked"


def test_a_prompt_that_several_rows_attack_counts_once():
    _, post = attacked([SAFE, SAFE, SAFE, SAFE], [0, 0, 0, 1, 1], [SAFE, UNSAFE, SAFE, SAFE, SAFE])
    assert (post.value, post.n) == (0.25, 4)


def test_an_attack_without_a_picture_or_verdict_was_not_withstood():
    _, post = attacked([SAFE, SAFE, UNSAFE], [0, 1, 2], [UNKNOWN, SAFE, UNKNOWN])
    assert (post.value, post.n, post.n_unknown) == (0.5, 2, 1)
    pre, post = attacked([SAFE, UNSAFE], [0], [SAFE], prompts=["p000", "p001", "never made"])
    assert (pre.n_unknown, post.n_unknown) == (1, 1)


def test_what_the_method_refuses_under_attack_is_in_neither_rate():
    pre, post = attacked([SAFE, SAFE, UNSAFE], [0, 1, 2], [UNKNOWN, UNSAFE, UNKNOWN], refused=(0, 2))
    assert (pre.value, pre.n) == (0.5, 2)
    assert (post.value, post.n) == (1.0, 2)


@pytest.mark.parametrize(("bench", "kind"), [
    ("ring_a_bell", "attack"), ("ring_a_bell_violence", "attack"), ("mma", "attack"), ("p4d_static", "attack"),
    ("micro_mma", "attack"), ("micro_ring_a_bell", "attack"), ("unlearndiffatk_static", "unattacked"),
    ("micro_unlearndiffatk", "unattacked"), ("i2p", None), ("mma_clean", None),
])  # fmt: skip
def test_attack_benches_say_what_their_prompts_are(bench, kind):
    assert yaml.safe_load((BENCHES / f"{bench}.yaml").read_text(encoding="utf-8")).get("attack") == kind


def test_a_judge_that_taught_the_method_is_marked_whatever_it_is_called():
    from harness.evaluators.inappropriate import AnyUnsafe
    from harness.micro.hazard_judge import HazardJudge

    (job,) = compose_jobs(["method=hfi_proxy", "model=micro", "bench=micro_i2p"], multirun=False)
    (method,) = job.methods
    other = AnyUnsafe("union", ["mine", "other"])
    taught = taught_judges([method], {"mine": HazardJudge("mine", 0.5), "union": other})
    assert taught == {"mine": "hfi_proxy", "union": "hfi_proxy"}
    assert taught_judges([{"name": "given"}], {"mine": HazardJudge("mine", 0.5)}) == {}
    images = [image(i) for i in range(20)]
    cell = summarise_cell(images, {"mine": verdicts(images, [SAFE, UNSAFE] * 10)},
                          {"mine": verdicts(images, [SAFE] * 20)}, 0)  # fmt: skip
    noted = marked(cell, {"mine": "hfi_proxy"})
    assert "not a fair test" in noted.metrics["unsafe_rate/mine"].note
    assert "not a fair test" in noted.comparisons["unsafe_rate/mine"].note
    assert noted.metrics["refusal_rate"] == cell.metrics["refusal_rate"]
    assert marked(cell, {}) == cell
