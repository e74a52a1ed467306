"""What the database role could still do if the gateway's own layers were gone, and the SQL for one that could not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

# Memberships that reach past SELECT on granted tables (PostgreSQL documentation, 22.5 Predefined Roles).
_RISKY_ROLES: Final = (
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_signal_backend",
    "pg_maintain",
    "pg_checkpoint",
    "pg_create_subscription",
)

_SQL: Final = """
WITH me AS (SELECT * FROM pg_roles WHERE rolname = current_user),
tables AS (SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relowner, c.relkind FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f', 'v') AND NOT c.relispartition
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'),
writable AS (SELECT name FROM tables WHERE has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
  OR has_any_column_privilege(oid, 'INSERT, UPDATE')),
owned AS (SELECT name FROM tables, me WHERE relowner = me.oid AND relkind <> 'v')
SELECT json_build_object(
  'user', current_user, 'database', current_database(), 'server', current_setting('server_version'),
  'read_only', current_setting('transaction_read_only') = 'on',
  'standby', pg_is_in_recovery(),
  'superuser', (SELECT rolsuper FROM me), 'bypasses_rls', (SELECT rolbypassrls FROM me),
  'creates', (SELECT rolcreaterole OR rolcreatedb FROM me), 'replicates', (SELECT rolreplication FROM me),
  'memberships', (SELECT json_agg(r.rolname ORDER BY r.rolname) FROM pg_roles r, me
    WHERE NOT me.rolsuper AND r.rolname = ANY($1::text[]) AND pg_has_role(me.oid, r.oid, 'MEMBER')),
  'owned', (SELECT count(*) FROM owned),
  'owned_names', (SELECT json_agg(name) FROM (SELECT name FROM owned ORDER BY 1 LIMIT 5) x),
  'writable', (SELECT count(*) FROM writable),
  'writable_names', (SELECT json_agg(name) FROM (SELECT name FROM writable ORDER BY 1 LIMIT 5) x),
  'creates_in', (SELECT json_agg(nspname ORDER BY nspname) FROM pg_namespace
    WHERE nspname !~ '^pg_' AND has_schema_privilege(oid, 'CREATE')),
  'extensions', (SELECT json_agg(extname ORDER BY extname) FROM pg_extension e
    WHERE extname IN ('dblink', 'adminpack', 'file_fdw', 'pg_cron') AND EXISTS (
      SELECT FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
      WHERE d.classid = 'pg_proc'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
        AND has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(p.pronamespace, 'USAGE'))),
  'languages', (SELECT json_agg(lanname ORDER BY lanname) FROM pg_language
    WHERE NOT lanpltrusted AND lanname NOT IN ('c', 'internal')),
  'schemas', (SELECT json_agg(nspname ORDER BY nspname) FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'))::text"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posture:
    """What a role may do beside reading. risks: one sentence each, the worst first."""

    user: str
    database: str
    server: str
    read_only: bool
    standby: bool
    risks: tuple[str, ...]
    schemas: tuple[str, ...]


def _few(names: list[str] | None, count: int) -> str:
    shown = ", ".join(names or [])
    return f"{shown}, …" if count > len(names or []) else shown


def _tables(count: int) -> str:
    return f"{count} table" if count == 1 else f"{count} tables"


def _risks(found: dict[str, Any]) -> list[str]:
    risks = []
    if found["superuser"]:
        risks.append("is a superuser: no grant limits it")
    if found["bypasses_rls"]:
        risks.append("bypasses row security")
    if found["creates"]:
        risks.append("may create roles or databases")
    if found["replicates"]:
        risks.append("may replicate: it reads everything")
    risks += [f"is a member of {role}" for role in found["memberships"] or []]
    if found["owned"]:
        risks.append(f"owns {_tables(found['owned'])} ({_few(found['owned_names'], found['owned'])})")
    if found["writable"]:
        risks.append(f"may write {_tables(found['writable'])} ({_few(found['writable_names'], found['writable'])})")
    if found["creates_in"]:
        risks.append(f"may create objects in {', '.join(found['creates_in'])}")
    risks += [f"may call extension {name}, which reaches beyond this database" for name in found["extensions"] or []]
    risks += [f"untrusted language {name} is installed" for name in found["languages"] or []]
    return risks


async def posture_of(connection: asyncpg.Connection) -> Posture:
    """Return what the role of `connection` may do. Two round trips."""
    found = orjson.loads(await connection.fetchval(_SQL, list(_RISKY_ROLES)))
    return Posture(
        user=found["user"],
        database=found["database"],
        server=found["server"],
        read_only=found["read_only"],
        standby=found["standby"],
        risks=tuple(_risks(found)),
        schemas=tuple(found["schemas"] or ()),
    )


def least_privilege_sql(posture: Posture, *, schemas: Sequence[str] = (), role: str = "gateway_reader") -> str:
    """Return the SQL that makes a role which can do nothing but read; for a superuser to review and run.

    schemas: those that it may read; left out, all that there are. The role has no password yet: a text that people copy
    should hold none.
    """

    def name(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    reader, database = name(role), name(posture.database)
    lines = [
        f"-- A role that can only read the database {posture.database}. Run it there, as a superuser.",
        f"CREATE ROLE {reader} LOGIN NOINHERIT CONNECTION LIMIT 50;",
        f"-- It cannot log in before it has a password; psql asks for one with: \\password {role}",
        f"ALTER ROLE {reader} SET default_transaction_read_only = on;",
        f"ALTER ROLE {reader} SET statement_timeout = '30s';",
        f"GRANT CONNECT ON DATABASE {database} TO {reader};",
        "-- What PUBLIC may, every role may: grant these two to those that need them.",
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC;",
    ]
    if "public" in posture.schemas:
        lines.append("REVOKE CREATE ON SCHEMA public FROM PUBLIC;")
    lines.append("-- The default covers tables that the role running this makes later; add FOR ROLE for other owners.")
    for schema in schemas or posture.schemas:
        lines += [
            f"GRANT USAGE ON SCHEMA {name(schema)} TO {reader};",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {name(schema)} TO {reader};",
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA {name(schema)} GRANT SELECT ON TABLES TO {reader};",
        ]
    return "\n".join(lines)
