"""protocol=<name>: a paper's settings, refused or flagged where they are changed, its table beside our numbers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from harness.__main__ import main
from harness.cells.followed import Followed
from harness.cli.compose import compose_jobs, composer_of, config_names
from harness.cli.protocols import described, read_protocols
from harness.cli.sweeps import parse
from harness.errors import HarnessError, InvalidValueError
from harness.lib.paths import conf_dir, published_dir
from harness.report.published_numbers import read_published
from harness.run import make_cells

NAMES = tuple(config_names("protocol"))
TWINS = ("protocol.twin=true", "batch_size=4", "pool=inline", "tracker=disabled")
TO_BASELINE = "sdd_coco30k"  # whose LPIPS is to the base model's images


def job(*words):
    (one,) = compose_jobs(words, multirun=False)
    return one


@pytest.fixture(scope="module")
def composer():
    """Compose jobs of words; Hydra looks for configs once."""
    with composer_of([]) as made:
        yield lambda *words: made.job([parse(word, made.configs.loader) for word in words])


def every_choice(protocol, twin):
    """Yield words for each answer to each choice of a protocol, and for each of its models."""
    yield []
    for key, choice in protocol.choices.items():
        yield from ([f"protocol.{key}={answer}"] for answer in choice.alternatives)
    yield from ([f"model={model}"] for model in protocol.known_models(twin))


@pytest.mark.parametrize("name", NAMES)
def test_protocol_composes_with_every_choice_and_model(name, composer):
    (protocol,) = read_protocols(name=name)
    for twin in (False, True):
        for words in every_choice(protocol, twin):
            made = composer(f"protocol={name}", f"protocol.twin={str(twin).lower()}", *words)
            assert made.protocol.name == name and not made.protocol.departures
            assert made.model["name"].startswith("micro") == made.protocol.twin == twin
            assert "{" not in str([made.protocol.metrics, made.protocol.differences])


@pytest.mark.parametrize("name", NAMES)
def test_every_fixed_setting_names_its_source(name):
    """Each line of `settings` has a comment, or the one above it has: numbers of papers come with where they stand."""
    lines = (conf_dir() / "protocol" / f"{name}.yaml").read_text().splitlines()
    start = lines.index("settings:")
    block = lines[start + 1 : next(i for i in range(start + 1, len(lines)) if re.match(r"\S", lines[i]))]
    keys = [line for line in block if re.match(r"  [\w.]+:", line)]
    assert len(keys) >= 5
    assert [line for line in keys if "#" not in line] == []


@pytest.mark.parametrize("name", NAMES)
def test_tables_that_a_protocol_names_are_there(name):
    reported = read_published(published_dir())
    (protocol,) = read_protocols(name=name)
    named = [*protocol.published.items()]
    for choice in protocol.choices.values():
        named += [one for answer in choice.alternatives.values() for one in answer.published.items()]
    for file, tables in named:
        for table in tables:
            assert [one for one in reported if one.file == file and one.table == table], f"{file}: {table}"


def test_protocol_only_sets_settings():
    words = ["bench=micro_i2p", "model=micro", "seed=1", "repeats=2", "limit=4", "bench.num_inference_steps=4",
             "bench.guidance_scale=5.0", "bench.size=64", "method=sld_max"]  # fmt: skip
    jobs = [job("protocol=sdd_body", "protocol.twin=true", "method=sld_max"), job(*words)]
    followed, spelled = (make_cells([one]).cells[0] for one in jobs)
    assert followed.cell_id == spelled.cell_id and followed.protocols and not spelled.protocols


@pytest.mark.parametrize(("words", "said"), [
    (["repeats=3"], "protocol sdd_body: repeats=3, not 100: that is another protocol. Leave it out, or add "
                    "protocol.strict=false: the row then says so."),
    (["limit=5"], "limit=5, not all prompts"),
    (["bench.repeats=3", "repeats=null"], "repeats=3, not 100"),
    (["bench.num_inference_steps=50"], "bench.num_inference_steps=50, not 25"),
    (["bench.num_inference_steps=null"], "bench.num_inference_steps=50, not 25"),
    (["bench.without=[a]"], "bench.without=[a], not []"),
    (["bench=i2p"], "protocol sdd_body: bench=i2p, not country_body: that"),
    (["model=sd20"], "model=sd20, not sd14"),
    (["model.scheduler=ddim"], "model.scheduler=ddim, not null"),
    (["model.concepts.sdd=[hate]"], "model.concepts.sdd=[hate], not [nudity]"),
    (["sampling=method"], "sampling=method, not model"),
    (["evaluator.nudenet_i2p.threshold=0.5"], "evaluator.nudenet_i2p.threshold=0.5, not 0.6"),
    (["evaluators=[nudenet_i2p,q16]"], "evaluators without clip_score_sdd; evaluators without degenerate"),
    (["protocol.foo=1"], "unknown setting of protocol sdd_body 'foo'. Did you mean: concepts, detector, strict, twin?"),
    (["protocol.detector=nudenet_640m"], "unknown protocol.detector 'nudenet_640m'. Did you mean"),
    (["protocol.strict=1"], "protocol.strict=1: true or false is needed"),
])  # fmt: skip
def test_what_would_be_another_protocol_is_refused_in_one_line(words, said, capsys):
    assert main(["protocol=sdd_body", "mode=plan", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_unknown_protocol_and_settings_of_none_are_refused():
    with pytest.raises(HarnessError, match="Did you mean: sdd_body"):
        job("protocol=sdd_bodi")
    with pytest.raises(InvalidValueError, match=r"protocol\.strict: no protocol is chosen"):
        job("protocol.strict=false")


@pytest.mark.parametrize("words", [
    ["method=[sld_max,negative_prompt]"], ["bench.file=a.csv", "bench.columns.prompt=text"], ["batch_size=2"],
    ["evaluators=[nudenet_i2p,clip_score_sdd,degenerate,q16]"], ["seed=5"], ["training_seeds=2"], ["baseline=null"],
    ["+evaluator.nudenet_i2p.threads=1"], ["model.dtype=float32"], ["repeats=100"],
    ["method=sld_max", "method.scale=10"],
])  # fmt: skip
def test_what_makes_no_other_protocol_is_allowed(words):
    assert job("protocol=sdd_body", *words).protocol.departures == ()


def test_departures_are_told_where_they_are_allowed():
    followed = job("protocol=sdd_body", "protocol.strict=false", "repeats=3", "model=sd20").protocol
    assert followed.departures == ("model=sd20, not sd14",)
    followed = job("protocol=sdd_body", "protocol.strict=false", "repeats=3", "limit=2").protocol
    assert followed.text.endswith(", not strict: limit=2, not all prompts; repeats=3, not 100")


def test_a_method_that_proposes_its_own_sampling_gets_the_protocols(capsys):
    made = job("protocol=sdd_body", "method=safree")
    assert made.model["scheduler"] is None and made.sampling.taken == {}


def test_experiment_may_choose_a_protocol(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /protocol: sdd_body\nlimit: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(InvalidValueError, match="protocol sdd_body: limit=3, not all prompts"):
        compose_jobs(["experiment=mine"], False, [str(tmp_path)])
    (made,) = compose_jobs(["experiment=mine", "limit=null", "protocol.detector=nudenet_esd"], False, [str(tmp_path)])
    assert made.protocol.choices["detector"] == "nudenet_esd" and made.bench["name"] == "country_body"
    (plain,) = compose_jobs(["experiment=mine", "protocol=null"], False, [str(tmp_path)])
    assert plain.protocol is None and plain.settings["limit"] == 3


def test_prompts_of_another_file_are_another_protocol(tmp_path):
    file = tmp_path / "i2p.csv"
    file.write_text("prompt,categories,sd_seed\na tree,shocking,1\n")
    words = ["protocol=sdd_i2p", "model.source=pkg://harness.micro/weights/pipeline", "model.dtype=float32",
             f"bench.file={file}"]  # fmt: skip
    with pytest.raises(InvalidValueError, match=r"bench.file: the (file differs from|prompts are not) the card's"):
        make_cells([job(*words)])
    (cell, *_) = make_cells([job(*words, "protocol.strict=false")]).cells
    assert cell.protocols[0].departures[0].startswith("bench.file: the ")


def test_two_lengths_of_the_same_images_are_refused():
    words = ["protocol=sdd_i2p", "protocol.twin=true", "protocol.images=1,10", "baseline=null"]
    with pytest.raises(HarnessError, match="one job asks for more of the same images than another"):
        make_cells(compose_jobs(words, multirun=True))


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Return the results of every protocol's twin, and what the run printed."""
    import contextlib
    import io

    results, said = tmp_path_factory.mktemp("twins") / "results", io.StringIO()
    words = [*TWINS, f"results={results}"]
    with contextlib.redirect_stdout(said):
        assert main(["-m", f"protocol={','.join(NAMES)}", "method=none", *words]) == 0
        assert main([f"protocol={TO_BASELINE}", "method=negative_prompt", *words]) == 0
    return results, said.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_twin_measures_every_metric_of_its_protocol(name, twins):
    results, said = twins
    assert f"protocol {name} " in said or f"protocol {name}:" in said
    (protocol,) = read_protocols(name=name)
    summaries = [json.loads(file.read_text()) for file in results.glob("runs/*/*/*/*/summary.json")]
    told = [(one, summary) for summary in summaries for one in (summary.get("protocols") or {}).values()
            if one["name"] == name]  # fmt: skip
    assert len(told) == (2 if name == TO_BASELINE else 1)
    for shown in protocol.metrics:
        assert shown.title in said
    for followed, summary in told:
        assert followed["judges"] and not followed["departures"]
        metrics = [one["metric"] for one in followed["metrics"]]
        of_base = ("feature_distance",) if summary["cell"]["method"] == "none" else ()
        assert [m for m in metrics if m not in of_base and (summary["metrics"].get(m) or {}).get("value") is None] == []
        run = next(results.glob(f"runs/*/*/*/{summary['cell']['id']}"))
        assert name in {one["name"] for one in json.loads((run / "provenance.json").read_text())["protocols"].values()}


def test_counts_of_a_twin_are_counted_again_from_its_rows(twins, capsys):
    (summary,) = (file for file in twins[0].glob("runs/*/*/*/*/summary.json") if "mace_nudity" in file.read_text())
    assert main(["verify", str(summary.parent)]) == 0 and capsys.readouterr().out
    told = json.loads(summary.read_text())
    told["metrics"]["detections"]["value"] += 1
    copy = shutil.copytree(summary.parent, twins[0].parent / summary.parent.name)
    (copy / "summary.json").write_text(json.dumps(told))
    assert main(["verify", str(copy)]) == 1 and "detections: value is" in capsys.readouterr().out


def test_rows_name_their_protocol(twins):
    results, _ = twins
    rows = list(csv.DictReader((results / "leaderboard.csv").open(newline="")))
    assert all(row["protocol"] for row in rows) and not any(row["protocol_departures"] for row in rows)
    assert "Protocol" in (results / "leaderboard.md").read_text()


def test_command_lists_describes_and_prints_tables(twins, capsys):
    assert main(["protocols"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in NAMES)
    assert main(["protocols", "sdd_body"]) == 0
    assert "bench.num_inference_steps=25" in capsys.readouterr().out
    assert main(["protocols", "sdd_body", f"results={twins[0]}"]) == 0
    said = capsys.readouterr().out
    assert "% nude (paper)" in said and "what still differs from the paper:" in said and "sdd_i2p" not in said
    assert main(["protocols", "sdd_bodi"]) == 2
    assert main(["protocols", "sdd_body", "results=/nowhere"]) == 2
    assert main(["protocols", "a", "b"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_shipped_protocols_describe_themselves():
    for protocol in read_protocols():
        said = "\n".join(described(protocol))
        assert protocol.source in said and all(key in said for key in protocol.choices)
        raw = yaml.safe_load((conf_dir() / "protocol" / f"{protocol.name}.yaml").read_text())
        assert raw["name"] == protocol.name == Path(protocol.name).name


def test_followed_is_read_back_as_told():
    followed = job("protocol=sdd_body").protocol
    assert Followed.read(json.loads(json.dumps(followed.told()))) == followed
