"""A local Ray, or an existing cluster: starting, joining, and its capacity."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import ray

from harness.errors import HarnessError, IncompatibleError, MissingResourceError, StorageError
from harness.pool.reaper import reap
from harness.sampling.batches import describe

log = logging.getLogger(__name__)

# Handed to the actors as an argument: a runtime_env would show tokens in Ray's own log files.
TRAVELLING = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT",
    "TRANSFORMERS_OFFLINE", "TORCH_HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip

START_TRIES = 3
ANY_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
MARK = "HARNESS_RAY"
TITLE_KEEPS = "SPT_NOENV"  # setproctitle, by which Ray names its processes, else writes over their environment
TOKEN_HINT = ("Set the same token on every node and for this command: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the "
              "file ~/.ray/auth_token (`ray get-auth-token --generate` makes one).")


_local: list[LocalRay] = []


@dataclass
class LocalRay:
    """The processes of a Ray that this one started: they end with it, however it ends."""

    mark: str
    reaper: subprocess.Popen[bytes]

    @classmethod
    def prepare(cls) -> LocalRay | None:
        """Start the watcher; None if the system does not say what processes there are."""
        if not Path("/proc/self/environ").exists():
            return None
        mark = f"{MARK}={uuid.uuid4().hex}"
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py")), mark]
        environment = {"PATH": os.environ.get("PATH", "")}
        quiet = subprocess.DEVNULL
        return cls(mark, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environment,
                                          start_new_session=True))  # fmt: skip

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Let what is started here bear the mark."""
        name, _, value = self.mark.partition("=")
        before = os.environ.get(TITLE_KEEPS)
        os.environ.update({name: value, TITLE_KEEPS: "1"})
        try:
            yield
        finally:
            os.environ.pop(name)
            os.environ.pop(TITLE_KEEPS)
            if before is not None:
                os.environ[TITLE_KEEPS] = before

    def end(self) -> None:
        """End what is left of it."""
        if self.reaper.stdin is not None:
            self.reaper.stdin.close()
        self.reaper.wait()


def start_local(cpus: int, object_store_mb: int, log_to_driver: bool = False) -> None:
    """Start a quiet Ray of our own. Raises HarnessError when the machine is too busy for it."""
    local = LocalRay.prepare()
    if local is not None:
        _local.append(local)
    with local.marking() if local else nullcontext(), _signals_kept():
        for _ in range(START_TRIES):
            try:
                ray.init(
                    address="local", num_cpus=cpus, object_store_memory=object_store_mb * 2**20,
                    include_dashboard=False, logging_level=logging.ERROR, log_to_driver=log_to_driver,
                )  # fmt: skip
                return
            except Exception as error:  # a bare Exception is what Ray raises here
                if "timed out during startup" not in str(error):
                    raise
                log.warning("Ray did not start within 30 s, trying again")
                if local is not None:
                    reap(local.mark.encode())  # what this try started would hold up the next one
    raise HarnessError("Ray could not be started: this machine is too busy.", "Use pool=inline, or try again later.")


def end(is_lost: bool = False) -> None:
    """Leave the cluster, and end a Ray of our own. One that is lost is not spoken to: Ray would wait for it."""
    if not is_lost:
        ray.shutdown()
    while _local:
        _local.pop().end()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the handlers of signals: Ray sets one for SIGTERM that ends the process with SystemExit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def join(address: str, log_to_driver: bool) -> None:
    """Join a cluster. Raises MissingResourceError with the reason."""
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal() and "/" not in host:
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        with _signals_kept():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=log_to_driver)
    except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        if isinstance(error, ray.exceptions.AuthenticationError) or asks_for_token(address):
            text = f"the Ray cluster at {address} requires a token, which is missing or wrong."
            raise MissingResourceError(text, TOKEN_HINT) from error
        hint = "Start one with `ray start --head`, and use `ray start --address=HOST:PORT` on other nodes."
        text = f"cannot connect to a Ray cluster at {address}: {describe(error)[:200]}."
        raise MissingResourceError(text, hint) from error


def asks_for_token(address: str) -> bool:
    """Return whether a head refuses callers without a token: Ray itself only says that it could not connect."""
    try:
        import grpc
    except ImportError:
        return False
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(ANY_CALL)(b"", timeout=5)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def places() -> list[tuple[str, str, int]]:
    """Return what this process cannot do without: name, host and port of the cluster's head and of our own node."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["NodeID"] == here]
    return [("the head (GCS)", host, int(port)),
            *(("this node's raylet", str(node["NodeManagerAddress"]), int(node["NodeManagerPort"])) for node in nodes)]


def alive_nodes() -> set[str]:
    return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


def travelling() -> dict[str, str]:
    """Return the variables that workers on other nodes need."""
    return {key: os.environ[key] for key in TRAVELLING if key in os.environ}


def not_placed(request: Mapping[str, float], waited: str) -> str:
    """Say what a worker asks for and what there is."""
    asked = ", ".join(f"{value:g} {name[4:].upper()[:-1]}" for name, value in request.items() if value)
    return f"no worker could be placed in {waited}: one needs {asked}; {capacities()}."


def capacities() -> str:
    def text(resources: Mapping[str, float]) -> str:
        return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"

    return f"the cluster has {text(ray.cluster_resources())}, of which {text(ray.available_resources())} are free"


def check_versions(host: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Raise IncompatibleError if a worker does not run what the driver runs."""
    differing = [f"{name} {theirs.get(name)} (here {version})" for name, version in ours.items()
                 if theirs.get(name) != version]  # fmt: skip
    if differing:
        hint = "Install the same versions on every node, and do not change the package during a run."
        raise IncompatibleError(f"the worker on {host} has {', '.join(differing)}.", hint)


def check_shared(probe: Path, host: str) -> None:
    """Raise StorageError unless the file that a worker wrote is seen here."""
    try:
        if probe.read_text() == probe.name.removeprefix(".probe-"):
            probe.unlink(missing_ok=True)
            return
    except FileNotFoundError:
        pass
    raise StorageError(f"files that a worker on {host} writes to {probe.parent} are not visible here.",
                       "Set results=FOLDER to a folder on storage shared by all nodes.")  # fmt: skip
