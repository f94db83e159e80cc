"""Where the answer of a command goes, and in which format: shared by the commands that read the store."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from cdc.errors import LedgertailError
from cdc.texts import text

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_ROWS_MAX = 1_000
F = TypeVar("F", bound=Callable[..., Any])


def output_options(command: F) -> F:
    """`--format` (as `kind`) and `--output`."""
    kinds = click.Choice(["table", "csv", "json", "parquet"])
    kind = click.option("--format", "kind", type=kinds, default="table", help=text("cli.query.format"))
    path = click.Path(path_type=Path, dir_okay=False)
    return kind(click.option("--output", type=path, metavar=text("cli.meta.file"), help=text("cli.query.output"))(command))


def check_output(kind: str, output: Path | None) -> None:
    """Raises UsageError for what does not belong on a terminal."""
    if kind == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError(text("cli.query.parquet_terminal"))


def write(answer: pa.RecordBatchReader, kind: str, output: Path | None) -> None:
    """Write an answer; a file only appears, or changes, once it is whole."""
    from cdc.cli import formats

    with _target(output) as target:
        if kind != "table":
            formats.WRITERS[kind](answer, target)
        elif formats.write_table(answer, target, TABLE_ROWS_MAX, wide=output is not None or not sys.stdout.isatty()):
            click.echo(text("cli.query.truncated", rows=TABLE_ROWS_MAX), err=True)


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise LedgertailError("cli.output", path=output, fault=error.strerror or error) from error
    finally:
        part.unlink(missing_ok=True)
