"""Prompt ids: made safe for file names, kept unique, and matched however they are written."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from harness.lib.table_values import is_missing, without_point

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_WHOLE_AS_FLOAT = re.compile(r"[0-9]{1,40}\.0+")
_WHOLE = re.compile(r"[0-9]{1,40}(\.0+)?")
MAX_LENGTH = 100
_HASH_LENGTH = 8


def source_ids(cells: Sequence[str], integer: bool) -> list[str]:
    """Return each row's id as its file means it; a row without one has its number.

    `12.0` is 12 where the whole column is so, as a data frame writes numbers once one is missing. `integer`: leading
    zeros say nothing.
    """
    texts = [cell.strip() for cell in cells]
    given = [text for text in texts if not is_missing(text)]
    numbers = bool(given) and all(_WHOLE.fullmatch(text) for text in given)
    as_floats = numbers and any(_WHOLE_AS_FLOAT.fullmatch(text) for text in given)
    ids = []
    for index, text in enumerate(texts):
        if not text or (numbers and is_missing(text)):
            text = f"{index:05d}"
        elif as_floats:
            text = without_point(text)
        ids.append(_unpadded(text) if integer else text)
    return ids


def safe_ids(sources: Sequence[str]) -> list[str]:
    """Return ids that are safe for a file name: characters outside [A-Za-z0-9._-] and dots in front become `-`.

    Different ids that come to the same one, as those of other scripts do, get a hash of what they were.
    """
    cleaned = [safe_id(source) for source in sources]
    texts = defaultdict(set)
    for name, source in zip(cleaned, sources, strict=True):
        texts[name.casefold()].add(source.casefold())
    return [_hashed(name, source) if len(texts[name.casefold()]) > 1 else name
            for name, source in zip(cleaned, sources, strict=True)]


def safe_id(source: str) -> str:
    """Return an id as a part of a file's name."""
    name = _UNSAFE.sub("-", source)[:MAX_LENGTH]
    rest = name.lstrip(".")
    return "-" * (len(name) - len(rest)) + rest  # a file whose name begins with a dot is hidden


def _hashed(name: str, source: str) -> str:
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{name[: MAX_LENGTH - _HASH_LENGTH - 1]}-{digest}"


def _unpadded(text: str) -> str:
    """Return a number without leading zeros and `.0`, other texts as they are."""
    whole = without_point(text)
    return (whole.lstrip("0") or "0") if whole.isascii() and whole.isdecimal() else text


class IdFinder:
    """Finds the prompt that a text names: as its file writes it, as its images are named, or nearly so.

    `sources` maps prompt ids to what the file calls them. Nearly: composed or decomposed accents, made safe for a file
    name, a number with leading zeros or `.0`, other capitals; where that may be two prompts it is none.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._by_form: dict[tuple[int, str], set[str]] = defaultdict(set)
        for prompt_id, source in sources.items():
            for text in (prompt_id, source):
                for form in _forms(text):
                    self._by_form[form].add(prompt_id)

    def find(self, text: str) -> str | None:
        """Return the prompt's id, or None."""
        for form in _forms(text):
            matching = self._by_form.get(form, set())
            if len(matching) == 1:
                return next(iter(matching))
        return None


def _forms(text: str) -> Iterable[tuple[int, str]]:
    """Return how a text may be written, the closest first, each with its rank."""
    composed = unicodedata.normalize("NFC", text.strip())
    safe = safe_id(composed)
    return enumerate((text, composed, _unpadded(composed), safe, safe_id(text.strip()), safe.casefold()))
