"""A method may propose how it is sampled: who is followed, what the plan says of it, and what it is compared with."""

from __future__ import annotations

from typing import Any

import pytest

from harness.__main__ import main
from harness.cells.job import Job
from harness.cells.proposed_sampling import Proposal, agreed, split_proposal
from harness.cli.compose import compose_jobs
from harness.errors import InvalidValueError, UnknownNameError
from harness.run import make_cells
from tests.run.test_run import go, summaries

MODEL = {"name": "toy", "scheduler": None, "num_inference_steps": 50, "guidance_scale": 7.5}
LMS, DDIM = Proposal("lms"), Proposal("ddim", 100, 9.0)


def composed(*words: str) -> list[Job]:
    return compose_jobs([*words, "mode=plan"], multirun=True)


def told(job: Job) -> tuple[Any, ...]:
    return tuple(job.model[key] for key in ("scheduler", "num_inference_steps", "guidance_scale"))


def test_presets_propose_on_sd14_what_their_releases_sample_with():
    names = ("none", "sld_medium", "safree", "safree_only", "trasce", "saeuron", "safedir", "safedir_full")
    found = dict(zip(names, map(told, composed(f"method={','.join(names)}", "model=sd14")), strict=True))
    assert found == {
        "none": (None, 50, 7.5), "sld_medium": (None, 50, 7.5), "safree": ("dpmsolver++", 50, 7.5),
        "safree_only": ("dpmsolver++", 50, 7.5), "trasce": ("ddim", 50, 7.5), "saeuron": ("ddim", 100, 9.0),
        "safedir": ("lms", 50, 7.5), "safedir_full": ("lms", 50, 7.5)}  # fmt: skip


def test_the_embedded_model_keeps_one_sampling_unless_it_is_asked():
    names = "none,safree,trasce,safedir"
    assert {told(job) for job in composed(f"method={names}")} == {(None, 25, 5.0)}
    (job,) = composed("method=trasce", "method.release_sampling.scheduler=heun")
    assert told(job)[0] == "heun" and job.method_overrides == {} and "release_sampling" not in job.methods[0]


@pytest.mark.parametrize(("words", "expected", "said"), [
    ((), ("ddim", 100, 9.0), "saeuron and its baseline are sampled as in its release: scheduler=ddim, "
     "num_inference_steps=100, guidance_scale=9 (model sd14: its pipeline's own, 50, 7.5); sampling=model uses"),
    (("sampling=model",), (None, 50, 7.5), "num_inference_steps=100: sampling=model keeps 50"),
    (("model.scheduler=euler",), ("euler", 100, 9.0),
     "scheduler=ddim: model.scheduler=euler was set, which takes precedence"),
    (("model.scheduler=null",), (None, 100, 9.0), "model.scheduler=its pipeline's own was set, which takes precedence"),
    (("model.num_inference_steps=20",), ("ddim", 20, 9.0), "model.num_inference_steps=20 was set"),
    (("bench=country_body",), ("ddim", 50, 7.5), "num_inference_steps=100: bench country_body sets 25, which "
     "takes precedence; to follow the release: bench.num_inference_steps=100"),
    (("bench.guidance_scale=3",), ("ddim", 100, 7.5), "bench micro_i2p sets 3, which takes precedence"),
])  # fmt: skip
def test_command_line_and_bench_come_before_the_method_and_the_plan_says_so(words, expected, said):
    (job,) = composed("method=saeuron", "model=sd14", *words)
    assert told(job) == expected
    assert any(said in note for note in job.sampling.notes)


def test_what_an_experiment_sets_counts_as_given(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nmodel: {scheduler: euler}\n")
    (job,) = compose_jobs(["method=safedir", "model=sd14", "experiment=mine"], False, [str(tmp_path)])
    assert told(job)[0] == "euler" and "was set, which takes precedence" in job.sampling.notes[0]


def test_of_methods_that_propose_differently_the_first_is_followed_and_the_plan_says_so():
    both = agreed(MODEL, {}, [("a", LMS), ("b", DDIM)], (), "method")
    assert both.taken == {"scheduler": "lms", "num_inference_steps": 100, "guidance_scale": 9.0}
    assert "b's release samples with scheduler=ddim: a, to its left, takes precedence" in both.notes
    assert agreed(MODEL, {}, [("a", LMS), ("b", LMS)], (), "method").notes == (both.notes[0],)
    one = agreed(MODEL, {}, [("a", Proposal()), ("b", LMS)], (), "method")
    assert one.taken == {"scheduler": "lms"} and one.notes[0].startswith("b and its baseline")


def test_what_makes_no_difference_is_not_spoken_of():
    assert agreed(MODEL | {"scheduler": "lms"}, {}, [("a", LMS)], (), "method") == agreed(MODEL, {}, [], (), "method")


def test_a_wrong_proposal_is_one_line():
    with pytest.raises(UnknownNameError, match="Did you mean: scheduler"):
        split_proposal({"name": "x", "release_sampling": {"shceduler": "lms"}})
    with pytest.raises(InvalidValueError, match=r"method\.release_sampling"):
        split_proposal({"name": "x", "release_sampling": "lms"})
    with pytest.raises(UnknownNameError, match="ddim"):
        Proposal("dim")
    for wrong in ({"num_inference_steps": 0}, {"num_inference_steps": "ten"}, {"guidance_scale": "x"}):
        with pytest.raises(InvalidValueError, match=r"method\.release_sampling\."):
            Proposal.from_config(wrong)
    with pytest.raises(UnknownNameError, match="method"):
        agreed(MODEL, {}, [], (), "paper")


def test_every_sampling_of_a_sweep_has_a_baseline_of_its_own_and_pairs_with_no_other():
    cells = make_cells(composed("method=none,sld_medium,safree,trasce,sdd", "model=sd14", "model.dtype=float32"))
    none = [cell for cell in cells.cells if cell.method == "none"]
    assert sorted(str(cell.spec.model["scheduler"]) for cell in none) == ["None", "ddim", "dpmsolver++"]
    assert len({cell.pairing for cell in none}) == 3
    for cell in (cell for cell in cells.cells if cell.method != "none"):
        other = cells.compared[cell.cell_id]
        assert other.pairing == cell.pairing and other.spec.model["scheduler"] == cell.spec.model["scheduler"]
    labels = {cell.label for cell in none}
    assert labels == {"sd14/none/micro_i2p", "sd14/none/micro_i2p (scheduler=ddim)",
                      "sd14/none/micro_i2p (scheduler=dpmsolver++)"}
    alike = make_cells(composed("method=none,sld_medium,safree,trasce", "model=sd14", "sampling=model")).cells
    assert len({cell.pairing for cell in alike}) == 1 and len(alike) == 4


def test_a_proposal_names_the_same_cell_as_the_same_words_by_hand():
    (proposed,), (by_hand,) = (make_cells(composed("method=safree", "model=sd14", *words)).cells[:1] for words in (
        (), ("sampling=model", "model.scheduler=dpmsolver++")))
    assert proposed.cell_id == by_hand.cell_id
    assert proposed.sampling.taken and not by_hand.sampling.taken


def test_a_run_follows_it_with_a_baseline_drawn_likewise(tmp_path, capsys):
    """On the embedded model: what is drawn changes with the scheduler, and the comparison is paired with its like."""
    words = ("method=safree", "method.release_sampling.scheduler=euler", "limit=2", "evaluators=[hazard_judge]")
    go(tmp_path, *words)
    assert "safree and its baseline are sampled as in its release: scheduler=euler" in capsys.readouterr().out
    found = summaries(tmp_path)
    own, base = found["safree/micro_i2p"]["cell"], found["none/micro_i2p"]["cell"]
    assert own["baseline_cell"] == base["id"]
    assert own["settings"]["sampling"] == base["settings"]["sampling"] == {"scheduler": "euler"}
    go(tmp_path, "method=none", "limit=2", "evaluators=[hazard_judge]")
    files = sorted(tmp_path.glob("runs/micro/none/micro_i2p/*/images/*/*.png"))
    assert len({file.parents[2].name for file in files}) == 2
    assert len({file.read_bytes() for file in files}) == len(files) == 4
    assert main(["mode=plan", f"results={tmp_path}", *words]) == 0
