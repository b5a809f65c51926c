"""`executor.using`: an execution exists exactly if the user's own transaction commits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from durable_sync import (
    ConfigurationError,
    DatabaseVersionError,
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    ExecutorShutdownError,
    InvalidInputError,
    TaskNotRegisteredError,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.paths import EVERY_PATH, every_path, one_database

SOON = 10.0


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def orders(engine: Engine) -> Engine:
    """The user's engine, with a table of the user's own."""
    Base.metadata.create_all(engine)
    return engine


def order_ids(engine: Engine) -> list[int]:
    with Session(engine) as session:
        return list(session.scalars(select(Order.id).order_by(Order.id)))


# commit and roll back


def test_rows_and_executions_are_committed_together(executor: DurableExecutor, orders: Engine) -> None:
    """What the session commits is there as a whole: the task finds the row that was added beside it."""

    @executor.task
    def ship(order_id: int) -> list[int]:
        return order_ids(orders)

    with Session(orders) as session, session.begin():
        session.add(Order(id=7))
        handle = executor.using(session).enqueue(ship, 7)
        assert handle.created

    assert handle.result(timeout=SOON) == [7]


@every_path
def test_a_rollback_leaves_nothing(
    executor: DurableExecutor, orders: Engine, count_executions: Callable[[], int]
) -> None:
    """After a rollback neither row nor execution is there, and the handle raises `ExecutionNotFoundError`."""
    runs: list[int] = []

    @executor.task
    def ship(order_id: int) -> None:
        runs.append(order_id)

    with Session(orders) as session:
        session.add(Order(id=7))
        handle = executor.using(session).enqueue(ship, 7)
        session.rollback()

    with pytest.raises(ExecutionNotFoundError, match="not committed"):
        handle.result(timeout=SOON)
    assert count_executions() == 0
    assert order_ids(orders) == []
    executor.enqueue(ship, 8).wait(timeout=SOON)
    assert runs == [8]


@every_path
def test_nobody_sees_it_before_the_commit(
    executor: DurableExecutor, engine: Engine, count_executions: Callable[[], int]
) -> None:
    """Until the commit the execution is neither seen nor run by anybody; its handle raises."""
    ran = threading.Event()

    @executor.task
    def ship() -> None:
        ran.set()

    with engine.connect() as connection, connection.begin():
        handle = executor.using(connection).enqueue(ship)
        assert count_executions() == 0
        with pytest.raises(ExecutionNotFoundError):
            handle.get_execution()
        # Long enough for several looks of a running executor, which has nothing else to do.
        assert not ran.wait(0.2)

    assert handle.wait(timeout=SOON).status is ExecutionStatus.COMPLETED
    assert ran.is_set()


def test_a_session_that_fails_takes_the_execution_with_it(
    new_executor: NewExecutor, orders: Engine, count_executions: Callable[[], int]
) -> None:
    """When the user's own statement fails, what was enqueued beside it is gone too."""
    executor = new_executor()

    @executor.task
    def ship() -> None: ...

    executor.migrate()
    with Session(orders) as session, session.begin():
        session.add(Order(id=1))

    def sell_twice() -> None:
        with Session(orders) as session, session.begin():
            executor.using(session).enqueue(ship)
            session.add(Order(id=1))

    with pytest.raises(IntegrityError):
        sell_twice()
    assert count_executions() == 0


@every_path
def test_savepoints_are_kept_to(executor: DurableExecutor, orders: Engine) -> None:
    """What was enqueued in a savepoint goes with it when that is rolled back; the rest stays."""

    @executor.task
    def ship(order_id: int) -> int:
        return order_id

    with Session(orders) as session, session.begin():
        kept = executor.using(session).enqueue(ship, 1)
        with session.begin_nested() as savepoint:
            lost = executor.using(session).enqueue(ship, 2)
            savepoint.rollback()

    assert kept.result(timeout=SOON) == 1
    with pytest.raises(ExecutionNotFoundError):
        lost.get_execution()


# the kinds of transaction


@pytest.mark.parametrize("kind", ["session", "scoped_session", "connection"])
def test_every_kind_of_transaction(executor: DurableExecutor, engine: Engine, kind: str) -> None:
    """`using` takes a Session, a scoped_session and a Core Connection; `enqueue_many` works in each."""

    @executor.task
    def double(number: int) -> int:
        return 2 * number

    made: dict[str, Callable[[], Session | scoped_session[Session]]] = {
        "session": lambda: Session(engine),
        "scoped_session": lambda: scoped_session(sessionmaker(engine)),
        "connection": lambda: engine.connect(),
    }
    transaction = made[kind]()
    within = executor.using(transaction)
    handles = [*within.enqueue_many([double.bind(1), double.bind(2)]), within.enqueue(double, 3)]
    transaction.commit()
    transaction.close()

    assert [handle.result(timeout=SOON) for handle in handles] == [2, 4, 6]


@one_database
def test_a_session_is_used_for_several_transactions(executor: DurableExecutor, engine: Engine) -> None:
    """`using` is asked for anew in each transaction; what went before is not touched."""

    @executor.task
    def double(number: int) -> int:
        return 2 * number

    results: list[int] = []
    with Session(engine) as session:
        for number in range(5):
            handle = executor.using(session).enqueue(double, number)
            if number % 2:
                session.rollback()
            else:
                session.commit()
                results.append(handle.result(timeout=SOON))

    assert results == [0, 4, 8]


@one_database
def test_an_executor_that_is_not_started(
    new_executor: NewExecutor, engine: Engine, count_executions: Callable[[], int]
) -> None:
    """`using` makes the tables by a connection of its own when they are absent, and enqueues for others to run."""
    executor = new_executor()

    @executor.task
    def work() -> None: ...

    with Session(engine) as session, session.begin():
        executor.using(session).enqueue(work)

    assert count_executions() == 1


@every_path
def test_keys_within_a_transaction(new_executor: NewExecutor, engine: Engine) -> None:
    """A key that is active, committed or in this very transaction, is not enqueued again."""
    executor = new_executor()

    @executor.task
    def report() -> None: ...

    june = executor.enqueue(report.options(key="june"))
    with Session(engine) as session:
        within = executor.using(session)
        again = within.enqueue(report.options(key="june"))
        may = within.enqueue(report.options(key="may"))
        may_again = within.enqueue(report.options(key="may"))
        session.commit()

    assert (again.created, again.execution_id) == (False, june.execution_id)
    assert (may.created, may_again.created) == (True, False)
    assert may_again.get_execution() == may.get_execution()


# Not SQLite by the portable path, which nobody is on: Python's driver begins no transaction before a savepoint.
@pytest.mark.parametrize("database", [path for path in EVERY_PATH if path != "sqlite-portable"], indirect=True)
def test_a_key_that_was_rolled_back_is_free(new_executor: NewExecutor, engine: Engine) -> None:
    """A key enqueued in a transaction that was rolled back holds nothing."""
    executor = new_executor()

    @executor.task
    def report() -> None: ...

    with Session(engine) as session:
        executor.using(session).enqueue(report.options(key="june"))
        session.rollback()

    assert executor.enqueue(report.options(key="june")).created


@pytest.mark.parametrize(
    ("database", "level"),
    [
        ("postgresql", "READ COMMITTED"),
        ("postgresql", "REPEATABLE READ"),
        ("mariadb", "READ COMMITTED"),
        ("mariadb", "REPEATABLE READ"),
    ],
    indirect=["database"],
)
def test_a_key_taken_since_the_transaction_began(new_executor: NewExecutor, engine: Engine, level: str) -> None:
    """A key that others took since the user's transaction began is seen, whatever its isolation level."""
    executor = new_executor()

    @executor.task
    def report() -> None: ...

    executor.migrate()
    with engine.connect().execution_options(isolation_level=level) as connection:
        within = executor.using(connection)
        connection.execute(text("SELECT count(*) FROM durable_executions")).all()
        june = executor.enqueue(report.options(key="june"))
        again = within.enqueue(report.options(key="june"))
        connection.commit()

    assert (again.created, again.execution_id) == (False, june.execution_id)


def test_it_runs_no_ddl(executor: DurableExecutor, engine: Engine) -> None:
    """In the user's transaction `using` runs INSERT and SELECT, with savepoints where a conflict needs one."""

    @executor.task
    def work() -> None: ...

    statements: list[str] = []
    with engine.connect() as connection:
        event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        executor.using(connection).enqueue(work)
        executor.using(connection).enqueue(work.options(key="k"))
        connection.commit()

    assert {statement.split()[0] for statement in statements} <= {"INSERT", "SELECT", "SAVEPOINT", "RELEASE"}


# refusals


@one_database
def test_another_database_is_refused(new_executor: NewExecutor, tmp_path: Path) -> None:
    """A transaction on another database than the executor's is refused, and both are named."""
    executor = new_executor()
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")

    with Session(other) as session, pytest.raises(ConfigurationError, match=r"other\.db.*durable\.db"):
        executor.using(session)
    other.dispose()


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_another_database_of_the_server_is_refused(new_executor: NewExecutor, url: str, tmp_path: Path) -> None:
    """The same server is not enough, nor is another kind of database; a password is never shown."""
    executor = new_executor()
    name = "postgres" if url.startswith("postgresql") else "mysql"
    others = [create_engine(url.rpartition("/")[0] + f"/{name}"), create_engine(f"sqlite:///{tmp_path / 'o.db'}")]

    for other in others:
        with other.connect() as connection, pytest.raises(ConfigurationError, match="own database"):
            executor.using(connection)
        other.dispose()


@one_database
def test_the_same_file_by_another_path(new_executor: NewExecutor, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SQLite file is the same database by whatever path it is named."""
    executor = new_executor()
    executor.migrate()
    path = Path(url.removeprefix("sqlite:///"))
    monkeypatch.chdir(path.parent)
    other = create_engine(f"sqlite:///{path.name}")

    with other.connect() as connection:
        executor.using(connection)
    other.dispose()


@one_database
def test_what_is_no_transaction_is_refused(new_executor: NewExecutor, engine: Engine) -> None:
    """An Engine, or anything else that is no transaction, is refused by name."""
    for thing in (engine, None, "session"):
        with pytest.raises(ConfigurationError, match="Session, scoped_session or Connection"):
            new_executor().using(thing)


@one_database
def test_the_same_checks_as_outside(
    new_executor: NewExecutor, engine: Engine, count_executions: Callable[[], int]
) -> None:
    """Bad input and unknown tasks are refused before anything is written, and the transaction goes on."""
    executor = new_executor()

    @executor.task
    def double(number: int) -> int: ...

    @TaskRegistry().task
    def unknown() -> None: ...

    with Session(engine) as session:
        within = executor.using(session)
        with pytest.raises(InvalidInputError):
            within.enqueue(double, "two")
        with pytest.raises(TaskNotRegisteredError):
            within.enqueue(unknown)
        within.enqueue(double, 2)
        session.commit()

    assert count_executions() == 1


@one_database
def test_nothing_is_enqueued_after_a_shutdown(new_executor: NewExecutor, engine: Engine) -> None:
    """`using` raises `ExecutorShutdownError` after a shutdown, also where it was asked for before."""
    executor = new_executor()

    @executor.task
    def work() -> None: ...

    with Session(engine) as session:
        within = executor.using(session)
        executor.shutdown()
        with pytest.raises(ExecutorShutdownError):
            executor.using(session)
        with pytest.raises(ExecutorShutdownError):
            within.enqueue(work)


@one_database
def test_absent_tables_are_told_of(new_executor: NewExecutor, engine: Engine) -> None:
    """With `migrate=False` and no tables, `using` raises `DatabaseVersionError`."""
    executor = new_executor(migrate=False)

    with Session(engine) as session, pytest.raises(DatabaseVersionError, match="absent"):
        executor.using(session)
