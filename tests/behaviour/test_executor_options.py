"""Bad options, bad databases, bad declarations: each a clear error at the earliest moment."""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tenacity
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url

from durable_sync import (
    ConfigurationError,
    DatabaseVersionError,
    DurableExecutor,
    InvalidInputError,
    TaskContext,
    TaskRegistry,
    metadata,
)
from tests.behaviour.conftest import NewExecutor
from tests.paths import every_path, one_database
from tests.processes import Script

SOON = 10.0


# the executor's own options


@one_database
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_workers", 0),
        ("max_workers", 2.5),
        ("max_workers", True),
        ("queues", "mails"),
        ("queues", []),
        ("queues", [""]),
        ("queues", [1]),
        ("lease", 0),
        ("lease", 0.5),
        ("lease", "10"),
        ("lease", float("inf")),
        ("poll_interval", 0),
        ("poll_interval", -1),
        ("poll_interval", timedelta(0)),
        ("max_payload_bytes", 0),
        ("max_payload_bytes", "8 MiB"),
        ("max_children", -1),
        ("table_prefix", "durable-"),
        ("table_prefix", "x; DROP TABLE"),
        ("table_prefix", "x" * 31),
        ("schema", ""),
        ("schema", 3),
        ("name", ""),
        ("name", "x" * 256),
        ("name", "a\nb"),
        ("tasks", "module"),
        ("tasks", [print]),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(url: str, option: str, value: Any) -> None:
    """A bad option raises `ConfigurationError` in the constructor, and names the option."""
    named = "queue" if option == "queues" else option
    with pytest.raises(ConfigurationError, match=named):
        DurableExecutor(url, **{option: value})


@one_database
def test_an_unknown_option_is_refused(url: str) -> None:
    """An option that doesn't exist is a TypeError, as for any Python call."""
    with pytest.raises(TypeError, match="max_worker"):
        DurableExecutor(url, max_worker=3)


def test_the_constructor_does_not_connect(new_executor: NewExecutor, engine: Engine, url: str) -> None:
    """Making an executor, and declaring tasks, touches no database; the first enqueue makes the tables."""
    executor = new_executor()

    @executor.task
    def work() -> None: ...

    if url.startswith("sqlite"):
        assert not Path(url.removeprefix("sqlite:///")).exists()
    assert inspect(engine).get_table_names() == []
    executor.enqueue(work)
    assert "durable_executions" in inspect(engine).get_table_names()


def test_a_prefix_of_the_users_own(new_executor: NewExecutor, engine: Engine) -> None:
    """`table_prefix` keeps two sets of tables in one database apart."""
    registry = TaskRegistry()

    @registry.task
    def work() -> str:
        return "done"

    ours, theirs = new_executor(tasks=registry, table_prefix="our_"), new_executor(tasks=registry)
    ours.start()
    theirs.enqueue(work)

    assert ours.enqueue(work).result(timeout=SOON) == "done"
    theirs_left = theirs.enqueue(work).get_execution()
    assert theirs_left.started_at is None
    names = set(inspect(engine).get_table_names())
    assert {"our_executions", "our_executors", "durable_executions", "durable_executors"} <= names


@pytest.mark.parametrize("database", ["postgresql", "postgresql-portable"], indirect=True)
def test_a_schema_of_the_users_own(new_executor: NewExecutor, engine: Engine) -> None:
    """`schema` says where the tables are, in databases that have schemas; indexes and messages go there too."""
    with engine.begin() as connection:
        connection.execute(text('CREATE SCHEMA "Jobs"'))
    executor = new_executor(schema="Jobs")
    executor.start()

    @executor.task
    def work() -> str:
        return "done"

    assert executor.enqueue(work).result(timeout=SOON) == "done"
    assert inspect(engine).get_table_names() == []
    assert "durable_executions" in inspect(engine).get_table_names(schema="Jobs")


def test_the_metadata_is_what_is_made(new_executor: NewExecutor, engine: Engine) -> None:
    """`durable_sync.metadata`, for Alembic, names the tables and columns that `migrate` makes."""
    new_executor().migrate()

    made = {
        name: {column["name"] for column in inspect(engine).get_columns(name)}
        for name in inspect(engine).get_table_names()
    }
    assert made == {table.name: {column.name for column in table.columns} for table in metadata.sorted_tables}


@one_database
@pytest.mark.parametrize("kind", ["url", "engine"])
def test_a_url_object_or_an_engine(url: str, kind: str) -> None:
    """A database may be given as a URL object or an Engine, whose own pool is left alone."""
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=1)
    with engine.connect(), DurableExecutor(make_url(url) if kind == "url" else engine) as executor:
        result = executor.enqueue(executor.task(id="one")(lambda: 1)).result(timeout=SOON)
    engine.dispose()
    assert result == 1


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_an_engine_with_its_own_isolation(url: str, level: str) -> None:
    """The library's transactions have an isolation level of their own, whatever that of the user's engine is."""
    engine = create_engine(url, isolation_level=level)
    executor = DurableExecutor(engine, poll_interval=0.05)

    @executor.task
    def work(number: int) -> int:
        return number

    with executor:
        handles = executor.enqueue_many([work.options(key="k").bind(1), work.options(key="k").bind(2), work.bind(3)])
        assert [handle.created for handle in handles] == [True, False, True]
        assert [handle.result(timeout=SOON) for handle in handles] == [1, 1, 3]
    engine.dispose()


def test_a_relative_path_is_of_the_folder_at_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A relative path means the current folder when the executor was made, wherever the program goes later."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    executor = DurableExecutor("sqlite:///jobs.db", lease=1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with executor:
        result = executor.enqueue(executor.task(id="one")(lambda: 1)).result(timeout=SOON)

    assert result == 1
    assert (tmp_path / "jobs.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert caplog.text == ""


# the database


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("jobs.db", "not a database URL"),
        ("", "not a database URL"),
        (None, "URL or Engine"),
        (Path("jobs.db"), "URL or Engine"),
        ("postgresql://host:port/jobs", "not a database URL"),
        ("nosuchsql://host/jobs", "check the URL's scheme"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
        ("sqlite:///file:jobs?mode=memory&uri=true", "in-memory"),
        ("sqlite:///file::memory:?cache=shared&uri=true", "in-memory"),
        ("sqlite+aiosqlite:///jobs.db", "aiosqlite|async"),
        ("sqlite:////no/such/folder/jobs.db", "no directory /no/such/folder"),
        ("sqlite:////tmp", "is a directory"),
    ],
)
def test_a_wrong_url_is_refused(database: Any, says: str) -> None:
    """A database that can't serve raises `ConfigurationError` in the constructor, and says why."""
    with pytest.raises(ConfigurationError, match=says):
        DurableExecutor(database)


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [
        ("postgresql://user@host/jobs", "psycopg", "postgres"),
        ("postgresql+psycopg2://user@host/jobs", "psycopg2", "postgres"),
        ("mysql://user@host/jobs", "pymysql", "mysql"),
        ("mariadb+pymysql://user@host/jobs", "pymysql", "mysql"),
    ],
)
def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch, url: str, driver: str, extra: str) -> None:
    """Without the database's driver, the error names the extra that installs it."""
    monkeypatch.setitem(sys.modules, driver, None)

    with pytest.raises(ConfigurationError, match=rf"durable-sync\[{extra}\]"):
        DurableExecutor(url)


def test_a_missing_driver_of_an_unknown_database() -> None:
    """A driver that no extra installs is named all the same."""
    with pytest.raises(ConfigurationError, match=r"oracledb|cx_Oracle"):
        DurableExecutor("oracle://user@host/jobs")


def test_a_password_is_not_shown() -> None:
    """An error about a URL hides its password."""
    with pytest.raises(ConfigurationError) as caught:
        DurableExecutor("nosuchsql://user:secret@host/jobs")

    assert "secret" not in str(caught.value)


@pytest.fixture
def a_file(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite:///"))


def test_a_corrupt_file_is_told_of(a_file: Path, sqlite_url: str) -> None:
    """A file that is no SQLite database is a `ConfigurationError` at the first use, and is left as it was."""
    a_file.write_bytes(b"not a database" * 100)
    executor = DurableExecutor(sqlite_url)

    with pytest.raises(ConfigurationError, match="not a database"):
        executor.start()
    assert a_file.read_bytes() == b"not a database" * 100


def test_a_read_only_file_is_told_of(a_file: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that can't be written is a `ConfigurationError` in the constructor."""
    sqlite3.connect(a_file).close()
    a_file.touch()
    a_file.chmod(0o444)
    # Root may write whatever the mode says.
    monkeypatch.setattr("os.access", lambda path, mode: False)

    with pytest.raises(ConfigurationError, match=r"durable\.db is read-only"):
        DurableExecutor(sqlite_url)


def test_a_database_opened_read_only_is_told_of(a_file: Path, sqlite_url: str) -> None:
    """A database that is opened for reading only is a `ConfigurationError` at the first use."""
    DurableExecutor(sqlite_url, table_prefix="other_").migrate()

    with pytest.raises(ConfigurationError, match=r"read-?only"):
        DurableExecutor(f"sqlite:///file:{a_file}?mode=ro&uri=true").start()


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_database_that_does_not_exist_is_told_of(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that knows no such database, or no such user, is a `ConfigurationError` without the password."""
    # Some drivers don't tell such an error from an outage, which is waited out.
    monkeypatch.setattr("durable_sync.desk.CALLER_PATIENCE", 0.1)
    made = make_url(url)
    nowhere = made.set(database="no_such_database")
    stranger = made.set(username="stranger", password="wrong secret")

    for bad, names in ((nowhere, "no_such_database"), (stranger, "stranger")):
        with pytest.raises(ConfigurationError, match=names) as caught:
            DurableExecutor(bad).start()
        assert "wrong secret" not in str(caught.value)


# declarations


async def an_async_function() -> None: ...


def a_generator() -> Any:
    yield 1


class Holder:
    def method(self) -> None: ...

    @classmethod
    def class_method(cls) -> None: ...

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (an_async_function, "async"),
        (a_generator, "generator"),
        (Holder().method, "method"),
        (Holder.method, "method"),
        (Holder.class_method, "method"),
        (Holder.__dict__["class_method"], "method"),
        (Holder(), "not a plain function"),
        (Holder, "not a plain function"),
        (partial(print, 1), "not a plain function"),
        (print, "not a plain function"),
        (lambda: None, "lambda"),
    ],
)
def test_what_is_no_plain_function_is_refused(function: Callable[..., Any], says: str) -> None:
    """Only a plain function with a name can be a task; the error says what it is instead."""
    with pytest.raises(ConfigurationError, match=says):
        TaskRegistry().task(function)


def test_a_lambda_with_an_id() -> None:
    """A lambda may be a task if it is given an id."""
    assert TaskRegistry().task(id="one")(lambda: 1).id == "one"


@pytest.mark.parametrize("id", ["", "a b", "é", "a/b", "x" * 201, 5, "a\n"])
def test_a_malformed_id_is_refused(id: Any) -> None:
    """Ids are letters, digits, `_`, `-` and `.`, up to 200 of them."""
    with pytest.raises(ConfigurationError, match="malformed"):
        TaskRegistry().task(id=id)(lambda: None)


def test_ids_of_every_kind() -> None:
    """All allowed characters are allowed, up to the longest id."""
    registry = TaskRegistry()
    for id in ("a", "A.b-c_0", "0", "x" * 200):
        assert registry.task(id=id)(lambda: None).id == id


@one_database
def test_a_duplicate_id_is_refused(new_executor: NewExecutor) -> None:
    """An id that is taken is refused where the second task is declared, or its registry is given."""
    one, other = TaskRegistry(), TaskRegistry()

    @one.task
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match="'work' is registered already"):
        one.task(id="work")(lambda: None)
    other.task(id="work")(lambda: None)
    with pytest.raises(ConfigurationError, match="'work' is registered already"):
        new_executor(tasks=[one, other])
    with pytest.raises(ConfigurationError, match="'work' is registered already"):
        new_executor(tasks=one).task(id="work")(lambda: None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "30"),
        ("timeout", float("inf")),
        ("timeout", timedelta(0)),
        ("retry", -1),
        ("retry", 1.5),
        ("retry", True),
        ("retry", "3"),
        ("retry", tenacity.AsyncRetrying()),
        ("validate", "a function"),
        ("queue", ""),
        ("queue", "a\n"),
        ("queue", "a "),
        ("queue", "x" * 201),
        ("queue", None),
        ("priority", 1.5),
        ("priority", 2**31),
        ("priority", True),
        ("delay", -1),
        ("delay", "1"),
        ("max_recoveries", -1),
        ("max_recoveries", 1.5),
    ],
)
def test_a_task_option_that_makes_no_sense_is_refused(option: str, value: Any) -> None:
    """A bad option raises `ConfigurationError` at the declaration, and names option and task."""

    def work() -> None: ...

    with pytest.raises(ConfigurationError, match=option):
        TaskRegistry().task(**{option: value})(work)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("delay", -1),
        ("delay", "soon"),
        ("run_at", datetime(2030, 1, 1)),  # noqa: DTZ001
        ("run_at", "2030-01-01"),
        ("priority", "high"),
        ("priority", -(2**31) - 1),
        ("queue", ""),
        ("timeout", 0),
        ("timeout", lambda attempt: 1),
        ("retry", -1),
        ("retry", tenacity.Retrying()),
        ("key", ""),
    ],
)
def test_an_enqueue_option_that_makes_no_sense_is_refused(option: str, value: Any) -> None:
    """`options` checks what it is given at once; `timeout` and `retry` are numbers there."""

    @TaskRegistry().task
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match=option):
        work.options(**{option: value})


def test_unknown_options_are_refused_with_a_hint() -> None:
    """An option name that doesn't exist is refused with the nearest one that does, or all of them."""

    @TaskRegistry().task
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match="'retries'; did you mean 'retry'"):
        TaskRegistry().task(retries=3)(lambda: None)
    with pytest.raises(ConfigurationError, match="known are delay, id, max_recoveries"):
        TaskRegistry().task(zzz=3)(lambda: None)
    with pytest.raises(ConfigurationError, match="'prio'; did you mean 'priority'"):
        work.options(prio=1)
    with pytest.raises(ConfigurationError, match="validate"):
        work.options(validate=print)


def test_delay_and_run_at_exclude_each_other() -> None:
    """Both in one call are refused; in a chain the later one holds."""

    @TaskRegistry().task
    def work() -> None: ...

    moment = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    with pytest.raises(ConfigurationError, match="not both"):
        work.options(delay=1, run_at=moment)

    assert work.options(delay=1).options(run_at=moment).overrides.delay is None
    assert work.options(run_at=moment).options(delay=1).overrides.run_at is None


def test_options_make_a_copy() -> None:
    """`options` leaves the task as it was; options of a chain add up."""

    @TaskRegistry().task
    def work() -> None: ...

    urgent = work.options(priority=9).options(queue="fast")

    assert (work.overrides.priority, urgent.overrides.priority, urgent.overrides.queue) == (None, 9, "fast")
    assert urgent.id == work.id


@one_database
def test_input_is_named_before_the_database_is_touched(new_executor: NewExecutor, engine: Engine) -> None:
    """Bad input is refused without connecting: not even the tables are made."""
    executor = new_executor()

    @executor.task
    def double(ctx: TaskContext, number: int) -> int: ...

    with pytest.raises(InvalidInputError):
        executor.enqueue(double, "two")
    assert inspect(engine).get_table_names() == []


# migrations


def test_migrate_may_be_repeated(new_executor: NewExecutor) -> None:
    """`migrate` on up-to-date tables does nothing, and loses nothing."""
    executor = new_executor()

    @executor.task
    def work() -> None: ...

    executor.migrate()
    handle = executor.enqueue(work)
    new_executor().migrate()
    assert handle.get_execution().task_id == "work"


@every_path
def test_absent_tables_are_told_of(new_executor: NewExecutor, engine: Engine) -> None:
    """With `migrate=False`, `start` and `enqueue` on absent tables raise `DatabaseVersionError`, and make none."""
    executor = new_executor(migrate=False)

    @executor.task
    def work() -> None: ...

    with pytest.raises(DatabaseVersionError, match=r"absent.*migrate\(\)"):
        executor.start()
    with pytest.raises(DatabaseVersionError, match="absent"):
        executor.enqueue(work)
    assert inspect(engine).get_table_names() == []

    executor.migrate()
    executor.start()
    assert executor.enqueue(work).wait(timeout=SOON).is_finished


def test_newer_tables_are_refused(new_executor: NewExecutor, engine: Engine) -> None:
    """Tables that a later version of the library has made are refused, and left as they are."""
    new_executor().migrate()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO durable_versions (version, applied_at) VALUES (999, 0)"))

    for migrate in (True, False):
        with pytest.raises(DatabaseVersionError, match=r"version 999, newer.*upgrade durable-sync"):
            new_executor(migrate=migrate).start()
    with pytest.raises(DatabaseVersionError):
        new_executor().migrate()


@pytest.mark.parametrize("migrate", [True, False])
@one_database
def test_a_refused_start_leaves_no_thread(new_executor: NewExecutor, engine: Engine, migrate: bool) -> None:
    """A `start` that raises has started no loop."""
    new_executor().migrate()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO durable_versions (version, applied_at) VALUES (999, 0)"))

    with pytest.raises(DatabaseVersionError):
        new_executor(migrate=migrate, name="refused").start()

    assert not [thread for thread in threading.enumerate() if thread.name.endswith("-refused")]


@every_path
def test_threads_that_migrate_at_once(new_executor: NewExecutor, engine: Engine) -> None:
    """Several executors may meet absent tables at the same time; each finds them made."""
    executors = [new_executor() for _ in range(4)]
    start = threading.Barrier(4)
    errors: list[Exception] = []

    def migrate(executor: DurableExecutor) -> None:
        start.wait(SOON)
        try:
            executor.migrate()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(inspect(engine).get_table_names()) == 4


MIGRATE_WHEN_TOLD = """
    import sys
    from durable_sync import DurableExecutor

    executors = [DurableExecutor(sys.argv[1], table_prefix=f"p{number}_") for number in range(3)]
    print("ready", flush=True)
    for executor in executors:
        sys.stdin.readline()
        executor.migrate()
        print("made", flush=True)
"""


def test_processes_that_migrate_at_once(url: str, engine: Engine) -> None:
    """Several processes may migrate at the same time; each finds the tables made."""
    with Script(MIGRATE_WHEN_TOLD, url) as first, Script(MIGRATE_WHEN_TOLD, url) as second:
        assert (first.hear(), second.hear()) == ("ready", "ready")
        for _ in range(3):
            first.say("go")
            second.say("go")
            assert (first.hear(), second.hear()) == ("made", "made")

    assert len(inspect(engine).get_table_names()) == 12


# names and loggers


@one_database
def test_the_name_is_shown(new_executor: NewExecutor, engine: Engine) -> None:
    """`name` is in the threads' names and in the table of executors."""
    executor = new_executor(name="Wörker 7")
    executor.start()

    assert any(thread.name.endswith("-Wörker 7") for thread in threading.enumerate())
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM durable_executors")).scalar() == "Wörker 7"


@one_database
def test_a_logger_of_the_users_own(new_executor: NewExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """`logger` takes the background's lines, instead of the loggers under `durable_sync`."""
    executor = new_executor(logger=logging.getLogger("mine"))
    executor.start()

    @executor.task
    def work() -> None:
        raise LookupError

    with caplog.at_level(logging.DEBUG):
        handle = executor.enqueue(work)
        handle.wait(timeout=SOON)

    lines = [record for record in caplog.records if handle.execution_id in record.getMessage()]
    assert lines
    assert {record.name for record in lines} == {"mine"}
