"""A card says where a benchmark's prompts come from and how its columns are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MinLen

from harness.bench.settings import Where
from harness.checks import check_label, user_path
from harness.declared import Declared, Values, declared
from harness.errors import InvalidValueError, MissingResourceError, UnknownNameError, unknown_name
from harness.lib.paths import datasets_dir
from harness.lib.reading import read_yaml
from harness.setting_types import Label, Must, Number, OneOrMore, Text, TextList

MAX_NODES = 200_000  # of a card, with aliases written out
FIELDS = ("prompt_id", "prompt", "category", "seed", "guidance", "negative_prompt", "width", "height")


def stays_inside(name: str) -> bool:
    """Say whether a file name leads to nowhere but below its folder."""
    path = PurePath(name)
    sound = 0 < len(name) <= 1000 and "\0" not in name and not name.startswith("~")
    return sound and not path.is_absolute() and ".." not in path.parts


def _is_address(text: str) -> bool:
    return text.startswith(("https://", "http://"))


Count = Annotated[int, Ge(0), Le(10**9), Must("a count", "counts", lambda value: True)]
Inside = Annotated[str, Must("a file next to the card, or below it", "files", stays_inside)]
Pair = Annotated[tuple[Count, Count], Must("a list of two counts", "pairs", lambda value: True)]
Axis = Annotated[Mapping[str, Annotated[TextList, MinLen(1)]],
                 Must("one name with a list of texts", "mappings", lambda value: len(value) == 1)]


@dataclass(frozen=True)
class Hub(Declared):
    """A file of a Hugging Face data set. `file` None means: its only CSV file.

    `revision` None means: resolve at first load and record.
    """

    settings_of: ClassVar[str] = "hub"

    repo: Annotated[str, Must("a repository", "repositories", stays_inside)]
    file: Inside | None = None
    revision: Text | None = None
    gated: bool = False


@dataclass(frozen=True)
class Download(Declared):
    """A file that the user fetches once, with the command that an error message shows."""

    settings_of: ClassVar[str] = "download"

    file: Inside
    url: Annotated[str, Must("a URL", "URLs", _is_address)]


@dataclass(frozen=True)
class Generate(Declared):
    """Prompts made from templates: every template with every value of `axis`, templates outermost.

    Values are lower-cased in the prompt, as categories and as ids, unless `keep_case` is set; ids always are.
    """

    settings_of: ClassVar[str] = "generate"

    templates: Annotated[TextList, MinLen(1)]
    axis: Axis
    keep_case: bool = False

    @property
    def axis_name(self) -> str:
        return next(iter(self.axis))

    @property
    def values(self) -> tuple[str, ...]:
        return self.axis[self.axis_name]


@dataclass(frozen=True)
class Select(Declared):
    """Which rows of the file are the benchmark. None means: all.

    `positions` is a half-open range of row numbers; `ids_sha256` names the list of `ids` prompt ids, as numbers in
    ascending order joined by newlines.
    """

    settings_of: ClassVar[str] = "select"

    categories: OneOrMore[str] | None = None
    where: Where | None = None
    positions: Pair | None = None
    ids: Count | None = None
    ids_sha256: str | None = None


@dataclass(frozen=True)
class Card(Declared):
    """What is known of a prompt set. `columns` maps our field names to the source's column names, first found wins.

    `asked` are the columns that the user names; an empty name means that the field has none.

    `rows` counts the benchmark's rows and `file_rows` those of the file; `meta` names the columns that are kept beside
    the fields (None: all); `lists` names prompt lists by `list_hash`; `truncated` counts prompts that CLIP cuts.
    """

    name: Label
    rows: Count | None = None
    file_rows: Count | None = None
    sha256: str | None = None
    known_sha256: Mapping[str, str] = field(default_factory=dict)
    list_sha256: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    file: Inside | None = None
    hub: Hub | None = None
    download: Download | None = None
    generate: Generate | None = None
    select: Select = field(default_factory=Select)
    variant: Text | Number | None = None
    columns: Mapping[str, OneOrMore[str]] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    meta: tuple[str, ...] | None = None
    ids: Literal["text", "integer"] = "text"
    category_separator: Annotated[str, MinLen(1)] = ";"
    sexual: bool = False
    truncated: Count | None = None
    description: str = ""
    source: str = ""
    licence: str = ""

    @classmethod
    def completed(cls, values: Values) -> Values:
        rows = values["rows"] if values["file_rows"] is None else values["file_rows"]
        columns = {key: names for key, names in values["columns"].items() if key in FIELDS}
        return values | {"file_rows": rows, "columns": columns}

    def names_of(self, field_name: str) -> tuple[str, ...]:
        return (*self.columns.get(field_name, ()), field_name)


def find_card(name: str, variant: str | int | float | None = None) -> Card:
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


def read_card(path: Path, variant: str | int | float | None = None) -> Card:
    """Read a card's YAML; keys that only people read (reported numbers, protocol) are left alone."""
    known, whole = set(declared(Card)) - {"asked"}, _raw(path)
    try:
        raw = {**_with_variant(whole, variant)}
        if isinstance(raw.get("columns"), list):
            raw["columns"] = {}  # names of a file that has no other, for people
        given = {key: value for key, value in raw.items() if key in known and value is not None and value != {}}
        return Card.from_config(given | {"source": str(raw.get("source") or "")})
    except (InvalidValueError, UnknownNameError) as error:
        raise type(error)(f"{path}: {error.args[0]}", error.hint) from None


def _raw(path: Path, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a card's keys over those of the card that it is `of`: a part or another reading of the same file."""
    raw = read_yaml(path, unique_keys=True, nodes=MAX_NODES)
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


def _with_variant(raw: dict[str, Any], variant: str | int | float | None) -> dict[str, Any]:
    variants: dict[str, Any] = raw.get("variants") or {}
    if not isinstance(variants, Mapping) or not all(isinstance(one, Mapping) for one in variants.values()):
        raise InvalidValueError("variants: expected a mapping of names to mappings.")
    name = variant or raw.get("variant")
    if name is None:
        return raw
    if not variants:
        raise InvalidValueError(f"bench.variant={name}: {raw.get('name')} has no variants.")
    if not isinstance(name, str | int | float) or name not in variants:
        raise unknown_name(f"variant of {raw.get('name')}", str(name), variants)
    others = {
        other["sha256"]: f"this file is variant {key}, not {name}"
        for key, other in variants.items()
        if key != name and isinstance(other.get("sha256"), str)
    }
    known = raw.get("known_sha256") or {}
    both = {**known, **others} if isinstance(known, Mapping) else known
    return {**raw, "known_sha256": both, **variants[name], "variant": name}
