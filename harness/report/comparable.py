"""Which rows are ranked together: those whose images were generated and judged alike except for the method.

Rows of one model and bench fall into groups. Every row says in words how its group differs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cells.comparable import GIVEN, made_by, mapping
from harness.lib.hashing import canonical_json, text_hash
from harness.report.run import Run, judge_name

NOT_KNOWN = "not known"
OWN = "the model's own"
_SETTINGS = {"num_inference_steps": "steps", "guidance_scale": "guidance", "seed": "seed", "repeats": "repeats"}
_TITLES = {"recipe": "engine recipe", "bench.version": "bench version", "bench.prompts": "prompts", "seeds": "seeds of",
           "model.weights": "weights"}  # fmt: skip
_LONG = 28  # letters of a value in words
_HEX = 10


def place(run: Run) -> tuple[str, str]:
    return run.model, run.bench


def making(run: Run) -> dict[str, Any]:
    """Return everything but the method that the images depend on; empty if the run does not say."""
    cell = mapping(run.summary.get("cell"))
    stored = cell.get("conditions") or made_by(mapping(run.cell.get("identity")), mapping(run.cell.get("model")))
    settings = mapping(cell.get("settings") or run.cell.get("settings"))
    conditions = {_TITLES.get(key, key.removeprefix("model.")): value for key, value in _flat(mapping(stored)).items()
             if key not in ("model.name", "bench.name")}  # fmt: skip
    if conditions.get(_TITLES["recipe"]) == GIVEN:
        settings = {"repeats": settings.get("repeats")}
    conditions |= {title: settings[key] for key, title in _SETTINGS.items() if key in settings}
    if {"height", "width"} <= settings.keys():
        conditions["size"] = settings.get("size") or f"{settings['width']} x {settings['height']}"
    if run.readable:
        conditions["part"] = f"first {run.limit:,} prompts" if run.limit else "all prompts"
        conditions["statistics"] = run.summary.get("statistics", 1)  # of intervals and tests; 1 where it does not say
    return conditions


def judging(run: Run, name: str | None) -> dict[str, Any]:
    """Return what an evaluator's numbers depend on: its version, threshold, classes and weights, its fingerprint."""
    one = mapping(mapping(run.summary.get("evaluators")).get(name or ""))
    named = {key: one.get(key) for key in ("version", "fingerprint")}
    return {} if set(named.values()) == {None} else {**_flat(mapping(one.get("identity"))), **named}


def facts(run: Run, metric: str | None = None) -> dict[str, Any]:
    """Return everything that two rows of one ranking share, by what it is called."""
    name = judge_name(run, metric)
    return making(run) | {"judge": name} | {f"judge's {key}": value for key, value in judging(run, name).items()}


def group(run: Run, metric: str | None = None) -> str:
    """Name the ranking that a run stands in: runs of one model and bench with the same name are comparable."""
    return text_hash(canonical_json(facts(run, metric), spaced=True, ascii_only=True, other=str))[:8]


def rank(run: Run) -> tuple[bool, bool, int, str]:
    """Return the order of groups on a bench: judged, whole, then the longer ones. No other run has a say in it."""
    return judge_name(run) is None, run.limit is not None, -(run.limit or 0), group(run)


def groups(runs: Sequence[Run], metric: str | None = None) -> list[list[Run]]:
    """Return the rankings that the runs fall into, in the order of `rank`."""
    by_group: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_group[group(run, metric)].append(run)
    return sorted(by_group.values(), key=lambda ranking: rank(ranking[0]))


def group_names(runs: Sequence[Run]) -> dict[str, str]:
    """Return what tells the rankings of one model and bench apart, by `group`; empty texts where there is only one."""
    known = {group(run): facts(run) for run in runs}
    keys = [key for key in dict.fromkeys(key for one in known.values() for key in one)
            if len({_canonical(one.get(key)) for one in known.values()}) > 1]  # fmt: skip
    keys = [key for key in keys if key != "judge's fingerprint"] or keys
    return {
        name: ", ".join(_short(one.get(key)) if key == "part" else f"{key} {_short(one.get(key, _absent(one)))}"
                        for key in keys)
        for name, one in known.items()
    }  # fmt: skip


def made_apart(one: Run, other: Run) -> str:
    """Say how the images of two benches were made differently, but for what belongs to the bench; empty if alike."""
    of_bench = ("bench version", "prompts", "part", "repeats", "seeds of", "guidance", "statistics")
    first, second = ({k: v for k, v in making(run).items() if k not in of_bench} for run in (one, other))
    return ", ".join(
        f"{key} {_short(second.get(key, _absent(second)))}, not {_short(first.get(key, _absent(first)))}"
        for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)
    )  # fmt: skip


def differences(runs: Sequence[Run]) -> dict[str, str]:
    """Say by cell id what sets a run apart from others of its model and bench; nothing if all were made alike.

    Of each fact the value that most rows have goes without saying, where there is one that more rows have than any.
    """
    places: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if run.readable:
            places[place(run)].append(run)
    return {cell: text for there in places.values() for cell, text in _of_place(there).items()}


def _of_place(runs: Sequence[Run]) -> dict[str, str]:
    known = [facts(run) for run in runs]
    told: list[list[str]] = [[] for _ in runs]
    for key in dict.fromkeys(key for one in known for key in one):
        if not key.startswith("judge's "):
            rows = [i for i, one in enumerate(known) if key != "judge" or one["judge"]]
            _tell(told, key, {i: known[i].get(key, _absent(known[i])) for i in rows})
    names = dict.fromkeys(str(name) for run in runs for name in mapping(run.summary.get("evaluators")))
    for name in names:
        judgings = {i: judged for i, run in enumerate(runs) if (judged := judging(run, name))}
        differing = [key for key in dict.fromkeys(k for one in judgings.values() for k in one)
                     if len({_canonical(one.get(key)) for one in judgings.values()}) > 1]  # fmt: skip
        named = [key for key in differing if key != "fingerprint"] or differing
        for key in named:
            _tell(told, f"{name} {key}", {i: one.get(key) for i, one in judgings.items()})
    return {run.cell_id: "; ".join(dict.fromkeys(parts)) for run, parts in zip(runs, told, strict=True) if parts}


def _tell(told: list[list[str]], what: str, values: Mapping[int, Any]) -> None:
    """Add to each row what it has and what others have, where they differ and it is not as most rows are."""
    shown = {i: _short(value) for i, value in values.items()}
    same = {i: _canonical(value) for i, value in values.items()}
    most, second = [*Counter(same.values()).most_common(2), ("", 0), ("", 0)][:2]
    usual = most[0] if most[1] > second[1] else None
    for i in values:
        if same[i] == usual:
            continue
        others = list(dict.fromkeys(shown[j] for j in values if same[j] != same[i]))
        text = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
        told[i].append(f"{shown[i] if what == 'part' else f'{what} {shown[i]}'}, others {text}")


def _absent(one: Mapping[str, Any]) -> str:
    """Return what a missing fact means: the model's own where the run tells of its making, else nothing."""
    return OWN if "weights" in one and one.get(_TITLES["recipe"]) != GIVEN else NOT_KNOWN


def _canonical(value: Any) -> str:
    return canonical_json(value, other=str)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
    if isinstance(value, list | tuple):
        text = ", ".join(_short(item) for item in value)
    bare = text.removeprefix("sha256:")
    if len(bare) > _HEX and all(letter in "0123456789abcdef" for letter in bare):
        return bare[:_HEX]
    return text if len(text) <= _LONG else f"{text[: _LONG - 9]}\N{HORIZONTAL ELLIPSIS}{text[-8:]}"


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flat |= _flat(value, name) if isinstance(value, Mapping) and value else {name: value}
    return flat


def columns(run: Run) -> dict[str, Any]:
    """Return what the CSV file says of a row's making and judging; None for what is not known."""
    cell, known, judge = mapping(run.summary.get("cell")), making(run), judge_name(run)
    settings = mapping(cell.get("settings") or run.cell.get("settings"))
    prompts = mapping(run.summary.get("prompts"))
    judged = judging(run, judge)
    flat = {
        "judge": judge,
        "judge_threshold": setting_of(judged, "threshold"),
        "judge_version": judged.get("version"),
        "judge_fingerprint": judged.get("fingerprint"),
        "steps": known.get("steps"),
        "scheduler": known.get("scheduler", OWN if _absent(known) == OWN else None),
        "dtype": known.get("dtype"),
        "weights": known.get("weights"),
        "revision": known.get("revision"),
        "guidance_scale": known.get("guidance"),
        "size": known.get("size"),
        "seed": known.get("seed"),
        "repeats": known.get("repeats"),
        "batch_size": settings.get("batch_size"),
        "limit": run.limit,
        "n_prompts": run.n_prompts,
        "bench_version": known.get("bench version"),
        "prompts_hash": known.get("prompts"),
        "prompts_file_sha256": prompts.get("file_sha256"),
        "recipe": known.get("engine recipe"),
    }
    return flat | {"group": group(run) if run.readable else None}


def setting_of(judged: Mapping[str, Any], name: str) -> Any:
    """Return a setting of a judge; all of them, named, where each class has its own."""
    matching = {key: value for key, value in judged.items() if key.split(".")[0].endswith(name) or key.startswith(name)}
    if name in matching or not matching:
        return matching.get(name)
    return "; ".join(f"{key}={value}" for key, value in matching.items())
