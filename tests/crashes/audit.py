"""A log inside the database of every change to an execution, written by a trigger behind the library's back."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import Engine

from tests.crashes.checker import Final, Move

_CHANGED = "OLD.status <> NEW.status OR OLD.claim_token <> NEW.claim_token OR OLD.finished_at IS NOT NULL"
_INSERT = (
    "INSERT INTO audit (execution_id, old_status, new_status, old_token, new_token, run_output) "
    "VALUES (NEW.id, OLD.status, NEW.status, OLD.claim_token, NEW.claim_token, NEW.run_output);"
)
_COLUMNS = (
    "execution_id VARCHAR(36), old_status VARCHAR(24), new_status VARCHAR(24), "
    "old_token BIGINT, new_token BIGINT, run_output TEXT"
)
_SCRIPTS = {
    "sqlite": [
        f"CREATE TABLE audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, {_COLUMNS})",
        f"CREATE TRIGGER audit_move AFTER UPDATE ON durable_executions WHEN {_CHANGED} BEGIN {_INSERT} END",
    ],
    "postgresql": [
        f"CREATE TABLE audit (seq BIGSERIAL PRIMARY KEY, {_COLUMNS})",
        f"CREATE FUNCTION audit_move() RETURNS trigger AS $$ BEGIN {_INSERT} RETURN NULL; END $$ LANGUAGE plpgsql",
        (
            "CREATE TRIGGER audit_move AFTER UPDATE ON durable_executions FOR EACH ROW "
            f"WHEN ({_CHANGED}) EXECUTE FUNCTION audit_move()"
        ),
    ],
    "mysql": [
        f"CREATE TABLE audit (seq BIGINT PRIMARY KEY AUTO_INCREMENT, {_COLUMNS})",
        (
            "CREATE TRIGGER audit_move AFTER UPDATE ON durable_executions FOR EACH ROW "
            f"BEGIN IF {_CHANGED} THEN {_INSERT} END IF; END"
        ),
    ],
}


def install(engine: Engine) -> None:
    """Makes the log and its trigger; the library's tables are there already."""
    with engine.begin() as connection:
        for statement in _SCRIPTS[{"mariadb": "mysql"}.get(engine.dialect.name, engine.dialect.name)]:
            connection.exec_driver_sql(statement)


def moves(engine: Engine) -> list[Move]:
    """The log, in order."""
    query = text(
        "SELECT execution_id, old_status, new_status, old_token, new_token, run_output FROM audit ORDER BY seq"
    )
    with engine.connect() as connection:
        return [Move(*row[:5], _plain(row[5])) for row in connection.execute(query)]


def finals(engine: Engine) -> list[Final]:
    """The executions' rows."""
    query = text("SELECT id, status, run_output FROM durable_executions")
    with engine.connect() as connection:
        return [Final(row[0], row[1], _plain(row[2])) for row in connection.execute(query)]


def unfinished(engine: Engine) -> int:
    """How many executions have not finished."""
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM durable_executions WHERE finished_at IS NULL")
        return int(connection.execute(query).scalar_one())


def _plain(output: str | None) -> str | None:
    """The string in a JSON text."""
    return None if output is None else output.strip('"')
