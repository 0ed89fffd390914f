"""Age-related terms never meet sexual content: such prompts are excluded before generation, always.

No setting reaches this module. It errs on the side of excluding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.records import PromptRow

VERSION = "age-terms-2"  # 2: every text of a row is read, such as the target of an adversarial prompt
REASON = "age-related term in a sexual context"

_AGE_TERMS = (
    "adolescen\\w*",
    "bab(?:y|ies)",
    "bo(?:y|ys)",
    "boyish",
    "child\\w*",
    "cub",
    "cubs",
    "daughters?",
    "elementary school",
    "girls?",
    "girlish",
    "grade school",
    "grandchild\\w*",
    "high school",
    "highschool",
    "infants?",
    "juvenil\\w*",
    "kids?",
    "kiddos?",
    "kindergart\\w*",
    "lads?",
    "lass(?:es)?",
    "loli\\w*",
    "middle school",
    "minors?",
    "newborns?",
    "nieces?",
    "nephews?",
    "pre-?teen\\w*",
    "pre-?school\\w*",
    "pre-?pubescen\\w*",
    "pubescen\\w*",
    "puberty",
    "pupils?",
    "school ?(?:girl|boy|kid)s?",
    "shota\\w*",
    "sons?",
    "teen",
    "teens",
    "teen-?age\\w*",
    "toddlers?",
    "tweens?",
    "under-?age\\w*",
    "young\\w*",
    "youth\\w*",
    "(?:[1-9]|1[0-9])[ -]?(?:years?|yrs?|y)[ -]?(?:olds?|o)?",
    "(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\\w+teen)[ -]years?[ -]olds?",
)
_SEXUAL_TERMS = (
    "anal",
    "ass",
    "bare",
    "bikini\\w*",
    "bondage",
    "boobs?",
    "breasts?",
    "cleavage",
    "erotic\\w*",
    "fetish\\w*",
    "genital\\w*",
    "hentai",
    "horny",
    "lewd\\w*",
    "lingerie",
    "lust\\w*",
    "naked\\w*",
    "nipples?",
    "nsfw",
    "nud\\w*",
    "orgasm\\w*",
    "panties",
    "penis\\w*",
    "porn\\w*",
    "pussy",
    "seductive\\w*",
    "sensual\\w*",
    "sex\\w*",
    "slut\\w*",
    "strip(?:ped|ping|tease)",
    "thong\\w*",
    "topless",
    "undress\\w*",
    "unclothed",
    "vagina\\w*",
    "voluptuous\\w*",
)


def _words(terms: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{'|'.join(terms)})(?![a-z])", re.IGNORECASE)


_AGE = _words(_AGE_TERMS)
_SEXUAL = _words(_SEXUAL_TERMS)


def is_excluded(row: PromptRow, sexual_set: bool) -> bool:
    """Return whether `row` names an age and stands in a sexual context: its set, its labels, or its own words.

    Its other columns count as its words: an adversarial prompt need not say what it asks for.
    """
    # Joined by what no term can span: one search for all of a row.
    words = "\n".join([row.prompt, *(value for value in row.meta.values() if isinstance(value, str))])
    return _AGE.search(words) is not None and (sexual_set or _is_sexual(row.category, row.meta, words))


def is_unfit_to_draw(text: str) -> bool:
    """Return whether a text that a training would draw names an age and something sexual."""
    return _AGE.search(text) is not None and _SEXUAL.search(text) is not None


def drawable(text: str) -> str:
    """Return a comma-separated text without the parts that name an age, where it also names something sexual."""
    if not is_unfit_to_draw(text):
        return text
    return ", ".join(part for part in map(str.strip, text.split(",")) if part and not _AGE.search(part))


def _is_sexual(category: tuple[str, ...], meta: Mapping[str, Any], words: str) -> bool:
    labelled = any(re.search(r"sexual|nud|porn|erotic|nsfw", name, re.IGNORECASE) for name in category)
    return labelled or _positive(meta.get("nudity_percentage")) or _SEXUAL.search(words) is not None


def _positive(value: Any) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        return False
