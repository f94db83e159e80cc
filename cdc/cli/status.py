"""`ledgertail status`: every source's state and lag, now or each second."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from cdc.cli import config_option, config_path
from cdc.errors import EXIT_DEGRADED, EXIT_FINE, LedgertailError
from cdc.serving.client import Reader, connect_config
from cdc.texts import text

if TYPE_CHECKING:
    from rich.console import Group

WATCH_S, WATCH_LINE_S = 1.0, 10.0
_UNITS = ("B", "KB", "MB", "GB", "TB")


@click.command("status", help=text("cli.status.help"), short_help=text("cli.status.short"))
@click.option("--json", "as_json", is_flag=True, help=text("cli.json"))
@click.option("--watch", is_flag=True, help=text("cli.status.watch"))
@click.option("--max-lag", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="S", help=text("cli.status.max_lag"))
@config_option
def command(as_json: bool, watch: bool, max_lag: float) -> None:
    with connect_config(config_path()) as reader:
        if watch:
            _watch(reader, as_json)
            return
        status = reader.status()
        if as_json:
            click.echo(json.dumps(status, ensure_ascii=False))
        else:
            from rich.console import Console

            Console(width=None if sys.stdout.isatty() else 160).print(_shown(status))
        sys.exit(EXIT_FINE if fine(status, max_lag) else EXIT_DEGRADED)


def fine(status: dict[str, Any], max_lag_s: float) -> bool:
    """Whether every source is copied or streamed, nothing lies in quarantine and no lag is too long or, while streaming, unknown."""
    return status["daemon"] == "up" and all(
        source["state"] in ("snapshot", "streaming", "paused")
        and source["quarantined"] == 0
        and (source["lag_seconds"] <= max_lag_s if source["lag_seconds"] is not None else source["state"] != "streaming")
        for source in status["sources"]
    )


def _watch(reader: Reader, as_json: bool) -> None:
    """Until Ctrl-C: redraw on a terminal, else a line now and then."""
    try:
        if sys.stdout.isatty() and not as_json:
            _redraw(reader)
        while True:
            status = reader.status()
            click.echo(json.dumps(status, ensure_ascii=False) if as_json else _line(status))
            time.sleep(WATCH_S if as_json else WATCH_LINE_S)
    except KeyboardInterrupt:
        sys.exit(EXIT_FINE)


def _redraw(reader: Reader) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, screen=False) as live:
        while True:
            try:
                live.update(_shown(reader.status()), refresh=True)
            except LedgertailError as error:  # such as the moment in which the daemon starts: look again
                live.update(Text(error.message, "red"), refresh=True)
            time.sleep(WATCH_S)


def _line(status: dict[str, Any]) -> str:
    parts = [time.strftime("%H:%M:%S"), text(f"cli.status.{status['daemon']}")]
    for source in status["sources"]:
        lag = f"{_seconds(source['lag_seconds'])} {_bytes(source['lag_bytes'])}"
        place = (source["position"] or "-").partition(" ")[0]
        parts.append(f"{source['name']} {_state(source)} {place} {lag} {source['changes_per_second']:g}/s")
    return "; ".join(parts)


def _shown(status: dict[str, Any]) -> Group:
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    store = status["store"]
    batch = text("cli.status.batch", batch=store["batch_seq"], at=store["applied_at"]) if store["batch_seq"] is not None else ""
    table = Table(box=SIMPLE, show_edge=False)
    for name, justify in (("source", "left"), ("state", "left"), ("position", "left"), *((n, "right") for n in _NUMBERS)):
        table.add_column(text(f"cli.status.column.{name}"), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for source in status["sources"]:
        table.add_row(*_cells(source))
    errors = [line for source in status["sources"] if (error := source["last_error"]) for line in _error(source["name"], error)]
    return Group(Text(f"{text('cli.status.' + status['daemon'])}  {store['url']}  {batch}".rstrip()), table, *errors)


_NUMBERS = ("behind_seconds", "behind_bytes", "retained", "rate", "quarantined")
_COLORS = {"streaming": "green", "snapshot": "cyan", "paused": "yellow", "halted": "red", "down": "red"}


def _cells(source: dict[str, Any]) -> list[Any]:
    from rich.text import Text

    return [
        Text(source["name"]),
        Text(_state(source), _COLORS[source["state"]]),
        Text(_position(source)),
        Text(_seconds(source["lag_seconds"])),
        Text(_bytes(source["lag_bytes"])),
        Text(_retained(source)),
        Text(f"{source['changes_per_second']:,.0f}"),
        Text(f"{source['quarantined']:,}", "red" if source["quarantined"] else ""),
    ]


def _state(source: dict[str, Any]) -> str:
    state = text(f"cli.status.state.{source['state']}")
    copied = source["snapshot"]
    if copied is None:
        return state
    progress = f"{copied['rows_done']:,}/~{copied['rows_estimated']:,}" if copied["rows_estimated"] else f"{copied['rows_done']:,}"
    return f"{state} ({text('cli.status.copied', rows=progress)})"


def _error(name: str, error: dict[str, Any]) -> list[Any]:
    from rich.text import Text

    return [
        Text(f"{name}: {error['message']} [{error['code']}] {error['at']}", "red"),
        Text(f"  {text('cli.remedy')}: {error['hint']}") if error["hint"] else Text(""),
    ]


def _position(source: dict[str, Any]) -> str:
    """Of a binlog the file and offset, and the GTIDs on a line of their own."""
    place, *told = (source["position"] or "-").split(" ")
    return "\n".join([place, *(value.removeprefix("gtid=") for value in told if value.startswith("gtid="))])


def _retained(source: dict[str, Any]) -> str:
    """What the server keeps for us, or how long it still does."""
    if source["purged_in_seconds"] is not None:
        return text("cli.status.purged", left=_seconds(source["purged_in_seconds"]))
    return "-" if source["retained_bytes"] is None else _bytes(source["retained_bytes"])


def _bytes(size: int | None) -> str:
    if size is None:
        return "?"
    amount, unit = float(size), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 or amount >= 100 else f"{amount:.1f} {_UNITS[unit]}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return f"{minutes:.0f} min" if minutes < 60 else f"{hours:.1f} h" if hours < 48 else f"{days:.1f} d"
