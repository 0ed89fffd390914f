"""What the cells of some jobs need, fetched: sizes first, then files, each verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from harness.bench import PROMPT_KEYS, load_prompts
from harness.bench.card import find_card
from harness.bench.source import cached_prompt_file, downloaded_file, hub_files
from harness.cells.job import Job
from harness.evaluator import Evaluator
from harness.lib.atomic import storage_error
from harness.lib.download_plan import Need, UrlNeed
from harness.lib.downloads import chosen_files, size_of
from harness.lib.hashing import canonical_json
from harness.lib.hub import check_space, look_up
from harness.lib.hub_cache import hub_cache
from harness.lib.targets import build
from harness.lib.wanted import Download, UrlFile
from harness.method import Method
from harness.models.choice import settled
from harness.models.downloads import check_whole, model_needs
from harness.models.weights import missing

Config = Mapping[str, Any]
Say = Callable[[str], object]

NOT_FETCHED = "not downloaded by this command"


def prefetch(jobs: Sequence[Job], say: Say = print) -> None:
    """Fetch what the jobs need: sizes first, then files, each verified. Raises HarnessError."""
    with _one_at_a_time(say):
        models = {canonical_json(dict(job.model), other=str): job.model for job in jobs}
        needs = list(_needs(jobs, list(models.values()), say))
        for need in needs:
            say(str(need))
        for place in dict.fromkeys(need.place for need in needs):
            check_space(sum(need.missing_bytes for need in needs if need.place == place), place)
        for need in needs:
            need.fetch()
        for model in models.values():
            check_whole(model)
    notes = list(dict.fromkeys(note for job in jobs for note in _notes(job)))
    for note in notes:
        say(f"note: {note}")
    done = "Everything that can be downloaded" if any(map(_is_absent, notes)) else "Everything needed"
    say(f"{done} is on this machine and verified. Runs need no network: set HF_HUB_OFFLINE=1.")


def _needs(jobs: Sequence[Job], models: Sequence[Config], say: Say) -> Iterator[Need | UrlNeed]:
    """Yield each need once: of models, benches, methods and evaluators that are incomplete here."""
    for model in models:
        needed = model_needs(model)
        if not needed:
            say(f"{model['name']}: {settled(model)['source']} is complete on this machine")
        yield from needed
    benches = {json.dumps([job.bench.get(key) for key in PROMPT_KEYS], default=str): job.bench for job in jobs}
    parts = {canonical_json(dict(one), other=str): one
             for job in jobs for one in (*job.methods, *job.evaluators)}
    wanted: list[tuple[str, Download]] = []
    for bench in benches.values():
        wanted += [(str(bench["name"]), one) for one in bench_downloads(bench)]
    for config in parts.values():
        made = build(config)
        if isinstance(made, (Method, Evaluator)) and made.missing():
            wanted += [(str(config["name"]), one) for one in made.downloads()]
    by_download: dict[Download, str] = {}
    for label, one in wanted:
        by_download[one] = ", ".join(dict.fromkeys([*filter(None, [by_download.get(one)]), label]))
    for one, label in by_download.items():
        yield _need(label, one)


def _need(label: str, wanted: Download) -> Need | UrlNeed:
    if isinstance(wanted, UrlFile):
        return UrlNeed(label, wanted, size_of(wanted))
    repository = look_up(wanted.repo, wanted.revision, wanted.kind)
    return Need(label, repository, chosen_files(wanted, repository))


def bench_downloads(bench: Config) -> list[Download]:
    """Return the prompt file of a bench; none where its prompts are shipped, made from templates, given or here."""
    card = find_card(str(bench.get("card") or bench["name"]), bench.get("variant"))
    if card.generate or cached_prompt_file(card, bench.get("file")) is not None:
        return []
    if card.download:
        return [UrlFile(card.download.url, downloaded_file(card.download), card.sha256)]
    return [hub_files(card.hub)] if card.hub else []


def _notes(job: Job) -> Iterator[str]:
    """Yield what a run would say of its prompt file, and what this command could not fetch."""
    prompts = load_prompts(job.bench, offline=True)
    if prompts and prompts.file_note:
        yield prompts.file_note
    for config in (*job.methods, *job.evaluators, job.bench.get("reference")):
        problem = build(config).missing() if config and hasattr(build(config), "missing") else None
        if problem:
            yield f"{NOT_FETCHED}: {problem}"


def _is_absent(note: str) -> bool:
    return note.startswith(NOT_FETCHED)


def fetch_asked(jobs: Sequence[Job]) -> None:
    """Fetch the missing weights of models that say `download: true`, in the driver and before any worker starts."""
    asked = [job for job in jobs if job.model.get("download") and missing({**job.model, "download": False})]
    if asked:
        prefetch([replace(job, methods=(), evaluators=()) for job in asked])


@contextmanager
def _one_at_a_time(say: Say) -> Iterator[None]:
    """Hold the node's lock: a second command waits, and then finds everything here."""
    from filelock import FileLock, Timeout

    folder = hub_cache() / ".locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "harness-prefetch.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another prefetch is running on this node; waiting for it")
            lock.acquire()
    except OSError as error:
        raise storage_error(error, folder) or error from error
    try:
        yield
    finally:
        lock.release()
