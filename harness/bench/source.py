"""Where a card's prompts are: a given file, one in the package, a downloaded one, the hub's, or none."""

from __future__ import annotations

from pathlib import Path

from harness.bench.card import Card, Download, Hub
from harness.checks import user_path
from harness.errors import MissingResourceError
from harness.lib.downloads import chosen_files
from harness.lib.hub import fetch, look_up, remember_revision
from harness.lib.hub_cache import hub_cache
from harness.lib.paths import datasets_dir
from harness.lib.wanted import HubFiles

DOWNLOADS = Path("~/.cache/responsible-t2i-harness/prompts")


def prompt_file(card: Card, override: str | None) -> Path:
    """Return the local file of a card's prompts, fetching it from the hub if need be. Raises MissingResourceError."""
    local = _local_file(card, override)
    if local is not None:
        return local
    if card.hub is None:
        raise MissingResourceError(f"the prompts of {card.name} are not on this machine.", how_to_get(card))
    return _from_hub(card.name, card.hub)


def cached_prompt_file(card: Card, override: str | None) -> Path | None:
    """Return the prompt file if it is on this machine, without any network."""
    local = _local_file(card, override)
    if local is not None or card.hub is None:
        return local
    return _cached(card.hub)


def hub_files(hub: Hub) -> HubFiles:
    """Return which file of a data set's repository the prompts are in."""
    return HubFiles(hub.repo, hub.revision, (hub.file or "*.csv",), kind="dataset", single=True)


def how_to_get(card: Card) -> str:
    """Say how the user gets a card's prompts."""
    if card.download:
        target = DOWNLOADS / card.download.file
        curl = f"curl -L --create-dirs -o {target} {card.download.url}"
        return f"Get them: python -m harness prefetch with the same settings, or {curl} , or set bench.file=<path>."
    if card.hub:
        page = f"https://huggingface.co/datasets/{card.hub.repo}"
        gate = f"Accept the terms at {page} and set HF_TOKEN, then: " if card.hub.gated else "Get them: "
        return f"{gate}python -m harness prefetch with the same settings, or set bench.file=<path>."
    return "Set bench.file=<path>."


def said_source(card: Card, path: Path | None) -> str:
    """Name where the rows came from: `template`, the hub's repository at its commit, or the file's name."""
    if path is None:
        return "made from the card's templates"
    if card.hub and "snapshots" in path.parts:
        commit, *inside = path.parts[path.parts.index("snapshots") + 1 :]
        return f"{card.hub.repo}@{commit}/{'/'.join(inside)}"
    return path.name


def _local_file(card: Card, override: str | None) -> Path | None:
    if override:
        path = user_path("bench.file", str(override))
        if not path.is_file():
            raise MissingResourceError(f"no prompt file at {path}.", "Set bench.file=<path to a CSV file>.")
        return path
    shipped = datasets_dir() / (card.file or f"{card.name}.csv")
    if shipped.is_file():
        return shipped
    fetched = downloaded_file(card.download) if card.download else None
    return fetched if fetched is not None and fetched.is_file() else None


def downloaded_file(download: Download) -> Path:
    """Return where a card's file is kept once it was fetched."""
    return (DOWNLOADS / download.file).expanduser()


def _cached(hub: Hub) -> Path | None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    if hub.file:
        path = try_to_load_from_cache(hub.repo, hub.file, cache_dir=hub_cache(), revision=hub.revision,
                                       repo_type="dataset")
        return Path(path) if isinstance(path, str) else None
    try:
        folder = snapshot_download(hub.repo, revision=hub.revision, repo_type="dataset", cache_dir=hub_cache(),
                                   local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    files = sorted(Path(folder).rglob("*.csv"))
    return files[0] if len(files) == 1 else None


def _from_hub(name: str, hub: Hub) -> Path:
    """Return the cached file, else fetch it as prefetch does; what was fetched stays when the hub's main moves."""
    cached = _cached(hub)
    if cached is not None:
        return cached
    try:
        repository = look_up(hub.repo, hub.revision, "dataset")
        (file,) = chosen_files(hub_files(hub), repository)
        path = fetch(repository, file)
    except MissingResourceError as error:
        reason = f"the prompts of {name} are missing: {error}"
        raise MissingResourceError(reason, "Or set bench.file=<path>.") from None
    remember_revision(repository)
    return path
