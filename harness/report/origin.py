"""Where a run's numbers come from, in a few lines: command, time, hardware, code, versions, weights, prompts."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cells.comparable import mapping
from harness.report import comparable
from harness.report.run import Run, judge_name

SHOWN_PACKAGES = ("torch", "diffusers", "transformers", "numpy")
DIGITS = 12  # of a hash


def command(run: Run) -> str:
    """Return the command that generated a run's images, as a shell takes it; empty if it is not known."""
    said = run.provenance.get("command")
    if isinstance(said, Sequence) and not isinstance(said, str):
        return shlex.join(map(str, said))
    return said if isinstance(said, str) else ""


def origin(run: Run) -> list[tuple[str, str]]:
    """Return what is known of where a run was made, by title; the command is not among it."""
    told = run.provenance
    git, packages = mapping(told.get("git")), mapping(told.get("packages"))
    lines = [("Generated", _generated(told)), ("Hardware", _hardware(told)), ("Code", _code(git)),
             ("Versions", _versions(packages)), ("Weights", _hash(told.get("weights_fingerprint"))),
             ("Prompts", _hash(told.get("prompt_set_hash")))]  # fmt: skip
    return [(title, text) for title, text in lines if text]


def judge(run: Run, metric: str) -> str:
    """Return the evaluator behind a metric with its version and threshold; empty if nothing tells."""
    name = judge_name(run, metric)
    judged = comparable.judging(run, name)
    version, threshold = judged.get("version"), comparable.setting_of(judged, "threshold")
    parts = [name, f"version {version}" if version is not None else None,
             f"threshold {threshold}" if threshold is not None else None]  # fmt: skip
    return ", ".join(part for part in parts if part)


def _generated(told: Mapping[str, Any]) -> str:
    created = _word(told.get("created"))[:16].replace("T", " ")
    by, on = _word(told.get("user")), _word(told.get("host"))
    return " ".join(filter(None, (created, by and f"by {by}", on and f"on {on}")))


def _hardware(told: Mapping[str, Any]) -> str:
    made, workers = told.get("made_on"), told.get("hardware")
    if isinstance(made, list) and made:
        kinds = Counter({_word(mapping(one).get("hardware")): 1 for one in made})
    elif isinstance(workers, list):
        kinds = Counter(_word(mapping(one).get("hardware") or mapping(one).get("device")) for one in workers)
    else:
        named = mapping(workers)
        kinds = Counter([_word(named.get("gpu") or named.get("cpu"))])
    return ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items() if kind)


def _code(git: Mapping[str, Any]) -> str:
    revision = _word(git.get("revision"))[:DIGITS]
    return f"{revision}, with uncommitted changes" if revision and git.get("dirty") else revision


def _versions(packages: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {packages[name]}" for name in SHOWN_PACKAGES if isinstance(packages.get(name), str))


def _hash(value: Any) -> str:
    kind, colon, digits = _word(value).rpartition(":")
    return f"{kind}{colon}{digits[:DIGITS]}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""
