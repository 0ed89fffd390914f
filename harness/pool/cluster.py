"""A Ray of our own, or a cluster that is there: starting, joining, and what it has room for."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path

import ray

from harness.batches import describe
from harness.errors import HarnessError, MissingResourceError, StorageError

log = logging.getLogger(__name__)

START_TRIES = 3


def start_local(cpus: int, object_store_mb: int, log_to_driver: bool = False) -> None:
    """Start a quiet Ray of our own. Raises HarnessError when the machine is too busy for it."""
    for _ in range(START_TRIES):
        try:
            ray.init(
                address="local", num_cpus=cpus, object_store_memory=object_store_mb * 2**20, include_dashboard=False,
                logging_level=logging.ERROR, log_to_driver=log_to_driver,
            )  # fmt: skip
            return
        except Exception as error:  # a bare Exception is what Ray raises here
            if "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within its 30 s, trying again")
    raise HarnessError("Ray could not be started: this machine is too busy.", "Try pool=inline, or again later.")


def join(address: str, log_to_driver: bool) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal() and "/" not in host:
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=log_to_driver)
    except (OSError, RuntimeError, ValueError) as error:
        hint = "Start one with `ray start --head`, and `ray start --address=HOST:PORT` on further nodes."
        text = f"no Ray cluster can be joined at {address}: {describe(error)[:200]}."
        raise MissingResourceError(text, hint) from error


def capacities() -> str:
    def text(resources: Mapping[str, float]) -> str:
        return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"

    return f"the cluster has {text(ray.cluster_resources())}, of which {text(ray.available_resources())} are free"


def check_shared(probe: Path, host: str) -> None:
    """Raise StorageError unless the file that a worker wrote is seen here."""
    try:
        if probe.read_text() == probe.name.removeprefix(".probe-"):
            probe.unlink(missing_ok=True)
            return
    except FileNotFoundError:
        pass
    raise StorageError(f"what a worker on {host} writes to {probe.parent} is not seen here.",
                       "Choose a folder on storage shared by all nodes with results=FOLDER.")  # fmt: skip
