"""What a user can get wrong about methods, each said in one line before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from harness.__main__ import main
from harness.cli.compose import compose_jobs
from harness.errors import HarnessError, IncompatibleError, InvalidValueError
from harness.lib.targets import build
from harness.method import check_acts, check_composition
from tests.support.methods_registry import NUMBERS_ONLY, PRESETS, configs, kind_of

MICRO = {"name": "micro", "family": "sd1"}
GUIDED = {"negative_prompt", "safree", "sega", "sld_medium", "trasce"}
DISTINCT = [preset for preset in PRESETS if preset not in NUMBERS_ONLY]
CONCEPTS = {
    "concept": ["concept_ablation", "concept_steerers", "esd_x", "safedir", "sdd", "sega", "sld_medium", "trasce"],
    "concepts": ["safree", "uce_debias"], "erase": ["rece", "uce"], "word": ["hfi", "hfi_proxy"],
}  # fmt: skip
JUNK: tuple[Any, ...] = ("", " ", "junk", 3.5, -7, True, None, [], [""], [3], {}, {"a": 1}, float("nan"))


def configured(preset: str, /, **changes: Any) -> Any:
    return build(configs()[preset] | changes)


def changes(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each setting, nested ones too, with each piece of junk."""
    for setting, own in config.items():
        if setting in ("name", "_target_", "labeller"):
            continue
        yield from ({setting: value} for value in JUNK)
        if isinstance(own, Mapping):
            yield from ({setting: {**own, **change}} for change in changes(own))


def one_line(error: BaseException) -> None:
    assert isinstance(error, HarnessError) and "\n" not in str(error)


@pytest.mark.parametrize("preset", DISTINCT)
def test_a_value_of_the_wrong_kind_is_one_line_or_fits(preset):
    """Whatever a setting is given: a method that can be named and hashed, or a HarnessError."""
    for change in changes(configs()[preset]):
        try:
            json.dumps(configured(preset, **change).params())
        except HarnessError as error:
            one_line(error)
        except Exception as error:
            raise AssertionError(f"{preset}: {change} raises {error!r}") from error


@pytest.mark.parametrize("preset", ["hfi_proxy", "interpret_safe", "safedir", "uce_debias"])
def test_a_model_without_guidance_refuses_what_learns_from_its_guided_images(preset):
    """So that a sweep over models refuses one cell and runs the others."""
    (job,) = compose_jobs([f"method={preset}", "model.guidance_scale=0"], multirun=False)
    with pytest.raises(IncompatibleError, match=r"trains on images .* off at its guidance_scale=0\.") as caught:
        build(job.methods[0]).check(MICRO, 7.5)
    one_line(caught.value)


@pytest.mark.parametrize("text", ["", " ", ["a bomb", ""]])
@pytest.mark.parametrize(("setting", "preset"), [(s, preset) for s, presets in CONCEPTS.items() for preset in presets])
def test_an_empty_concept_is_refused(setting, preset, text):
    with pytest.raises(InvalidValueError, match=f"method.{setting}=") as caught:
        configured(preset, **{setting: text})
    one_line(caught.value)


@pytest.mark.parametrize("preset", ["sld_medium", "negative_prompt", "trasce", "concept_steerers"])
def test_a_list_where_one_concept_is_expected_is_refused(preset):
    with pytest.raises(InvalidValueError, match="a text") as caught:
        configured(preset, concept=["a bomb", "a skull"])
    one_line(caught.value)


@pytest.mark.parametrize("preset", ["safree"])
def test_one_concept_where_a_list_is_expected_is_refused(preset):
    with pytest.raises(InvalidValueError, match="a list of texts"):
        configured(preset, concepts="a bomb")


@pytest.mark.parametrize("preset", DISTINCT)
def test_guidance_one_is_refused_by_what_edits_guidance_and_by_nothing_else(preset):
    method = configured(preset)
    if preset not in GUIDED:
        method.check(MICRO, 1.0)
        return
    with pytest.raises(IncompatibleError, match=r"off at guidance_scale=1") as caught:
        method.check(MICRO, 1.0)
    one_line(caught.value)
    with pytest.raises(IncompatibleError, match="no unconditional branch"):
        method.check(MICRO | {"negative_branch": False}, 5.0)


@pytest.mark.parametrize(("preset", "change"), [
    ("sld_medium", {"window": "calls"}), ("sld_medium", {"warmup": 70}), ("sega", {"window": "calls"}),
    ("safedir", {"window": "calls"}),
])  # fmt: skip
def test_fewer_steps_than_the_warm_up_are_refused(preset, change):
    with pytest.raises(IncompatibleError, match=f"{preset} would never act: it skips the first") as caught:
        check_acts(configured(preset, **change), MICRO, 5)
    one_line(caught.value)
    check_acts(configured(preset), MICRO, 5)
    off = kind_of(preset).off or {}
    check_acts(configured(preset, **change, **off), MICRO, 5)


@pytest.mark.parametrize(("scheduler", "steps", "acts"), [
    ("ddim", 10, False), ("pndm", 10, True), ("heun", 6, True), ("heun", 5, False), (None, 10, True),
])  # fmt: skip
def test_a_warm_up_is_counted_in_the_calls_that_a_scheduler_makes(scheduler, steps, acts):
    method, config = configured("sld_medium", window="calls"), MICRO | {"scheduler": scheduler}
    if acts:
        check_acts(method, config, steps)
    else:
        with pytest.raises(IncompatibleError, match="skips the first 10 denoiser calls"):
            check_acts(method, config, steps)


@pytest.mark.parametrize("preset", DISTINCT)
def test_a_warm_up_that_is_accepted_lets_the_method_act(preset):
    """In as few steps as every shipped window allows."""
    check_acts(configured(preset), MICRO, 2)


@pytest.mark.parametrize(("presets", "reason"), [
    (["negative_prompt", "safree"], "each replaces the unconditional row"),
    (["none", "safedir"], "none is the base model"),
    (["sld_max", "sld_max"], "sld_max is given twice"),
    (["safedir", "safree_only"], r"Put safree_only first: method=\[safree_only,safedir\]"),
    (["concept_steerers", "safree_only"], "needs those of the prompt itself"),
])  # fmt: skip
def test_conflicts_are_refused_with_the_reason(presets, reason):
    with pytest.raises(IncompatibleError, match=reason) as caught:
        check_composition([configured(preset) for preset in presets])
    one_line(caught.value)


@pytest.mark.parametrize("presets", [["safree_only", "safedir"], ["safree_only", "negative_prompt"],
                                     ["esd_x", "esd_u"], ["prompt_filter", "safedir", "safety_checker"]])
def test_what_does_not_conflict_is_accepted(presets):
    check_composition([configured(preset) for preset in presets])


@pytest.mark.parametrize(("words", "said"), [
    (["method=esd_x", "method.preset=esd_orgi"], "unknown method.preset 'esd_orgi'. Did you mean: esd_orig"),
    (["method=sld_medium", "method.window=calls", "bench.num_inference_steps=5"], "sld_medium would never act"),
])  # fmt: skip
def test_the_command_line_says_so_in_one_line(words, said, tmp_path, capsys):
    assert main([*words, f"results={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
