"""`python -m harness.prefetch` with a run's settings: fetch what its cells need, once a node; runs then go offline."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from harness.bench import load_prompts
from harness.bench.card import find_card
from harness.bench.source import cached_prompt_file
from harness.build import build
from harness.compose import Job, compose_jobs
from harness.errors import HarnessError, MissingResourceError
from harness.families import is_plugged
from harness.files import storage_error
from harness.hub import (
    MIRRORS,
    GoneError,
    RemoteFile,
    Repository,
    check_space,
    fetch,
    look_up,
    page_of,
    remember_revision,
)
from harness.model_choice import Candidate, candidates, repositories, settled
from harness.model_files import UNUSED_PARTS, hub_cache, is_folder_source, model_folder
from harness.models import missing
from harness.progress import size

Config = Mapping[str, Any]

INDEX = "model_index.json"
SMALL = (".json", ".txt", ".model")
STEMS = ("diffusion_pytorch_model", "model")
HELP = """\
Fetch what a run needs, before it: model files of its variant, safetensors only, and benchmark files.

usage: python -m harness.prefetch [-m] [--config-dir DIR] [name=value ...]      the words of python -m harness

  python -m harness.prefetch -m model=sd14,sdxl bench=i2p
"""


@dataclass(frozen=True)
class Need:
    """What is to be fetched of one repository for one model or bench."""

    label: str
    repository: Repository
    files: tuple[RemoteFile, ...]

    @property
    def missing_bytes(self) -> int:
        return sum(file.bytes for file in self.repository.absent(self.files))

    def __str__(self) -> str:
        total, repository = sum(file.bytes for file in self.files), self.repository
        return (f"{self.label}: {repository.id} at {repository.commit[:12]}, {size(total)} in {len(self.files)} files, "
                f"{size(self.missing_bytes)} to download")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 all is here, 2 a mistake or something that could not be had."""
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    from harness.__main__ import parse_arguments

    try:
        arguments = parse_arguments(words)
        prefetch(compose_jobs(arguments.overrides, arguments.multirun, arguments.config_dirs))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def prefetch(jobs: Sequence[Job]) -> None:
    """Fetch the models and prompts of the jobs: sizes first, then files, each verified. Raises HarnessError."""
    with _one_at_a_time():
        models = {json.dumps(dict(job.model), sort_keys=True, default=str): job.model for job in jobs}
        parts = [part for model in models.values() for part in repositories(model)]
        needs = [need for part in parts if (need := model_need(part))]
        benches = {str(job.bench["name"]): job.bench for job in jobs}
        needs += [need for bench in benches.values() if (need := bench_need(bench))]
        for need in needs:
            print(need)
        check_space(sum(need.missing_bytes for need in needs))
        for need in needs:
            _fetch(need)
        for model in models.values():
            _check_whole(model)
    for note in dict.fromkeys(note for job in jobs for note in _notes(job)):
        print(f"note: {note}")
    print("Models and prompts are here and whole. Runs need no network: set HF_HUB_OFFLINE=1.")


def _notes(job: Job) -> Iterator[str]:
    """Yield what a run would say of its prompt file, and the weights of methods and evaluators that are not here."""
    prompts = load_prompts(job.bench, offline=True)
    if prompts and prompts.file_note:
        yield prompts.file_note
    for config in (*job.methods, *job.evaluators):
        problem = build(config).missing()
        if problem:
            yield f"not fetched by this command: {problem}"


def fetch_asked(jobs: Sequence[Job]) -> None:
    """Fetch the missing weights of models that say `download: true`, in the driver and before any worker starts."""
    asked = [job for job in jobs if job.model.get("download") and missing({**job.model, "download": False})]
    if asked:
        prefetch(asked)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold the node's lock: a second command waits, and then finds everything here."""
    from filelock import FileLock, Timeout

    folder = hub_cache() / ".locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "harness-prefetch.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print("another prefetch is at work on this node; waiting for it")
            lock.acquire()
    except OSError as error:
        raise storage_error(error, folder) or error from error
    try:
        yield
    finally:
        lock.release()


def model_need(model: Config) -> Need | None:
    """Return what a model needs of the hub; None for a folder, and for weights that are here.

    Fallbacks are tried in order where a repository is gone. Raises MissingResourceError in one line.
    """
    model = settled(model)
    if is_plugged(model):
        _check_whole(model)
        return None
    if is_folder_source(str(model["source"])):
        _check_whole(model)
        return None
    if model_folder(model) is not None and missing({**model, "download": False}) is None:
        print(f"{model['name']}: {model['source']} at {str(model.get('revision'))[:12]} is here and whole")
        return None
    repository = _first_there(model)
    return Need(str(model["name"]), repository, model_files(repository, model.get("variant"), str(model["name"])))


def _first_there(model: Config) -> Repository:
    tried: list[Candidate] = candidates(model)
    for candidate in tried:
        try:
            return look_up(candidate.source, candidate.revision)
        except GoneError:
            if candidate == tried[-1] and len(tried) == 1:
                raise
    names = ", ".join(candidate.source for candidate in tried)
    mirror = next((MIRRORS[c.source] for c in tried if c.source in MIRRORS and MIRRORS[c.source] not in names), None)
    raise MissingResourceError(f"none of {names} exists any more, or not for this token.",
                               f"A mirror is {mirror}: say model.source={mirror}." if mirror else
                               "Set model.source to a folder that has the weights.")


def model_files(repository: Repository, variant: str | None, name: str) -> tuple[RemoteFile, ...]:
    """Return the files that loading a pipeline reads: its index, small files of each part, weights of the variant.

    Fetches the index alone, which also shows whether the token may. Raises MissingResourceError where a part has no
    safetensors weights, or where no part has the variant.
    """
    by_name = {file.name: file for file in repository.files}
    page = page_of(repository.id)
    if INDEX not in by_name:
        raise MissingResourceError(f"{page} is no pipeline in diffusers format: it has no {INDEX}.",
                                   "Set model.source to one that is.")
    parts = _parts(json.loads(fetch(repository, by_name[INDEX]).read_text(encoding="utf-8")))
    found = [by_name[INDEX]]
    varied = False
    for part in parts:
        inside = [file for file in repository.files if file.name.rpartition("/")[0] == part]
        weights, own = _weights(inside, variant)
        if not weights and any(file.name.endswith((".bin", ".safetensors", ".ckpt")) for file in inside):
            kind = f" of variant {variant}, nor plain ones" if variant else ""
            raise MissingResourceError(f"{page} has no safetensors weights{kind} in {part}/.",
                                       "Pickled weights are not loaded; choose another revision or model.source.")
        varied = varied or own
        indexes = "*.safetensors.index*.json"
        found += [file for file in inside if file.name.endswith(SMALL) and not fnmatch(file.name, indexes)]
        found += weights
    if variant and not varied:
        raise MissingResourceError(f"{page} has no {variant} weights, which model {name} asks for.",
                                   f"Say model.variant=null: {size(_plain_bytes(repository, parts))} to download.")
    return tuple(found)


def _plain_bytes(repository: Repository, parts: Sequence[str]) -> int:
    inside = [[file for file in repository.files if file.name.rpartition("/")[0] == part] for part in parts]
    return sum(file.bytes for files in inside for file in _weights(files, None)[0])


def _parts(index: Any) -> list[str]:
    entries = index.items() if isinstance(index, dict) else ()
    return sorted(part for part, entry in entries
                  if part not in UNUSED_PARTS and isinstance(entry, list) and entry[0] is not None)


def _weights(inside: Sequence[RemoteFile], variant: str | None) -> tuple[list[RemoteFile], bool]:
    """Return one part's weights, sharded ones with their index: of the variant, else plain, as diffusers chooses."""
    for suffix in ([f".{variant}"] if variant else []) + [""]:
        for stem in STEMS:
            index, shard = f"{stem}.safetensors.index{suffix}.json", f"{stem}{suffix}-*-of-*.safetensors"
            short = {file.name.rpartition("/")[2]: file for file in inside}
            if index in short:
                return [short[index], *(f for name, f in short.items() if fnmatch(name, shard))], bool(suffix)
            if f"{stem}{suffix}.safetensors" in short:
                return [short[f"{stem}{suffix}.safetensors"]], bool(suffix)
    return [], False


def bench_need(bench: Config) -> Need | None:
    """Return the hub's file of a bench; None where its prompts are shipped or given as a file."""
    card = find_card(str(bench.get("card") or bench["name"]))
    if card.hub is None or cached_prompt_file(card, bench.get("file")) is not None:
        return None
    repository = look_up(card.hub.repo, card.hub.revision, "dataset")
    files = tuple(file for file in repository.files if file.name == card.hub.file)
    if not files:
        raise MissingResourceError(f"{card.hub.file} is not in {page_of(card.hub.repo, 'dataset')}.",
                                   "Give bench.file=<a local copy>.")
    return Need(str(bench["name"]), repository, files)


def _fetch(need: Need) -> None:
    for file in need.files:
        fetch(need.repository, file)
    remember_revision(need.repository)


def _check_whole(model: Config) -> None:
    problem = missing({**model, "download": False})
    if problem:
        raise MissingResourceError(problem)


if __name__ == "__main__":
    sys.exit(main())
