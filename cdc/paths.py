"""Where things lie: the config file, the store's file, the daemon's socket. Imports nothing slow, as `status` starts here.

Order for the config file: `--config`, LEDGERTAIL_CONFIG, ./ledgertail.toml, /etc/ledgertail/ledgertail.toml.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cdc.errors import ConfigError

SYSTEM_PATH = Path("/etc/ledgertail/ledgertail.toml")
SOCKET_BYTES_MAX = 107  # sun_path holds 108 bytes with its closing NUL


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one installation; all paths are absolute. `socket` is where the daemon answers while it runs."""

    config: Path
    store_url: str
    store: Path
    socket: Path


def find(option: str | Path | None) -> Path:
    """The config file's path. Raises ConfigError when there is none."""
    named = option or os.environ.get("LEDGERTAIL_CONFIG")
    candidates = [Path(named)] if named else [Path("ledgertail.toml"), SYSTEM_PATH]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise ConfigError("config.missing", path=", ".join(str(path) for path in candidates))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config.syntax", path=path, fault=error) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config.unreadable", path=path, fault=error) from error


def places(option: str | Path | None = None) -> Places:
    """What the config file says of paths; the rest of it is not looked at. Raises ConfigError."""
    config = find(option)
    store = read_toml(config).get("store")
    url = store.get("url") if isinstance(store, dict) else None
    if not isinstance(store, dict) or not isinstance(url, str):
        raise ConfigError("config.key", path=config, key="store.url", fault="must be like 'duckdb:///var/lib/ledgertail/books.duckdb'")
    file = _store_file(config, url)
    return Places(config, url, file, _socket(config, store.get("socket"), file))


def _store_file(config: Path, url: str) -> Path:
    """`duckdb:///absolute/path` or `duckdb:path/beside/the/config`."""
    parts = urlsplit(url)
    if parts.scheme != "duckdb" or parts.netloc or not parts.path.strip("/"):
        fault = f"'{url}' must be like 'duckdb:///var/lib/ledgertail/books.duckdb', or 'duckdb:books.duckdb' beside the config file"
        raise ConfigError("config.key", path=config, key="store.url", fault=fault)
    return config.parent / unquote(parts.path)


def _socket(config: Path, named: object, store: Path) -> Path:
    if named is not None and not isinstance(named, str):
        raise ConfigError("config.key", path=config, key="store.socket", fault="must be a path")
    socket = config.parent / named if named else store.with_name(f"{store.name}.sock")
    if (size := len(os.fsencode(socket))) > SOCKET_BYTES_MAX:
        fault = f"'{socket}' has {size} bytes, a socket's path at most {SOCKET_BYTES_MAX}: name a shorter one"
        raise ConfigError("config.key", path=config, key="store.socket", fault=fault)
    return socket
