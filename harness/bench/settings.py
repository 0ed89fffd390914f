"""What a bench's config may say of its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from harness.declared import Declared
from harness.setting_types import FilePath, Must, Number, Scalar, Text

Column = Scalar | None  # false: the field has no column; null: the card says which
Where = Annotated[Mapping[str | int, Scalar], Must("a mapping of columns to values", "mappings", lambda value: True)]
Names = tuple[Scalar, ...]


@dataclass(frozen=True)
class ColumnSettings(Declared):
    """Which column of the file holds a field, where it is not the card's."""

    settings_of: ClassVar[str] = "bench.columns"

    prompt_id: Column = None
    prompt: Column = None
    category: Column = None
    seed: Column = None
    guidance: Column = None
    negative_prompt: Column = None
    width: Column = None
    height: Column = None

    @property
    def asked(self) -> dict[str, str]:
        """Return the columns by field; an empty name says that the field has none."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {key: "" if value is False else str(value) for key, value in given.items() if value not in (None, "")}


@dataclass(frozen=True)
class PromptSettings(Declared):
    """Whose prompts they are, and which of them: what a list of prompts depends on."""

    settings_of: ClassVar[str] = "bench"

    name: Text
    card: Text | None = None
    variant: Text | Number | None = None
    file: FilePath | None = None
    columns: ColumnSettings | None = field(default_factory=ColumnSettings)
    categories: Names | None = None
    where: Where | None = None
    ids: FilePath | Names | None = None
    without: Names | None = ()

    @classmethod
    def of_bench(cls, bench: Mapping[str, Any]) -> PromptSettings:
        """Read the settings of a bench that concern its prompts. Raises HarnessError."""
        return cls.from_config({key: bench[key] for key in PROMPT_KEYS if key in bench})

    @property
    def asked(self) -> dict[str, str]:
        """Return the columns that the user names, by field."""
        return self.columns.asked if self.columns else {}


PROMPT_KEYS = tuple(setting.name for setting in fields(PromptSettings))
