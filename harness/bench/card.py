"""A card says where a benchmark's prompts come from and how its columns are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.bench.card_checks import check_card
from harness.checks import check_label, user_path
from harness.errors import InvalidValueError, MissingResourceError, unknown_name
from harness.lib.paths import datasets_dir
from harness.lib.reading import read_yaml

MAX_NODES = 200_000  # of a card, with aliases written out
FIELDS = ("prompt_id", "prompt", "category", "seed", "guidance", "negative_prompt", "width", "height")


@dataclass(frozen=True)
class Hub:
    """A file of a Hugging Face data set. `file` None means: its only CSV file.

    `revision` None means: resolve at first load and record.
    """

    repo: str
    file: str | None = None
    revision: str | None = None
    gated: bool = False


@dataclass(frozen=True)
class Download:
    """A file that the user fetches once, with the command that an error message shows."""

    file: str
    url: str


@dataclass(frozen=True)
class Generate:
    """Prompts made from templates: every template with every value of `axis`, templates outermost.

    Values are lower-cased in the prompt, as categories and as ids, unless `keep_case` is set; ids always are.
    """

    templates: tuple[str, ...]
    axis: str
    values: tuple[str, ...]
    keep_case: bool = False


@dataclass(frozen=True)
class Select:
    """Which rows of the file are the benchmark. None means: all.

    `positions` is a half-open range of row numbers; `ids_sha256` names the list of `ids` prompt ids, as numbers in
    ascending order joined by newlines.
    """

    categories: tuple[str, ...] | None = None
    where: Mapping[str, str] | None = None
    positions: tuple[int, int] | None = None
    ids: int | None = None
    ids_sha256: str | None = None


@dataclass(frozen=True)
class Card:
    """What is known of a prompt set. `columns` maps our field names to the source's column names, first found wins.

    `asked` are the columns that the user names; an empty name means that the field has none.

    `rows` counts the benchmark's rows and `file_rows` those of the file; `meta` names the columns that are kept beside
    the fields (None: all); `lists` names prompt lists by `list_hash`; `truncated` counts prompts that CLIP cuts.
    """

    name: str
    rows: int | None = None
    file_rows: int | None = None
    sha256: str | None = None
    known_sha256: Mapping[str, str] = field(default_factory=dict)
    list_sha256: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None
    hub: Hub | None = None
    download: Download | None = None
    generate: Generate | None = None
    select: Select = field(default_factory=Select)
    variant: str | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    meta: tuple[str, ...] | None = None
    ids: Literal["text", "integer"] = "text"
    category_separator: str = ";"
    sexual: bool = False
    truncated: int | None = None
    description: str = ""
    source: str = ""
    licence: str = ""

    def names_of(self, field_name: str) -> tuple[str, ...]:
        return (*self.columns.get(field_name, ()), field_name)


def find_card(name: str, variant: str | None = None) -> Card:
    """Return the card `name`: a file of datasets/, or a path to a YAML file of your own.

    `variant` picks one of the card's variants; None its default. Raises UnknownNameError.
    """
    if name.endswith((".yaml", ".yml")):
        path = user_path("bench.card", name)
    else:
        path = datasets_dir() / f"{check_label('bench.card', name)}.yaml"
    if not path.is_file():
        raise unknown_name("benchmark card", name, [file.stem for file in datasets_dir().glob("*.yaml")])
    return read_card(path, variant)


def read_card(path: Path, variant: str | None = None) -> Card:
    """Read a card's YAML; keys that only people read (reported numbers, protocol) are left alone."""
    raw = _raw(path)
    check_card(path, raw)
    raw = _with_variant(raw, variant)
    check_card(path, raw)
    columns = raw.get("columns") or {}
    mapping = columns if isinstance(columns, dict) else {}
    return Card(
        name=raw["name"],
        rows=raw.get("rows"),
        file_rows=raw.get("file_rows", raw.get("rows")),
        sha256=raw.get("sha256"),
        known_sha256=raw.get("known_sha256") or {},
        list_sha256=raw.get("list_sha256"),
        lists=raw.get("lists") or {},
        file=raw.get("file"),
        hub=Hub(**raw["hub"]) if raw.get("hub") else None,
        download=Download(**raw["download"]) if raw.get("download") else None,
        generate=_generate(raw["generate"]) if raw.get("generate") else None,
        select=_select(raw.get("select") or {}),
        variant=raw.get("variant"),
        columns={key: _names(value) for key, value in mapping.items() if key in FIELDS},
        meta=None if raw.get("meta") is None else tuple(raw["meta"]),
        ids=raw.get("ids", "text"),
        category_separator=raw.get("category_separator", ";"),
        sexual=bool(raw.get("sexual", False)),
        truncated=raw.get("truncated"),
        description=raw.get("description", ""),
        source=str(raw.get("source", "")),
        licence=raw.get("licence", ""),
    )


def _raw(path: Path, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a card's keys over those of the card that it is `of`: a part or another reading of the same file."""
    raw = read_yaml(path, nodes=MAX_NODES)
    if raw is None:
        raise MissingResourceError(f"no card at {path}.")
    if raw.get("of") is None:
        return raw
    of = check_label(f"{path}: of", raw["of"])
    if of in below:
        raise InvalidValueError(f"{path}: the card refers to itself: {' > '.join((*below, of))}.")
    if not (datasets_dir() / f"{of}.yaml").is_file():
        raise unknown_name(f"card that {path.name} is of", of, [file.stem for file in datasets_dir().glob("*.yaml")])
    base = _raw(datasets_dir() / f"{of}.yaml", (*below, of))
    whole = base.get("file_rows", base.get("rows"))
    return {**base, "file_rows": whole, **raw}


def _with_variant(raw: dict[str, Any], variant: str | None) -> dict[str, Any]:
    variants: dict[str, Any] = raw.get("variants") or {}
    name = variant or raw.get("variant")
    if name is None:
        return raw
    if not variants:
        raise InvalidValueError(f"bench.variant={name}: {raw['name']} has no variants.")
    if name not in variants:
        raise unknown_name(f"variant of {raw['name']}", str(name), variants)
    others = {
        other["sha256"]: f"this file is variant {key}, not {name}"
        for key, other in variants.items()
        if key != name and other.get("sha256")
    }
    known = {**(raw.get("known_sha256") or {}), **others}
    return {**raw, "known_sha256": known, **variants[name], "variant": name}


def _names(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _generate(raw: Mapping[str, Any]) -> Generate:
    ((axis, values),) = raw["axis"].items()
    return Generate(tuple(raw["templates"]), str(axis), tuple(values), bool(raw.get("keep_case", False)))


def _select(raw: Mapping[str, Any]) -> Select:
    positions: Sequence[int] | None = raw.get("positions")
    return Select(
        categories=None if raw.get("categories") is None else _names(raw["categories"]),
        where=raw.get("where"),
        positions=None if positions is None else (positions[0], positions[1]),
        ids=raw.get("ids"),
        ids_sha256=raw.get("ids_sha256"),
    )
