"""What Hydra's users write works here, and what is not served says so in one line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from harness.__main__ import main
from harness.cells.job import Job
from harness.cells.making import joined
from harness.cli.compose import compose_jobs
from harness.cli.hydra_configs import one_line
from harness.errors import HarnessError
from harness.lib.paths import conf_dir
from harness.run import make_cells
from tests.run.test_docs import commands


def one(*words: str, **more) -> Job:
    (job,) = compose_jobs(words, False, **more)
    return job


def methods(*words: str) -> list[str]:
    return [job.methods[0]["name"] for job in compose_jobs(words, multirun=True)]


def shown(capsys, *words: str):
    """Return what the command prints, as YAML."""
    assert main(list(words)) == 0
    return yaml.safe_load(capsys.readouterr().out)


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
    return said.err


def write(folder: Path, name: str, text: str) -> str:
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(folder)


def experiment(folder: Path, text: str) -> dict:
    return {"config_dirs": [write(folder, "experiment/mine", f"# @package _global_\n{text}")]}


def test_cfg_prints_what_hydra_composes(capsys):
    found = shown(capsys, "--cfg", "job", "method=sld_max", "limit=3")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        wanted = compose("config", ["method=sld_max", "limit=3"])
    assert {key: found[key] for key in found if key != "evaluator"} == OmegaConf.to_container(wanted)
    assert (found["method"]["name"], found["limit"]) == ("sld_max", 3)


def test_cfg_leaves_interpolations_and_resolve_takes_them_away(capsys):
    assert shown(capsys, "-c", "job", "-p", "method")["seed"] == "${seed}"
    assert shown(capsys, "-c", "job", "-p", "method", "--resolve", "seed=4")["seed"] == 4


def test_cfg_shows_every_method_and_evaluator_that_a_word_can_change(capsys):
    found = shown(capsys, "--cfg", "job", "method=[safedir,sld_medium]", "evaluators=nudenet")
    assert [method["name"] for method in found["method"]] == ["safedir", "sld_medium"]
    assert list(found["evaluator"]) == ["nudenet"]
    assert main(["--cfg", "job", "-m", "method=none,sld_max", "-p", "method.name"]) == 0
    assert capsys.readouterr().out == "# @package method.name\nnone\n---\n# @package method.name\nsld_max\n"


def test_cfg_shows_hydras_own_part(capsys):
    assert shown(capsys, "--cfg", "hydra", "-p", "hydra.sweeper", "experiment=demo")["params"]["bench"]
    assert {"hydra", "bench"} <= set(shown(capsys, "--cfg", "all"))
    assert "unknown package 'methd'. Did you mean: method" in refused(capsys, "--cfg", "job", "-p", "methd")


@pytest.mark.parametrize("what", ["config", "defaults", "defaults-tree", "plugins", "searchpath"])
def test_info_tells_what_hydra_knows(what, capsys, tmp_path):
    assert main(["--info", what, "--config-dir", str(tmp_path), "evaluator.hazard_judge.threshold=0.7"]) == 0
    said = capsys.readouterr().out
    assert {"searchpath": str(tmp_path), "plugins": "BasicSweeper", "config": "micro_i2p",
            "defaults": "method/safedir", "defaults-tree": "method: safedir"}[what] in said


def test_a_config_name_begins_with_ones_own_config(tmp_path, capsys):
    folder = write(tmp_path, "mine", "defaults: [config, _self_, {override method: sld_max}]\nlimit: 5\n"
                                     "method: {warmup: 3}\nmodel: {scheduler: ddim}\n")
    job = one(config_dirs=[folder], config_name="mine")
    assert (job.methods[0]["name"], job.methods[0]["warmup"], job.settings["limit"]) == ("sld_max", 3, 5)
    assert job.baseline["name"] == "none" and "warmup" not in job.baseline and job.method_overrides == {"warmup": 3}
    assert shown(capsys, "-cd", folder, "-cn", "mine", "--cfg", "job", "-p", "method")["warmup"] == 3
    assert "Cannot find primary config 'gone'" in refused(capsys, "-cn", "gone")


def test_settings_are_added_changed_taken_away_and_emptied():
    assert one("+bench.guidance_floor=1.5").bench["guidance_floor"] == 1.5
    assert one("++bench.guidance_floor=1.5", "++method.strength=0.25").methods[0]["strength"] == 0.25
    assert one("+half=0.5", "method.strength=${half}").methods[0]["strength"] == 0.5
    assert "strength" not in one("~method.strength").methods[0]
    assert one("~limit").settings["limit"] is one("~evaluators").settings["evaluators"] is None
    assert one("~bench.reference").bench["reference"] is one("baseline=null").baseline is None
    assert one("experiment=null").model["name"] == "micro"
    assert len(compose_jobs(["+experiment=demo"], multirun=True)) == 10
    assert one("~evaluator.hazard_judge.threshold").evaluators[0].keys() == {"name", "_target_"}


def test_a_setting_that_is_taken_away_is_told_in_the_cells_name():
    assert make_cells([one("~method.strength")]).cells[0].label.endswith("(strength=the default)")


@pytest.mark.parametrize(("word", "said"), [
    ("+limit2", "is not a setting"), ("limt=1", "Did you mean: limit"), ("~limt", "Did you mean: limit"),
    ("+method.strength=1", "An item is already at 'method.strength'"), ("method=null", "method=[] names no method"),
    ("model=null", "a run needs a model"), ("~tracker", "Choose one: tracker=<name>"),
    ("~method", "a run needs a method"),
    ("method@x=none", "Use method=none"), ("+method@x=none", "Use method=none"),
    ("method={strength: 1}", "method.<setting>=<value>"), ("evaluator=nudenet", "Did you mean: evaluators"),
    ("evaluators=a,b", "evaluators=[a,b]"), ("method.strength=interval(0,1)", "searches intervals"),
])  # fmt: skip
def test_what_has_no_sense_is_one_line(word, said, capsys, tmp_path):
    assert said in refused(capsys, word, "mode=plan", f"results={tmp_path}")


def test_sweeps_are_written_as_hydras():
    assert methods("method=choice(none,sld_max)") == ["none", "sld_max"]
    assert methods("method=glob([sld_m*,sega],exclude=sld_max)") == ["sega", "sld_medium"]
    strengths = [job.methods[0]["strength"] for job in compose_jobs(["method.strength=range(0.5,2,0.5)"], True)]
    assert strengths == [0.5, 1.0, 1.5]
    assert [job.settings["seed"] for job in compose_jobs(["seed=range(1,4)"], True)] == [1, 2, 3]
    assert methods("hydra.mode=MULTIRUN", "method=none,sld_max") == ["none", "sld_max"]
    assert len(compose_jobs(["hydra.mode=MULTIRUN", "seed=1,2"], multirun=False)) == 2


def test_several_experiments_are_each_their_own_sweeps():
    jobs = compose_jobs(["experiment=demo,safedir_front", "limit=1"], multirun=True)
    assert len(jobs) == 10 + 18 and {job.bench["name"] for job in jobs} == {
        "micro_i2p", "micro_coco", "micro_i2p_tune", "micro_coco_tune"}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), [
    (["method.strength=interval(0,1)"], "hydra/sweeper=optuna searches intervals"),
    (["method=glob(zz*)"], "has no value to sweep over"),
    (["hydra/launcher=joblib"], "All cells of a sweep share one pool: pool=ray."),
    (["hydra.run.dir=x"], "Set where a run writes: results=<folder>."),
    (["hydra.job.chdir=true"], "supported only for hydra.searchpath, hydra.sweeper, hydra.mode and hydra/sweeper"),
    (["hydra/sweeper=ax"], "unknown hydra/sweeper 'ax'"),
    (["hydra.searchpath=[file:///nowhere]"], "no config folder at /nowhere"),
])  # fmt: skip
def test_what_of_hydra_is_not_served_says_so_in_one_line(words, said, capsys, tmp_path):
    assert said in refused(capsys, "-m", *words, "mode=plan", f"results={tmp_path}")


def test_a_file_that_sets_a_key_of_hydras_that_is_not_served_says_so(tmp_path, capsys):
    folder = experiment(tmp_path, "hydra: {run: {dir: x}}\n")["config_dirs"][0]
    assert "hydra.run.dir: " in refused(capsys, "--config-dir", folder, "experiment=mine", "mode=plan")


def test_an_experiment_overrides_the_defaults(tmp_path):
    own = experiment(tmp_path, "defaults:\n  - override /method: sld_max\n  - override /bench: micro_coco\nseed: 3\n")
    job = one("experiment=mine", **own)
    assert (job.methods[0]["name"], job.bench["name"], job.settings["seed"]) == ("sld_max", "micro_coco", 3)
    assert job.baseline["name"] == "none"
    assert one("experiment=mine", "method=safree", **own).methods[0]["name"] == "safree"


def test_values_of_an_experiment_reach_the_method_and_not_its_baseline(tmp_path):
    own = experiment(tmp_path, "method: {strength: 0.5}\nmodel: {scheduler: pndm}\n")
    job = one("experiment=mine", "baseline=safedir", **own)
    assert (job.methods[0]["strength"], job.baseline["strength"]) == (0.5, 1.0)
    assert job.model["scheduler"] == "pndm" and job.method_overrides == {"strength": 0.5}
    cells = make_cells([job])
    assert len(cells.cells) == 2 and cells.cells[0].label.endswith("(strength=0.5)")
    assert one("experiment=mine", "method.strength=2", **own).method_overrides == {"strength": 2}


def test_values_of_an_experiment_reach_the_method_of_a_list_that_has_them(tmp_path):
    job = one("experiment=mine", "method=[safedir,sld_medium]", **experiment(tmp_path, "method: {warmup: 3}\n"))
    assert job.methods[1]["warmup"] == 3 and "warmup" not in job.methods[0]


def test_an_experiment_may_choose_a_list_of_methods(tmp_path):
    own = experiment(tmp_path, "defaults:\n  - override /method: [safedir, sld_medium]\n")
    assert [method["name"] for method in one("experiment=mine", **own).methods] == ["safedir", "sld_medium"]


def test_several_config_folders_are_searched_also_on_hydras_search_path(tmp_path):
    first = write(tmp_path / "a", "method/mine", "name: mine\n_target_: methods.none.NoMethod\n")
    second = write(tmp_path / "b", "evaluator/my_judge", "name: my_judge\n_target_: x.Y\nthreshold: 1\n")
    job = one("method=mine", "evaluators=my_judge", "evaluator.my_judge.threshold=2", config_dirs=[first, second])
    assert (job.methods[0]["name"], job.evaluators[0]["threshold"]) == ("mine", 2)
    job = one(f"hydra.searchpath=[file://{first},{second}]", "method=mine", "evaluators=[my_judge]")
    assert (job.methods[0]["name"], job.evaluators[0]["name"]) == ("mine", "my_judge")
    assert one(f"hydra.searchpath=[{first}]", "hydra.mode=MULTIRUN", "method=mine").methods[0]["name"] == "mine"
    own = write(tmp_path / "c", "mine", f"defaults: [config, _self_]\nhydra: {{searchpath: ['file://{first}']}}\n")
    assert one("method=mine", config_dirs=[own], config_name="mine").methods[0]["name"] == "mine"


def test_a_single_evaluator_is_a_list_of_one():
    assert [config["name"] for config in one("evaluators=nudenet").evaluators] == ["nudenet"]
    assert [config["name"] for config in one("bench.evaluators=degenerate", "model.evaluators=null").evaluators] == [
        "degenerate"]  # fmt: skip


@pytest.mark.parametrize(("words", "near"), [
    (["bench=I2P"], "Did you mean: i2p?"), (["model=CompVis/stable-diffusion-v1-4"], "Did you mean: sd14?"),
    (["steps=10"], "Did you mean: bench.num_inference_steps?"), (["workers=2"], "Did you mean: pool.workers?"),
    (["method=SLD_max"], "Did you mean: sld_max?"),
    (["method=zzzz"], "the nearest are "), (["experiment=mine"], "unknown experiment 'mine'"),
])  # fmt: skip
def test_a_wrong_name_gets_the_right_one(words, near, capsys):
    error = refused(capsys, *words)
    assert near in error and error.count(", ") <= 6


def test_home_and_variables_are_written_out_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    job = one("bench=csv", "bench.file=~/a b.csv", "results=~/out", "artifact=$HOME/x", "model=local",
              "model.path=$DATA/model", "evaluators=[fid]", "evaluator.fid.extractor.folder='~/weights'")  # fmt: skip
    assert job.bench["file"] == f"{tmp_path}/a b.csv" and job.settings["results"] == f"{tmp_path}/out"
    assert job.settings["artifact"] == f"{tmp_path}/x" and job.model["path"] == f"{tmp_path}/data/model"
    assert job.evaluators[0]["extractor"]["folder"] == f"{tmp_path}/weights"


@pytest.mark.parametrize(("words", "setting"), [
    (["method=none", "results=s3://bucket/x"], "results"), (["leaderboard", "gs://bucket"], "results"),
    (["score", "s3://bucket/runs/x"], "run folder"), (["label", "text=a", "folder=s3://b"], "folder"),
    (["bench=csv", "bench.file=https://x.org/p.csv", "mode=plan"], "bench.file"),
    (["convert", "a.pt", "s3://b/a.safetensors"], "path"), (["artifacts", "list", "root=s3://b"], "root"),
    (["calibrate", "evaluator=hazard_judge", "data=s3://b"], "data"),
])  # fmt: skip
def test_no_folder_is_made_of_an_address(words, setting, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, *words)
    assert f"{setting}=" in error and "a path on this machine is needed" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
@pytest.mark.parametrize("command", [["method=none"], ["score", "runs/x"]])
def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(command, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    where = [] if command[0] == "score" else [f"results={tmp_path / 'out'}"]
    error = refused(capsys, *command, *where, "pool.device=cuda")
    assert "pool.device=cuda: " in error and "pool.device=auto" in error and not list(tmp_path.iterdir())


def test_a_plan_that_cannot_run_exits_1(tmp_path, capsys, nothing_cached):
    assert main(["mode=plan", "model=sd14", "method=none", f"results={tmp_path}"]) == 1
    assert "cannot run: weights of sd14" in capsys.readouterr().out


def documented() -> list[str]:
    shown = [command for command in commands("docs/command_line.md") if "tune_safedir" not in command]
    assert len(shown) == 5
    return shown


@pytest.mark.parametrize("command", documented())
def test_what_the_page_of_the_command_line_shows_works(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my_conf", "my_run", "defaults: [config, _self_]\nlimit: 2\n")
    assert main(shlex.split(command)[3:]) == 0, capsys.readouterr().err


def completed(line: str, *words: str) -> list[str]:
    """Return what a shell is told that a line may go on with."""
    done = subprocess.run([sys.executable, "-c", "import sys; sys.argv[0] = 'harness'\n"
                           "from harness.__main__ import main; main(sys.argv[1:])", "-sc", "query=bash", *words],
                          env={**os.environ, "COMP_LINE": line}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_shell_completes_commands_names_and_settings(tmp_path):
    assert completed("harness sc") == ["score"]
    assert "method=sld_max" in completed("harness score method=sld_")
    folder = write(tmp_path, "method/mine", "name: mine\n")
    assert completed(f"harness --config-dir {folder} method=mi") == ["method=mine"]


def test_completion_is_installed_for_the_command_harness(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/harness"])
    assert main(["-sc", "install=bash"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("hydra_bash_completion harness")
    monkeypatch.setattr(sys, "argv", ["/x/harness/__main__.py"])
    assert 'eval "$(harness -sc install=bash)"' in refused(capsys, "-sc", "install=bash")


def test_who_uses_hydra_has_it_back_afterwards():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        assert one().model["name"] == "micro"
        assert GlobalHydra.instance().hydra is mine
    with pytest.raises(HarnessError):
        one("method=nothing_like_it")


def test_a_key_that_nothing_reads_is_refused_in_a_file_and_noted_where_words_add_it(tmp_path, capsys):
    folder = experiment(tmp_path, "limt: 3")["config_dirs"][0]
    said = refused(capsys, "mode=plan", "experiment=mine", "-cd", folder)
    assert "unknown setting 'limt'. Did you mean: limit?" in said
    assert main(["mode=plan", "method=none", "+limt=3"]) == 0
    assert "+limt: no setting of this name exists, and nothing refers to it" in capsys.readouterr().out
    assert main(["mode=plan", "method=none", "+short.one=3", "limit=${short.one}"]) == 0
    assert "refers to it" not in capsys.readouterr().out


def test_a_key_of_ones_own_may_be_named_by_other_keys_and_by_evaluators(tmp_path):
    files = experiment(tmp_path, "short: 3\nlimit: ${short}\nsure: 0.6\nevaluators: [mine]")
    write(tmp_path, "evaluator/mine", (conf_dir() / "evaluator/hazard_judge.yaml").read_text()
          .replace("name: hazard_judge", "name: mine").replace("threshold: 0.5", "threshold: ${sure}"))
    job = one("experiment=mine", **files)
    assert (job.settings["limit"], job.evaluators[0]["threshold"]) == (3, 0.6)
    jobs = compose_jobs(["experiment=mine", "sure=0.6,0.7"], True, **files)  # not the first one's for both
    assert [each.evaluators[0]["threshold"] for each in jobs] == [0.6, 0.7]


def test_an_experiment_sets_evaluators_as_words_do(tmp_path, capsys):
    files = experiment(tmp_path, "evaluators: [nudenet]\nevaluator: {nudenet: {threshold: 0.31}}")
    assert one("experiment=mine", **files).evaluators[0]["threshold"] == 0.31
    assert one("experiment=mine", "evaluator.nudenet.threshold=0.4", **files).evaluators[0]["threshold"] == 0.4
    for text, said in (("{nudenet: {threshhold: 1}}", "evaluator nudenet 'threshhold'. Did you mean: threshold?"),
                       ("{nudnet: {threshold: 1}}", "unknown evaluator 'nudnet'. Did you mean: nudenet"),
                       ("nudenet", "evaluator: settings by evaluator are needed.")):
        files = experiment(tmp_path, f"evaluators: [nudenet]\nevaluator: {text}")
        assert said in refused(capsys, "mode=plan", "experiment=mine", "-cd", files["config_dirs"][0])


def test_parts_that_words_give_a_composite_are_those_that_judge():
    job = one("evaluators=[inappropriate]", "evaluator.inappropriate.parts=[hazard_judge,degenerate]")
    assert [each["name"] for each in job.evaluators] == ["hazard_judge", "degenerate", "inappropriate"]


def test_jobs_of_one_cell_are_joined():
    def cells(*words: str):
        return make_cells(compose_jobs(["mode=plan", *words], multirun=True)).cells

    (cell,) = cells("method=none", "limit=4,8", "repeats=2,1")
    assert (cell.limit, cell.repeats) == (8, 2)
    of_both = {each.method: each.limit for each in cells("method=sld_max", "limit=4,null")}
    assert of_both == {"none": None, "sld_max": None}
    assert {each.limit: each.baseline_of for each in cells("method=none,sld_max", "limit=4,8")} == {8: None}
    (cell,) = cells("method=none", "evaluators=[hazard_judge],[degenerate]")
    assert [each["name"] for each in cell.evaluators] == ["hazard_judge", "degenerate"]


@pytest.mark.parametrize(("words", "said"), [
    (["batch_size=4,8"], "'batch_size' cannot be swept: micro/none/micro_i2p with 4 and with 8 is one cell."),
    (["shard_size=4,8"], "'shard_size' cannot be swept"),
    (["evaluators=nudenet", "evaluator.nudenet.threshold=0.3,0.4"], "settings of evaluator nudenet cannot be swept"),
    (["method=sld_max", "baseline=none,negative_prompt"], "'baseline' cannot be swept: micro/sld_max/micro_i2p"),
])  # fmt: skip
def test_a_sweep_over_what_makes_no_other_cell_is_refused(words, said, capsys):
    assert said in refused(capsys, "-m", "mode=plan", "method=none", *words)


@pytest.mark.parametrize(("text", "said"), [("limit: 3\nlimit: 4", "the key 'limit' is a duplicate in line 3,"),
                                            ("a: [1", "while parsing a flow sequence in line 2")])
def test_a_config_that_is_no_yaml_says_which_file_and_line(text, said, tmp_path, capsys):
    folder = experiment(tmp_path, text)["config_dirs"][0]
    line = refused(capsys, "mode=plan", "experiment=mine", "-cd", folder)
    assert f"{folder}/experiment/mine.yaml cannot be read: " in line and said in line


def test_output_that_nobody_reads_to_its_end_is_no_fault_of_a_config():
    with pytest.raises(BrokenPipeError), one_line():
        raise BrokenPipeError(32, "Broken pipe")


def test_artifacts_of_one_content_in_two_folders_are_not_swept():
    cell = make_cells([one("method=none", "mode=plan")]).cells[0]
    with pytest.raises(HarnessError, match="'artifact' cannot be swept: micro/none/micro_i2p with None and with x"):
        joined(cell, replace(cell, spec=replace(cell.spec, given="x")))
