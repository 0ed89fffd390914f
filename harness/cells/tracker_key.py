"""Whether there is a key of Weights & Biases here: where its own client looks, without importing it."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

PUBLIC_HOST = "https://api.wandb.ai"


def has_key() -> bool:
    """Return whether a run could be online: a variable holds a key, or `wandb login` left one in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        known = netrc.netrc(_netrc_file()).authenticators(urlsplit(host()).netloc)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return bool(known and known[2])


def host() -> str:
    """Return the address of the server: WANDB_BASE_URL, else the one that `wandb login --host` noted."""
    given = os.environ.get("WANDB_BASE_URL")
    if given:
        return given
    settings = configparser.ConfigParser(interpolation=None)
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    try:
        settings.read(Path(folder).expanduser() / "settings", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return PUBLIC_HOST
    return settings.get("default", "base_url", fallback=PUBLIC_HOST)


def _netrc_file() -> Path:
    if given := os.environ.get("NETRC"):
        return Path(given).expanduser()
    places = [Path(name).expanduser() for name in ("~/.netrc", "~/_netrc")]
    return next((place for place in places if place.exists()), places[0])
