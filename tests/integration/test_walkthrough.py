"""The walkthrough of examples/walkthrough: each command of its README gives what stands there. LEDGERTAIL_TEST_WRITE=1 writes it anew."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.servers.account import environment
from tests.servers.postgres import Database

README = Path(__file__).parents[2] / "examples" / "walkthrough" / "README.md"
SHOP = README.with_name("shop.sql")
BLOCK = re.compile(r"```\n\$ (.*?)\n(.*?)```", re.DOTALL)
_MOMENT = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[0-9.+:]*"
VARYING = re.compile(rf"[0-9a-f]{{64}}|[0-9a-f]{{8}}-[0-9a-f-]{{27}}|[0-9A-F]+/[0-9A-F]+|{_MOMENT}|, \d+,")


def test_every_step_gives_what_it_says(database: Database, tmp_path: Path) -> None:
    written, told = README.read_text("utf-8"), []
    position = 0
    for block in BLOCK.finditer(written):
        told += [written[position : block.start(2)], run(block[1], database, tmp_path)]
        position = block.end(2)
    text = "".join([*told, written[position:]])
    if os.environ.get("LEDGERTAIL_TEST_WRITE"):
        README.write_text(text, "utf-8")
    assert VARYING.sub("…", text) == VARYING.sub("…", written)


def run(command: str, database: Database, folder: Path) -> str:
    """What a command of the README prints; `psql` and `sed` are done by ourselves, as neither need be there."""
    words = shlex.split(command)
    if words[0] == "psql":
        database.connection.execute((SHOP.read_text("utf-8") if words[2] == "-f" else words[3]).encode())
        return ""
    if words[0] == "sed":
        file = folder / words[3]
        old, new = words[2].split("|")[1:3]
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, database.url if "@" in new else new), "utf-8")
        return ""
    program = [sys.executable, "-c", "from cdc.cli import main; main()", *words[1:]]
    settings = {**environment(), "LEDGERTAIL_LANG": "en", "COLUMNS": "120", "PYTHONPATH": str(README.parents[2])}
    done = subprocess.run(
        program, cwd=folder if words[1] == "init" else folder / "books", env=settings, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.replace(str(folder), "").replace("/books/", "books/")
