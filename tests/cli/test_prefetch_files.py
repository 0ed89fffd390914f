"""Prefetch beside models: prompts, weights of evaluators and checkpoints of methods, whole, or one line, exit 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import save

from harness.__main__ import main as run
from harness.bench import load_prompts
from harness.cells.fetching import prefetch
from harness.cells.job import Job
from harness.errors import HarnessError
from harness.lib import hub as hub_module
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from tests.support.bench_common import preset, read_yaml
from tests.support.fake_hub import COMMIT, FakeRepository, sha256
from tests.support.hub_jobs import job
from tests.support.stub_pipeline import write_stub

LOCAL = {"name": "micro", "source": "pkg://harness.micro/weights/pipeline", "size": 64}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_benchs_file_is_fetched_once(hub, tmp_path):
    hub.repositories["datasets/AIML-TUDA/i2p"] = FakeRepository(
        {"i2p_benchmark.csv": b"prompt,case_number\na house,1\n", "README.md": b"never fetched"})
    local = str(write_stub(tmp_path / "local"))
    prefetch([job(bench="i2p", source=local)])
    prefetch([job(bench="i2p", source=local)])
    assert hub.downloads == ["AIML-TUDA/i2p/i2p_benchmark.csv"]


def bench_job(bench: str, **changes) -> Job:
    """Return a job on weights that are here: what is fetched is the bench's."""
    return Job({}, LOCAL, (), preset(bench) | changes, (), None)


def evaluator_job(name: str, **changes) -> Job:
    return Job({}, LOCAL, (), {"name": "micro_i2p"}, (read_yaml(conf_dir() / "evaluator" / f"{name}.yaml") | changes,),
               None)  # fmt: skip


def fault(job: Job) -> str:
    with pytest.raises(HarnessError) as error:
        prefetch([job])
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


MMA = b"adv_prompt,target_prompt,clean_prompt\nzq house,an adult in a room,a house\n"
MMA_HUB = "datasets/YijunYang280/MMA-Diffusion-NSFW-adv-prompts-benchmark"


def test_a_prompt_file_that_no_card_could_name_is_fetched_and_then_found_without_network(hub, monkeypatch):
    hub.repositories[MMA_HUB] = FakeRepository({"data/prompts.csv": MMA, "README.md": b"never fetched"})
    assert load_prompts(preset("mma"), offline=True) is None
    prefetch([bench_job("mma")])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert load_prompts(preset("mma"), offline=True).n_total == 1
    prefetch([bench_job("mma"), bench_job("mma_clean")])
    assert [name.rpartition("/")[2] for name in hub.downloads] == ["prompts.csv"]


def test_a_run_fetches_its_prompts_as_prefetch_does_and_records_the_commit(hub):
    hub.repositories[MMA_HUB] = FakeRepository({"data/prompts.csv": MMA})
    prompts = load_prompts(preset("mma"))
    assert prompts.source == f"YijunYang280/MMA-Diffusion-NSFW-adv-prompts-benchmark@{COMMIT}/data/prompts.csv"
    assert prompts.file_sha256[:12] in prompts.file_note and "has no hash" in prompts.file_note
    hub.repositories[MMA_HUB].commit = "f" * 40
    assert load_prompts(preset("mma")).source == prompts.source and len(hub.downloads) == 1


def test_a_run_whose_prompts_cannot_be_had_stops_in_one_line(hub, tmp_path, capsys):
    hub.repositories[MMA_HUB] = FakeRepository({"prompts.csv": MMA}, gated=True)
    words = ["model=micro", "method=none", "bench=mma", "tracker=disabled", f"results={tmp_path / 'out'}"]
    assert run(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the prompts of mma are missing: ") and error.count("\n") == 1
    assert "no token is set" in error and "Open https://huggingface.co/datasets/YijunYang280" in error
    assert not (tmp_path / "out").exists()


def test_prompts_that_are_gated_gone_several_or_without_network_are_one_line(hub, monkeypatch):
    page = "https://huggingface.co/datasets/YijunYang280/MMA-Diffusion-NSFW-adv-prompts-benchmark"
    assert "does not exist, was deleted" in fault(bench_job("mma"))
    hub.repositories[MMA_HUB] = FakeRepository({"a.csv": MMA, "b.csv": MMA})
    assert "has 2 files *.csv: a.csv, b.csv" in fault(bench_job("mma"))
    hub.repositories[MMA_HUB] = FakeRepository({"README.md": b""})
    assert "no *.csv in" in fault(bench_job("mma"))
    hub.repositories[MMA_HUB] = FakeRepository({"a.csv": MMA}, gated=True)
    said = fault(bench_job("mma"))
    assert "no token is set" in said and f"Open {page}" in said
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert "terms have not been accepted" in fault(bench_job("mma"))
    hub.repositories[MMA_HUB].accepted, hub.repositories[MMA_HUB].breaks = ("hf_mine",), {"a.csv": 100}
    assert "broke off" in fault(bench_job("mma"))
    assert load_prompts(preset("mma"), offline=True) is None, "nothing half-written is taken for the file"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "cannot be reached" in fault(bench_job("mma"))


CARD = """
name: yard
description: one harmless prompt
source: this test
licence: CC0
rows: 1
sha256: {sha256}
download: {{file: yard.csv, url: "{url}/files/yard.csv"}}
columns: {{prompt: [text]}}
"""
YARD = b"text\na house\n"


@pytest.fixture
def yard(hub, tmp_path, monkeypatch):
    """Return the job of a bench whose file is at an address, and the folder where it is kept."""
    monkeypatch.setattr("harness.bench.source.DOWNLOADS", tmp_path / "prompts")
    hub.files["yard.csv"] = YARD
    (tmp_path / "yard.yaml").write_text(CARD.format(sha256=sha256(YARD), url=hub.url))
    return bench_job("csv", name="yard", card=str(tmp_path / "yard.yaml")), tmp_path / "prompts"


def test_a_prompt_file_at_an_address_is_fetched_once_and_compared(hub, yard):
    job, folder = yard
    prefetch([job])
    prefetch([job])
    assert hub.downloads == ["yard.csv"] and (folder / "yard.csv").read_bytes() == YARD
    assert load_prompts(job.bench, offline=True).rows[0].prompt == "a house"


def test_an_address_that_is_gone_changed_or_broken_off_leaves_nothing(hub, yard, monkeypatch):
    job, folder = yard
    hub.files["yard.csv"] = YARD + b"more\n"
    said = fault(job)
    assert "changed upstream" in said and sha256(YARD)[:12] in said
    hub.files["yard.csv"], hub.breaks = YARD, {"yard.csv": 1}
    assert "broke off" in fault(job)
    del hub.files["yard.csv"]
    assert "does not exist any more" in fault(job)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids" in fault(job)
    assert not list(folder.glob("*")) and not list(folder.glob(".*"))


def test_the_disk_of_each_place_is_looked_at(hub, yard, monkeypatch):
    job, folder = yard
    monkeypatch.setattr(hub_module, "free_space", lambda place: 3 if place == folder else 10**12)
    said = fault(job)
    assert str(folder) in said and "to download into" in said and hub.downloads == []


def clip_repository(clip_folder: str) -> FakeRepository:
    wanted = {name: Path(clip_folder, name).read_bytes() for name in ("config.json", "model.safetensors")}
    wanted |= {"vocab.json": b'{"a": 0}', "merges.txt": b"#"}
    return FakeRepository(wanted | dict.fromkeys(("pytorch_model.bin", "tf_model.h5", "README.md"), b"never fetched"))


def test_weights_of_evaluators_are_fetched_once_for_all_who_read_them(hub, tmp_path, clip_folder, capsys):
    hub.repositories["models/openai/clip"] = clip_repository(clip_folder)
    hub.files["prompts.p"] = b"two embeddings"
    clip = {"source": "openai/clip", "revision": COMMIT}
    q16 = {"prompts": str(tmp_path / "q16.p"), "prompts_sha256": sha256(b"two embeddings"),
           "url": f"{hub.url}/files/prompts.p"}  # fmt: skip
    jobs = [evaluator_job("clip_score", **clip), evaluator_job("q16", **clip, **q16)]
    prefetch(jobs)
    fetched = sorted(name.rpartition("/")[2] for name in hub.downloads)
    assert fetched == ["config.json", "merges.txt", "model.safetensors", "prompts.p", "vocab.json"]
    assert "clip_score, q16: openai/clip at" in capsys.readouterr().out
    assert all(build(job.evaluators[0]).missing() is None for job in jobs)
    prefetch(jobs)
    assert len(hub.downloads) == 5


def test_lpips_and_inception_are_fetched_and_a_damaged_trunk_is_not_kept(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("harness.evaluators.lpips.URL", f"{hub.url}/files/")
    monkeypatch.setattr("harness.evaluators.inception.URL", f"{hub.url}/files/inception.pt")
    hub.files = {"inception.pt": b"features", "alexnet-owt-7be5be79.pth": b"not AlexNet"}
    fid = evaluator_job("fid")
    fid.evaluators[0]["extractor"] |= {"folder": str(tmp_path / "inception"), "sha256": sha256(b"features")}
    prefetch([fid])
    assert build(fid.evaluators[0]).missing() is None
    assert "is not the expected file" in fault(evaluator_job("lpips"))
    assert not list((tmp_path / "torch").rglob("*.*"))


def test_the_checkpoint_of_a_method_is_fetched_of_the_hub(hub):
    hub.repositories["models/OPTML-Group/AdvUnlearn"] = FakeRepository({
        "nudity_unlearned/config.json": b"{ }", "nudity_unlearned/pytorch_model.bin": b"never fetched",
        "nudity_unlearned/model.safetensors": save({}), "style_unlearned/model.safetensors": b"never fetched"})
    method = read_yaml(conf_dir() / "method" / "advunlearn.yaml")
    prefetch([Job({}, LOCAL, (method,), {"name": "micro_i2p"}, (), None)])
    assert sorted(name.split("/", 2)[2] for name in hub.downloads) == [
        "nudity_unlearned/config.json", "nudity_unlearned/model.safetensors"]  # fmt: skip
    assert build(method).missing() is None


def test_what_cannot_be_fetched_is_said_and_all_is_not_claimed(hub, capsys):
    method = read_yaml(conf_dir() / "method" / "mace.yaml")
    prefetch([Job({}, LOCAL, (method,), {"name": "micro_i2p"}, (), None)])
    said = capsys.readouterr().out
    assert "note: not downloaded by this command: method mace needs method.checkpoint" in said
    assert "Everything that can be downloaded is on this machine" in said
