"""Schema of a card: its keys, their types, and paths that stay in their folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from harness.checks import check_label
from harness.errors import InvalidValueError, unknown_name

HUB_KEYS = ("repo", "file", "revision", "gated")
DOWNLOAD_KEYS = ("file", "url")
GENERATE_KEYS = ("templates", "axis", "keep_case")
SELECT_KEYS = ("categories", "where", "positions", "ids", "ids_sha256")
MAX_COUNT = 10**9


def check_card(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuse a card whose keys are of other types than they should. Raises InvalidValueError: file and key named."""
    check_label(f"{path}: name", raw.get("name"))
    for key, (check, wanted) in _TOP.items():
        if raw.get(key) is not None and not check(raw[key]):
            raise InvalidValueError(f"{path}: {key}={_shown(raw[key])}: {wanted} is needed.")
    for key, known in (("hub", HUB_KEYS), ("download", DOWNLOAD_KEYS), ("generate", GENERATE_KEYS),
                       ("select", SELECT_KEYS)):
        _check_keys(path, key, raw.get(key), known)
    _check_parts(path, raw)
    for name, variant in (raw.get("variants") or {}).items():
        if not isinstance(variant, Mapping):
            raise InvalidValueError(f"{path}: variants.{name} is not a mapping.")


def stays_inside(value: object) -> bool:
    """Return whether a file name leads to nowhere but below its folder."""
    if not isinstance(value, str) or not value or "\0" in value or len(value) > 1000:
        return False
    name = PurePath(value)
    return not name.is_absolute() and ".." not in name.parts and not value.startswith("~")


def _check_parts(path: Path, raw: Mapping[str, Any]) -> None:
    hub, download, generate = raw.get("hub") or {}, raw.get("download") or {}, raw.get("generate") or {}
    select = raw.get("select") or {}
    needed: list[tuple[str, bool, str]] = []
    if hub:
        needed += [("hub.repo", _is_text(hub.get("repo")) and stays_inside(hub["repo"]), "a repository"),
                   ("hub.revision", hub.get("revision") is None or _is_text(hub["revision"]), "a text"),
                   ("hub.file", hub.get("file") is None or stays_inside(hub["file"]), "a file in it")]
    if download:
        needed += [("download.file", stays_inside(download.get("file")), "a file name"),
                   ("download.url", str(download.get("url")).startswith(("https://", "http://")), "a URL")]
    if generate:
        axis, templates = generate.get("axis"), generate.get("templates")
        sound = isinstance(axis, Mapping) and len(axis) == 1 and all(map(_is_texts, axis.values()))
        needed += [("generate.axis", sound, "one name with a list of texts"),
                   ("generate.templates", _is_texts(templates) and all(text.split() for text in templates or ()),
                    "a list of texts")]
    if select:
        positions = select.get("positions")
        pair = isinstance(positions, list) and len(positions) == 2 and all(map(_is_count, positions))
        sound = positions is None or pair
        needed += [("select.positions", sound, "a list of two counts"),
                   ("select.ids", select.get("ids") is None or _is_count(select["ids"]), "a count"),
                   ("select.where", select.get("where") is None or isinstance(select["where"], Mapping), "a mapping"),
                   ("select.categories", select.get("categories") is None or _is_names(select["categories"]), "names")]
    for key, sound, wanted in needed:
        if not sound:
            raise InvalidValueError(f"{path}: {key}: {wanted} is needed.")


def _check_keys(path: Path, key: str, value: Any, known: tuple[str, ...]) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{path}: {key}={_shown(value)}: a mapping of {', '.join(known)} is needed.")
    for given in value:
        if given not in known:
            raise unknown_name(f"key of {key} in {path}", str(given), known)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_names(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _is_named_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, str) for one in value.values())


def _is_columns(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, Mapping) and all(map(_is_names, value.values())))


_TOP: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "rows": (_is_count, "a count"),
    "file_rows": (_is_count, "a count"),
    "truncated": (_is_count, "a count"),
    "sha256": (lambda value: isinstance(value, str), "a text"),
    "list_sha256": (lambda value: isinstance(value, str), "a text"),
    "known_sha256": (_is_named_texts, "a mapping of texts"),
    "lists": (_is_named_texts, "a mapping of texts"),
    "file": (stays_inside, "the name of a file beside the card's"),
    "variant": (_is_text, "a text"),
    "variants": (lambda value: isinstance(value, Mapping), "a mapping"),
    "columns": (_is_columns, "a mapping of fields to columns"),
    "meta": (lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value), "a list of columns"),
    "ids": (lambda value: value in ("text", "integer"), "text or integer"),
    "category_separator": (lambda value: isinstance(value, str) and bool(value), "a text"),
    "sexual": (lambda value: isinstance(value, bool), "true or false"),
    "description": (lambda value: isinstance(value, str), "a text"),
    "licence": (lambda value: isinstance(value, str), "a text"),
}
