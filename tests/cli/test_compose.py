"""From words on the command line to cells, with every mistake said in one line before anything is loaded."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache

import pytest

from harness.__main__ import main
from harness.cli.compose import compose_jobs, config_names
from harness.cli.hydra_configs import Configs, hydra_with, unresolved
from harness.cli.quoting import unquoted
from harness.errors import HarnessError
from harness.run import make_cells


def one(*words: str):
    return compose_jobs(words, multirun=False)[0]


def test_bare_command_means_safedir_on_micro_i2p():
    job = one()
    assert (job.methods[0]["name"], job.model["name"], job.bench["name"]) == ("safedir", "micro", "micro_i2p")


def test_sweep_is_the_product_of_its_lists():
    jobs = compose_jobs(["method=none,sld_max", "bench=micro_i2p,micro_coco", "seed=1,2"], multirun=True)
    found = {(job.methods[0]["name"], job.bench["name"], job.settings["seed"]) for job in jobs}
    assert len(jobs) == len(found) == 8


def test_experiment_may_hold_several_sweeps_and_a_cell_of_two_is_one(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "two.yaml").write_text("""# @package _global_
hydra: {sweeper: {params: {method: "none,sld_max", bench: "micro_i2p,micro_coco"}}}
more_sweeps: [{method: "none,negative_prompt", bench: "micro_coco,micro_winobias"}]
""")
    jobs = compose_jobs(["experiment=two"], multirun=True, config_dirs=[str(tmp_path)])
    found = sorted((job.methods[0]["name"], job.bench["name"]) for job in jobs)
    assert found == [("negative_prompt", "micro_coco"), ("negative_prompt", "micro_winobias"), ("none", "micro_coco"),
                     ("none", "micro_i2p"), ("none", "micro_winobias"), ("sld_max", "micro_coco"),
                     ("sld_max", "micro_i2p")]  # fmt: skip
    jobs = compose_jobs(["experiment=two", "method=none"], multirun=True, config_dirs=[str(tmp_path)])
    assert {job.methods[0]["name"] for job in jobs} == {"none"} and len(jobs) == 3


def test_method_list_composes_left_to_right():
    names = [method["name"] for method in one("method=[safedir,sld_medium]").methods]
    assert names == ["safedir", "sld_medium"]


def test_method_parameter_reaches_the_member_that_has_it():
    job = one("method=[safedir,sld_medium]", "method.warmup=3")
    assert job.methods[1]["warmup"] == 3
    assert "warmup" not in job.methods[0]
    assert job.method_overrides == {"warmup": 3}


def test_evaluator_parameters_are_overridden_by_name():
    job = one("evaluator.hazard_judge.threshold=0.7")
    assert next(e for e in job.evaluators if e["name"] == "hazard_judge")["threshold"] == 0.7


def test_settings_inside_an_evaluators_extractor_are_reached_and_checked():
    (config,) = one("evaluators=[fid]", "evaluator.fid.extractor.folder=/my/weights").evaluators
    assert config["extractor"]["folder"] == "/my/weights"
    (config,) = one("evaluators=[fid]").evaluators  # the file's own value is untouched
    assert config["extractor"]["folder"] != "/my/weights"
    for wrong in ("extractor.foldr", "extractor.folder.deeper", "reference.x"):
        with pytest.raises(HarnessError, match="setting of evaluator fid"):
            one("evaluators=[fid]", f"evaluator.fid.{wrong}=1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=safdir"], "unknown method 'safdir'. Did you mean: safedir"),
        (["model=sd41"], "unknown model 'sd41'. Did you mean: sd21, sd15, sd14"),
        (["model=common/loading"], "unknown model 'common/loading'"),
        (["bench=micro_i2"], "unknown bench 'micro_i2'. Did you mean: micro_i2p"),
        (["limt=3"], "unknown setting 'limt'. Did you mean: limit"),
        (["method=sld_max", "method.warm_up=3"], "Did you mean: method.warmup"),
        (["bench.repeat=3"], "Did you mean: bench.repeats"),
        (["overview=[{title: x, metrics: fid}]"], "unknown setting of overview[0] 'metrics'. Did you mean: metric?"),
        (["overview=[{title: x, metric: fid, bensh: micro_coco}]"], "Did you mean: bench"),
        (["evaluators=[nudnet]"], "unknown evaluator 'nudnet'. Did you mean: nudenet"),
        (["evaluator.hazard_judge.treshold=0.5"], "Did you mean: threshold"),
        (["experiment=dem"], "unknown experiment 'dem'. Did you mean: demo"),
        (["pool=rai"], "unknown pool 'rai'"),
        (["mode=paln"], "unknown mode 'paln'. Did you mean: plan"),
        (["method=none,sld_max"], "Add -m"),
        (["limit"], "'limit' is neither a command nor a setting"),
        (["limit=0"], "limit=0: expected an integer of at least 1"),
        (["limit=many"], "limit=many: expected an integer of at least 1"),
        (["repeats=0"], "repeats=0: expected an integer of at least 1"),
        (["seed=-1"], "seed=-1: expected an integer"),
        (["batch_size=1.5"], "batch_size=1.5"),
        (["method=sld_max", "method.scale=-1"], "method.scale"),
        (["method=sld_max", "bench.guidance_scale=1"], "Use a guidance_scale above 1"),
        (["method=safedir", "method.strength=abc"], "method.strength"),
        (["method=[none,sld_max]"], "none"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_mistakes_exit_2_with_one_line_that_helps(words, message, capsys, tmp_path):
    assert main([*words, f"results={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_typo_loads_no_torch():
    code = (
        "import sys; from harness.__main__ import main; assert main(['method=safdir']) == 2; "
        "bad = {'torch', 'diffusers', 'transformers', 'ray', 'wandb'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_plan_loads_no_torch_and_starts_nothing(tmp_path):
    code = (
        "import sys; from harness.__main__ import main; "
        f"assert main(['mode=plan', '-m', 'method=none,sld_max,safedir', 'results={tmp_path / 'out'}']) == 0; "
        "bad = {'torch', 'diffusers', 'ray', 'wandb'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "images missing" in done.stdout
    assert "(plus training safedir, if not trained yet)" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("group", ["method", "model", "bench"])
def test_every_shipped_config_composes(group):
    names = config_names(group)
    jobs = compose_jobs([f"{group}={','.join(names)}"], multirun=True)
    found = {(job.methods[0] if group == "method" else getattr(job, group))["name"] for job in jobs}
    assert found == set(names)


@pytest.mark.slow
def test_a_method_that_is_put_in_its_place_is_as_hydra_merges_it_there():
    with hydra_with([]) as loader:
        configs = Configs(loader)
        for name in configs.options("method"):
            whole, put = configs.whole([f"method={name}"]), Configs(loader).with_choice((), "method", name)
            assert put.choices["method"] == name
            assert unresolved(put.config) == unresolved(whole.config), name


@cache
def cell(*words: str):
    return make_cells(compose_jobs([*words, "mode=plan"], multirun=False)).cells[0]


@pytest.mark.parametrize(
    "word",
    [
        "batch_size=3",
        "limit=5",
        "repeats=2",
        "results=/tmp/elsewhere",
        "pool=inline",
        "tracker=disabled",
        "shard_size=8",
    ],
)
def test_what_changes_no_pixel_is_not_in_the_cell_id(word):
    assert cell(word).cell_id == cell().cell_id


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "model.scheduler=pndm",
        "bench.num_inference_steps=7",
        "method=none",
        "bench.guidance_scale=3",
        "method.strength=0.5",
        "bench=micro_coco",
    ],
)
def test_what_changes_pixels_is_in_the_cell_id(word):
    assert cell(word).cell_id != cell().cell_id


def test_method_and_baseline_share_every_seed():
    cells = make_cells(compose_jobs(["method=sld_max", "mode=plan", "repeats=2", "limit=4"], multirun=False))
    own, baseline = cells.cells
    assert cells.compared[own.cell_id] is baseline
    assert [(i.key, i.seed) for i in own.items()] == [(i.key, i.seed) for i in baseline.items()]
    assert len({item.seed for item in own.items()}) == 8


def test_one_impossible_cell_does_not_hide_the_others_of_a_sweep():
    jobs = compose_jobs(["method=none,sld_max", "bench.guidance_scale=1", "mode=plan"], multirun=True)
    cells = make_cells(jobs)
    assert [c.method for c in cells.cells] == ["none"]
    assert "guidance" in cells.refused[0].error


TEXTS = ["skull, bomb", "it's a skull, bomb", 'say "x", y', "a (b) c, d", "5 $HOME, `x`", "what's \"this\", y"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_quotes_that_a_refusal_shows_make_a_text_with_commas_one_value(text):
    with pytest.raises(HarnessError) as caught:
        one("method=negative_prompt", f"method.concept={text}")
    assert "\n" not in str(caught.value)
    shown = str(caught.value.hint).split(": ", 1)[1]
    assert re.match("A sweep needs -m; a text with commas needs quotes|Put values with special", caught.value.hint)
    (word,) = shlex.split(shown)
    assert one("method=negative_prompt", word).methods[0]["concept"] == text


def test_quotes_around_a_folder_are_no_part_of_its_name():
    assert [unquoted(text) for text in ("'/a, b'", '"/a, b"', "/a, b", "'a' and 'b'", "'")] == [
        "/a, b", "/a, b", "/a, b", "'a' and 'b'", "'"]  # fmt: skip


def test_a_sweep_over_the_words_of_a_text_is_said_in_the_plan(capsys, tmp_path):
    words = ["-m", "mode=plan", "method=negative_prompt", "baseline=null", "limit=1", f"results={tmp_path}"]
    assert main([*words, "method.concept=skull, bomb"]) == 0
    told = capsys.readouterr().out
    assert "method.concept is swept over 2 values: 'skull', 'bomb'" in told
    assert "\"method.concept='skull, bomb'\"" in told
    assert main([*words, "method.concept='skull, bomb'"]) == 0
    assert "is swept over" not in capsys.readouterr().out


def test_what_a_sweep_shares_cannot_be_swept():
    with pytest.raises(HarnessError, match="'results' cannot be swept"):
        compose_jobs(["results=a,b"], multirun=True)


def test_own_config_folder_is_searched(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: mine\n_target_: methods.none.NoMethod\n")
    job = compose_jobs(["method=mine"], False, [str(tmp_path)])[0]
    assert job.methods[0]["name"] == "mine"


def test_plan_tells_cells_of_one_method_apart_by_what_was_changed(tmp_path, capsys):
    words = ["-m", "mode=plan", "method=safedir", "method.strength=0.5,1.5", "limit=4", f"results={tmp_path}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "micro/safedir/micro_i2p (strength=0.5)" in out
    assert "micro/safedir/micro_i2p (strength=1.5)" in out
