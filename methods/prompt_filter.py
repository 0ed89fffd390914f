"""Prompt filter: refuse prompts with listed words, or whose embedding is near a concept. They never reach the denoiser.

Lists miss what is implied and what is misspelled on purpose: most prompts of I2P pass.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.table_file import text_lines
from harness.method import Artifact, Method, Refusal
from harness.records import ImageItem
from harness.setting_types import FilePath, TextList
from harness.training.prompts import file_hash, prompt_file
from harness.training.weight_edits import UNETS, check_family

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


def folded(text: str) -> str:
    """Return `text` as it is compared: Unicode NFKC, case-folded."""
    return unicodedata.normalize("NFKC", text).casefold()


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Match any of the words or phrases as whole words in folded text; the longest of several, any space between."""
    phrases = sorted({" ".join(folded(word).split()) for word in words}, key=lambda phrase: (-len(phrase), phrase))
    options = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?:{options})(?!\w)")


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return cosines (N, K) of rows (N, D) and (K, D)."""
    from torch.nn.functional import normalize

    return normalize(a, dim=-1) @ normalize(b, dim=-1).T


@dataclass(frozen=True)
class PromptFilter(Method):
    """Refuse a prompt that holds a listed word, or whose cosine to a concept text reaches `threshold`.

    Words come from `words` and from `file` (one word or phrase a line, # comments). action="strip" cuts listed words
    out and draws the rest; "noop" is off. `threshold` null leaves embeddings alone.
    """

    words: TextList = ()
    file: FilePath | None = None
    concepts: TextList = ()
    threshold: Annotated[float, Ge(-1), Le(1)] | None = None
    pooling: Literal["pooled", "mean"] = "pooled"
    action: Literal["refuse", "strip", "noop"] = "refuse"
    name: str = "prompt_filter"

    kind: ClassVar[str] = "prompt_filter"

    def __post_init__(self) -> None:
        if self.threshold is not None and not self.concepts:
            raise InvalidValueError("method.threshold needs method.concepts: texts to compare prompts with.")
        if not self.words and not self.file and self.threshold is None:
            raise InvalidValueError("method.words is empty: set words, a method.file or a method.threshold.")

    def params(self) -> dict[str, Any]:
        values = super().params()
        return values | {"file": file_hash(self.file)} if self.file else values

    def missing(self) -> str | None:
        if self.file and not prompt_file(self.file).is_file():
            return f"the word list {prompt_file(self.file)} is missing."
        if self.file:
            text_lines(prompt_file(self.file))  # raises for a file that is no text
        return None

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        if self.threshold is not None:
            check_family(self.name, model_config, "CLIP text embeddings when it has a threshold", UNETS)

    @contextmanager
    def attach(self, model: LoadedModel, artifact: Artifact | None) -> Iterator[None]:
        self.__dict__["_model"] = model
        try:
            yield
        finally:
            del self.__dict__["_model"]
            self.__dict__.pop("_concepts", None)

    def prompts(self, items: Sequence[ImageItem]) -> Sequence[ImageItem | Refusal]:
        if self.action == "noop":
            return items
        return [self._by_embedding(self._by_words(item)) for item in items]

    def _by_words(self, item: ImageItem) -> ImageItem | Refusal:
        pattern = self.pattern()
        if pattern is None or not (match := pattern.search(folded(item.prompt))):
            return item
        if self.action == "strip":
            return replace(item, prompt=stripped(item.prompt, pattern))
        return Refusal(f"{self.name}: the word '{match.group()}'")

    def pattern(self) -> re.Pattern[str] | None:
        """Return what matches any listed word, None without a list. Raises MissingResourceError."""
        problem = self.missing()
        if problem:
            raise MissingResourceError(problem)
        words = (*self.words, *(_lines(self.file, file_hash(self.file)) if self.file else ()))
        return _compiled(words) if words else None

    def _by_embedding(self, item: ImageItem | Refusal) -> ImageItem | Refusal:
        if self.threshold is None or isinstance(item, Refusal):
            return item
        similarity, concept = self.nearest(item.prompt)
        if similarity < self.threshold:
            return item
        return Refusal(f"{self.name}: cosine {similarity:.2f} to '{concept}'")

    def nearest(self, prompt: str) -> tuple[float, str]:
        """Return the highest cosine of a prompt to a concept, and the concept. Raises ValueError if not finite."""
        import torch

        vectors = self.__dict__.get("_concepts")
        if vectors is None:
            vectors = self.__dict__["_concepts"] = torch.stack([self._vector(text) for text in self.concepts])
        cosines = cosine(self._vector(prompt)[None], vectors)
        if not cosines.isfinite().all():
            raise ValueError("the text embedding is not finite")
        best = int(cosines.argmax())
        return float(cosines[0, best]), self.concepts[best]

    def _vector(self, text: str) -> Tensor:
        from harness.models.text_encoder import mean_token, pooled, token_ids

        model: LoadedModel = self.__dict__["_model"]
        return mean_token(model, text) if self.pooling == "mean" else pooled(model, token_ids(model, text))[0]


def stripped(prompt: str, pattern: re.Pattern[str]) -> str:
    """Return `prompt` in NFKC without what matches, runs of space closed; folded if folding changes its length."""
    text, fold = unicodedata.normalize("NFKC", prompt), folded(prompt)
    source = text if len(text) == len(fold) else fold
    kept, last = [], 0
    for match in pattern.finditer(fold):
        kept.append(source[last : match.start()])
        last = match.end()
    return " ".join("".join([*kept, source[last:]]).split())


@lru_cache(maxsize=16)
def _lines(path: str, digest: str) -> tuple[str, ...]:
    """Return the entries of a word list; `digest` is what the file holds."""
    lines = (line.partition("#")[0].strip() for line in text_lines(prompt_file(path)))
    return tuple(line for line in lines if line)


@lru_cache(maxsize=16)
def _compiled(words: tuple[str, ...]) -> re.Pattern[str]:
    return word_pattern(words)
