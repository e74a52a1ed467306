"""Statements to try the gateway with: `attacks.py`, `harmless.py`, and `setup.sql`, the database they are about."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from gateway.sql_functions import FunctionCatalog, FunctionEntry

FOLDER = Path(__file__).parent
SETUP = FOLDER / "setup.sql"
SNAPSHOT = FOLDER / "snapshot.json"


def recorded_catalog() -> FunctionCatalog:
    """Return what PostgreSQL 15 with contrib said about its functions after setup.sql, without a server.

    `scripts/check-corpus --record` writes the file; PostgreSQL's own functions come from the packaged list.
    """
    packaged = FunctionCatalog.packaged()
    own = [
        entry for named in (packaged.functions, packaged.operators) for entries in named.values() for entry in entries
    ]
    rows = [FunctionEntry(**row) for row in json.loads(SNAPSHOT.read_text(encoding="utf-8"))]
    return FunctionCatalog.from_rows([asdict(entry) for entry in (*own, *rows)])
