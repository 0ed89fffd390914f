"""protocol=<name>: the words that it stands for, and the settings by which a job departs from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from harness.cells.followed import Followed
from harness.cells.job import Job
from harness.cells.protocol import STRICT, TWIN, Protocol
from harness.cli.evaluator_configs import Config, check_choice
from harness.cli.hydra_configs import Configs, unresolved
from harness.cli.sweeps import parse
from harness.errors import InvalidValueError

PROTOCOL = "protocol"
NEUTRAL = ("method=none", "baseline=null")  # what a protocol's own settings are composed with
# Where something is, how it is named there, and who heads the table: none of it makes another protocol.
FREE = ("bench.file", "bench.columns", "bench.primary", "bench.evaluators", "bench.reference", "bench.images")
FREE_OF_EVALUATORS = ("reference", "model", "folder", "prompts", "url", "how_to_get", "threads", "extractor")
SAMPLING = ("scheduler", "scheduler_config", "stage", "stages", "prediction_type")  # of a model
FROM_MODEL = ("num_inference_steps", "guidance_scale", "size")  # of a bench that leaves them to the model


@dataclass(frozen=True)
class Asked:
    """A protocol as a job's words ask for it. `overrides` are the words with what it sets among them."""

    protocol: Protocol
    chosen: Mapping[str, str]
    strict: bool
    twin: bool
    model: str
    fixed: Mapping[str, Any]
    overrides: tuple[Override, ...]
    alone: tuple[Override, ...]  # what it sets, without the user's words

    def followed(self, job: Job, alone: Job) -> Followed:
        """Return what the job follows. Raises InvalidValueError where it departs and the protocol is strict."""
        followed = Followed.of(self.protocol, self.chosen, self.twin, self.strict)
        return followed.departing(*self._departures(job, alone))

    def _departures(self, job: Job, alone: Job) -> list[str]:
        known = self.protocol.known_models(self.twin)
        if str(job.model["name"]) not in known:
            return [f"model={job.model['name']}, not {' or '.join(known)}"]
        if job.bench["name"] != alone.bench["name"]:
            return [f"bench={job.bench['name']}, not {alone.bench['name']}"]
        free = (*FREE, *self.protocol.free)
        ours, theirs = (_fixed(one, self.fixed, free) for one in (job, alone))
        told = [_told(key, ours.get(key), theirs.get(key)) for key in dict.fromkeys([*theirs, *ours])
                if ours.get(key) != theirs.get(key)]
        return [*told, *_of_evaluators(job, alone)]


class Protocols:
    """The protocols that words name; each config is read once."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs
        self._known: dict[str, Protocol] = {}

    def read(self, name: str) -> Protocol:
        """Return a protocol by name. Raises HarnessError."""
        if name not in self._known:
            check_choice(PROTOCOL, name)
            self.configs.check(PROTOCOL, name)
            self._known[name] = Protocol.from_config(unresolved(self.configs.node(PROTOCOL, name)))
        return self._known[name]

    def asked(self, overrides: Sequence[Override], default: str | None = None) -> Asked | None:
        """Return the protocol that words name, or `default`, which a config does; None if there is none."""
        values = {o.key_or_group: o.value() for o in overrides if o.key_or_group == PROTOCOL or _of_protocol(o)}
        name = values.pop(PROTOCOL, default)
        if name is None:
            if values:
                raise InvalidValueError(f"{next(iter(values))}: no protocol is chosen.", f"{PROTOCOL}=<name>")
            return None
        protocol = self.read(str(name))
        given = {key.partition(".")[2]: value for key, value in values.items()}
        strict, twin = (_flag(key, given.pop(key, default)) for key, default in ((STRICT, True), (TWIN, False)))
        chosen = protocol.chosen({key: str(value) for key, value in given.items()})
        words = without_protocol(overrides)
        models = protocol.known_models(twin)
        model = next((str(o.value()) for o in reversed(words) if o.key_or_group == "model"), next(iter(models)))
        fixed = protocol.fixed(chosen, model, twin)
        own = [self._word("model", model), *(self._word(key, value) for key, value in fixed.items())]
        keys = {override.key_or_group for override in words}
        return Asked(protocol, chosen, strict, twin, model, fixed,
                     (*(one for one in own if one.key_or_group not in keys), *words),
                     (*own, *(parse(word, self.configs.loader) for word in NEUTRAL)))  # fmt: skip

    def _word(self, key: str, value: Any) -> Override:
        return parse(f"{key}={written(value)}", self.configs.loader)


def without_protocol(overrides: Sequence[Override]) -> list[Override]:
    """Return the words that are no protocol's."""
    return [o for o in overrides if o.key_or_group != PROTOCOL and not _of_protocol(o)]


def written(value: Any) -> str:
    """Write a value as the command line does."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{written(one)}' for key, one in value.items())}}}"
    text = str(value)
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w./-]*", text):
        return text
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"


def _of_protocol(override: Override) -> bool:
    return override.key_or_group.startswith(f"{PROTOCOL}.")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidValueError(f"{PROTOCOL}.{name}={value}: true or false is needed.")
    return value


def _fixed(job: Job, fixed: Mapping[str, Any], free: Sequence[str]) -> Config:
    """Return the values of a job that its protocol fixes, by their names with dots."""
    values: Config = {"limit": job.settings.get("limit"),
                      "repeats": job.settings.get("repeats") or job.bench.get("repeats")}
    for key, value in job.bench.items():
        whose = job.model if value is None and key in FROM_MODEL else job.bench
        values[f"bench.{key}"] = whose.get(key)
    values |= {f"model.{key}": job.model.get(key) for key in SAMPLING}
    config = {**job.settings, "model": job.model, "bench": job.bench}
    for key in fixed:
        if key not in ("bench", "evaluators", "repeats") and not key.startswith("evaluator."):
            values.setdefault(key, _value(config, key))
    return {key: value for key, value in values.items()
            if key != "bench.repeats" and not any(f"{key}.".startswith(f"{one}.") for one in free)}


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _of_evaluators(job: Job, alone: Job) -> list[str]:
    """Say which of the protocol's evaluators a job lacks, or has with other settings; more of them do no harm."""
    there = {str(config["name"]): config for config in job.evaluators}
    told = []
    for config in alone.evaluators:
        name = str(config["name"])
        if name not in there:
            told.append(f"evaluators without {name}")
            continue
        told += [_told(f"evaluator.{name}.{key}", value, config.get(key)) for key, value in there[name].items()
                 if value != config.get(key) and not _is_place(key, value)]
    return told


def _is_place(key: str, value: Any) -> bool:
    """Return whether a setting of an evaluator says where something is: a copy on disk is no other judge."""
    return key in FREE_OF_EVALUATORS or (key == "source" and isinstance(value, str) and Path(value).is_dir())


def _told(key: str, value: Any, wanted: Any) -> str:
    return f"{key}={written(value)}, not {'all prompts' if key == 'limit' and wanted is None else written(wanted)}"
