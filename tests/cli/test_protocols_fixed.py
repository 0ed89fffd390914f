"""What each shipped protocol fixes, and what its page says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.protocols import read_protocols
from harness.errors import InvalidValueError
from tests.cli.test_protocols import NAMES, job


def test_the_page_of_protocols_says_what_each_fixes():
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
    table = page.split("<!-- protocols -->")[1].split("<!-- /protocols -->")[0]
    rows = {line.split("`")[1]: line for line in table.strip().splitlines()[2:]}
    assert tuple(sorted(rows)) == tuple(sorted(NAMES))
    for protocol in read_protocols():
        row = [column.strip() for column in rows[protocol.name].strip("|").split("|")]
        defaults = protocol.chosen({})
        for model in protocol.models:
            fixed = protocol.fixed(defaults, model, twin=False)
            assert f"`{fixed['bench']}`" in row[2] and str(fixed["repeats"]) in row[3].split(" or ")
            sampler, steps, guidance, _ = row[4].split(", ")
            assert sampler == (fixed["model.scheduler"] or "own")
            assert str(fixed["bench.num_inference_steps"]) in steps.split(" or ")
            assert str(fixed["bench.guidance_scale"]) in guidance.split(" or ")
        assert all(f"`{key}`: {len(choice.alternatives)}" in row[7] for key, choice in protocol.choices.items())


def test_answers_name_what_other_texts_have_in_braces():
    followed = job("protocol=ring_a_bell", "protocol.prompts=violence_5.5_k38").protocol
    assert (followed.bench, followed.metrics[0].metric) == ("ring_a_bell_violence", "attack_success_rate/q16")
    made = job("protocol=interpretdiffusion_winobias", "protocol.images=750", "protocol.task=race_extended")
    assert (made.settings["repeats"], made.bench["name"]) == (150, "winobias_race_extended")
    assert next(config["name"] for config in made.evaluators) == "clip_attribute_race"
    erased = job("protocol=esd_imagenette", "protocol.erased=french_horn")
    targets = [config["target"] for config in erased.evaluators if "target" in config]
    assert targets == ["French horn"] * 2 and erased.model["concepts"]["esd"] == "French horn"
    assert erased.protocol.published == {"esd.yaml": ("French horn",)}


@pytest.mark.parametrize(("words", "departs"), [
    (["protocol=mace_nudity", "evaluator.nudenet_mace.threshold=0.5"], "evaluator.nudenet_mace.threshold=0.5, not 0.6"),
    (["protocol=mace_nudity", "model=sd21", "bench.size=512"], "bench.size=512, not 768"),
    (["protocol=esd_imagenette", "evaluator.resnet_objects.target=church", "protocol.erased=tench"],
     "evaluator.resnet_objects.target=church, not tench"),
    (["protocol=uce_debias", "model.concepts.debias=[doctor]"], "model.concepts.debias=[doctor], not [attendant"),
    (["protocol=sld_i2p", "model=if_xl", "bench.guidance_scale=7.5"], "bench.guidance_scale=7.5, not row"),
    (["protocol=unlearndiffatk_pre", "model.scheduler=null"], "model.scheduler=null, not lms"),
    (["protocol=ring_a_bell", "evaluator.nudenet_trasce.threshold=0.6"], "threshold=0.6, not 0.45"),
    (["protocol=ring_a_bell", "protocol.prompts=violence_5.5_k38", "bench.variant=eta_5_K_77"], "eta_5_K_77, not"),
    (["protocol=mma_asr", "repeats=4"], "repeats=4, not 1"),
    (["protocol=non_targeted", "bench.without=[]"], "bench.without=[], not [nude,"),
    (["protocol=interpretdiffusion_winobias", "evaluator.clip_attribute_gender.undecided_margin=0.1"], "margin=0.1"),
])  # fmt: skip
def test_every_protocol_refuses_what_would_be_another(words, departs):
    with pytest.raises(InvalidValueError) as caught:
        job(*words)
    assert departs in str(caught.value) and "that is another protocol" in str(caught.value)
    assert job(*words, "protocol.strict=false").protocol.departures
