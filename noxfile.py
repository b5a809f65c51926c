"""The same commands as `dev.py`, over several Pythons, each in an environment of its own."""

import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))
import dev

nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.reuse_existing_virtualenvs = True

# The oldest versions that setup.cfg admits.
LOWEST = ["SQLAlchemy==2.0.31", "attrs==23.2", "cattrs==24.1", "tenacity==8.3"]


def run(session: nox.Session, steps: list[tuple[str, list[str]]]) -> None:
    """Run the commands of some steps of `dev.py`; `nox -s tests -- -k cancel` adds arguments."""
    for _, command in steps:
        session.run(*command, *session.posargs)


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests on every database."""
    session.install("-e", ".[dev]")
    run(session, dev.TESTS)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that are admitted."""
    session.install("-e", ".[dev]", *LOWEST)
    run(session, dev.TESTS)


@nox.session(python="3.11")
def stress(session: nox.Session) -> None:
    """Run the long tests."""
    session.install("-e", ".[dev]")
    run(session, dev.STRESS)


@nox.session(python="3.11")
def faults(session: nox.Session) -> None:
    """Run the fault laboratory at its full size, and write the table of its figures."""
    session.install("-e", ".[dev]")
    session.env["FAULTS"] = "full"
    run(session, dev.FAULTS[:1])
    session.run(*dev.FAULTS[1][1])


@nox.session(python="3.11")
def bench(session: nox.Session) -> None:
    """Measure the speed, and write the tables and charts of docs/performance.md."""
    session.install("-e", ".[bench]")
    run(session, dev.BENCH)


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Check style, format and layers."""
    session.install("-e", ".[dev]")
    run(session, dev.LINT)


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Check types twice, with mypy and pyright."""
    session.install("-e", ".[dev]")
    run(session, dev.TYPES)


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install("-e", ".[dev]")
    run(session, dev.DOCS)
