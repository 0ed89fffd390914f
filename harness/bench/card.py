"""A card says where a benchmark's prompts come from and how its columns are named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.errors import MissingResourceError, unknown_name
from harness.paths import datasets_dir

FIELDS = ("prompt_id", "prompt", "category", "seed", "guidance", "negative_prompt")


@dataclass(frozen=True)
class Hub:
    """A file of a Hugging Face data set. `revision` None means: resolve at first load and record."""

    repo: str
    file: str
    revision: str | None = None
    gated: bool = False


@dataclass(frozen=True)
class Card:
    """What is known of a prompt set. `columns` maps our field names to the source's column names, first found wins."""

    name: str
    rows: int | None = None
    sha256: str | None = None
    known_sha256: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None
    hub: Hub | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    category_separator: str = ";"
    sexual: bool = False
    description: str = ""
    source: str = ""
    licence: str = ""

    def names_of(self, field_name: str) -> tuple[str, ...]:
        return (*self.columns.get(field_name, ()), field_name)


def read_card(path: Path) -> Card:
    """Read a card's YAML; keys that only people read (reported numbers, protocol) are left alone."""
    raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    columns = raw.get("columns") or {}
    mapping = columns if isinstance(columns, dict) else {}
    return Card(
        name=raw["name"],
        rows=raw.get("rows"),
        sha256=raw.get("sha256"),
        known_sha256=raw.get("known_sha256") or {},
        file=raw.get("file"),
        hub=Hub(**raw["hub"]) if raw.get("hub") else None,
        columns={key: _names(value) for key, value in mapping.items() if key in FIELDS},
        category_separator=raw.get("category_separator", ";"),
        sexual=bool(raw.get("sexual", False)),
        description=raw.get("description", ""),
        source=str(raw.get("source", "")),
        licence=raw.get("licence", ""),
    )


def _names(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def find_card(name: str) -> Card:
    """Return the card `name`: a file of datasets/, or a path to a YAML file of your own."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else datasets_dir() / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name("benchmark card", name, [file.stem for file in datasets_dir().glob("*.yaml")])
    return read_card(path)


def prompt_file(card: Card, override: str | None) -> Path:
    """Return the local file of a card's prompts, fetching it from the hub if need be. Raises MissingResourceError."""
    if override:
        path = Path(override).expanduser()
        if not path.is_file():
            raise MissingResourceError(f"no prompt file at {path}.", "Give bench.file=<path of a CSV file>.")
        return path
    shipped = datasets_dir() / (card.file or f"{card.name}.csv")
    if shipped.is_file():
        return shipped
    if card.hub is None:
        raise MissingResourceError(f"the prompts of {card.name} are not shipped.", "Give bench.file=<path>.")
    return _from_hub(card.name, card.hub)


def cached_prompt_file(card: Card, override: str | None) -> Path | None:
    """Return the prompt file if it is on this machine, without any network."""
    if override or card.hub is None or (datasets_dir() / (card.file or f"{card.name}.csv")).is_file():
        return prompt_file(card, override)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(card.hub.repo, card.hub.file, revision=card.hub.revision, repo_type="dataset")
    return Path(found) if isinstance(found, str) else None


def _from_hub(name: str, hub: Hub) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/datasets/{hub.repo}"
    try:
        return Path(hf_hub_download(hub.repo, hub.file, revision=hub.revision, repo_type="dataset"))
    except GatedRepoError:
        token = "the token in HF_TOKEN has no access" if os.environ.get("HF_TOKEN") else "no token is set"
        raise MissingResourceError(
            f"the prompts of {name} are gated and {token}.", f"Accept the terms at {page} and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise MissingResourceError(f"{page} does not exist any more.", "Give bench.file=<a local copy>.") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, EntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (
            "the hub cannot be reached and there is no cached copy"
            if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError)
            else f"{hub.file} is not in {page}"
        )
        raise MissingResourceError(
            f"the prompts of {name} are missing: {reason}.",
            f"Download {hub.file} from {page} and give bench.file=<path>, or run once with network.",
        ) from None
