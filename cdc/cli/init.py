"""`ledgertail init`: a commented config, rules and a chart to start from."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import click

from cdc.cli import config_option
from cdc.errors import ConfigError
from cdc.texts import language, text


@click.command("init", help=text("cli.init.help"), short_help=text("cli.init.short"))
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
@config_option
def command(folder: Path) -> None:
    contents = _template()
    for name in contents:
        if (folder / name).exists():
            raise ConfigError("cli.exists", path=folder / name)
    for name, content in contents.items():
        _write(folder / name, content)
    config = folder / "ledgertail.toml"
    written = "\n".join(f"  {folder / name}" for name in contents)
    click.echo(text("cli.init.done", files=written, config=config, export="export SHOP_PASSWORD=...").strip())


def _template() -> dict[Path, bytes]:
    """The template's files in this process's language, by their paths in the new folder."""
    with as_file(files("cdc").joinpath("templates", language())) as template:
        return {path.relative_to(template): path.read_bytes() for path in sorted(template.rglob("*")) if path.is_file()}


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise ConfigError("cli.output", path=path, fault=error.strerror or error) from error
