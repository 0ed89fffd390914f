"""What a pool is where nobody says more: its kind, its workers, their threads."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.lib.machine import process_threads, visible_cores
from harness.pool.settings import PoolSettings


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, "inline"),
        ({"workers": 2}, "ray"),
        ({"workers": 1}, "inline"),
        ({"address": "host:6379"}, "ray"),
        ({"name": "inline", "workers": 2}, "inline"),
    ],
)
def test_auto_is_inline_for_one_device(
    config: dict[str, object], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert PoolSettings.from_config(config).kind == kind


def test_auto_is_ray_for_several_gpus_or_a_cluster_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    settings = PoolSettings.from_config({})
    assert (settings.kind, settings.ray_workers) == ("ray", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert PoolSettings.from_config({}).kind == "ray"


def test_threads_nobody_chose_are_those_of_the_environment_else_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert PoolSettings(name="inline").worker_threads == process_threads() == 3
    assert PoolSettings(name="inline", threads=5).worker_threads == 5
    for text in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert PoolSettings(name="inline").worker_threads == process_threads() == visible_cores()


@pytest.mark.parametrize("config", [{"worker": 2}, {"workers": 0}, {"device": "gpu"}, {"name": "dask"}])
def test_bad_settings_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(HarnessError):
        PoolSettings.from_config(config)
