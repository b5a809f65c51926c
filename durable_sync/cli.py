"""The command line: `durable-sync`. click and rich, the extra `cli`, are imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from durable_sync import __version__

if TYPE_CHECKING:
    import click

__all__ = ["main"]

MISSING_EXTRA = "durable-sync: the command line needs click and rich: pip install 'durable-sync[cli]'"


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and exit: 0 if it did its work, 2 if it could not."""
    try:
        commands = _commands()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        print(MISSING_EXTRA, file=sys.stderr)
        sys.exit(2)
    commands.main(prog_name="durable-sync")


def _commands() -> click.Group:
    import click

    import_module("rich")  # a missing one shows here, before any work

    @click.group(help="Durable execution of plain Python functions.")
    @click.version_option(__version__)
    def commands() -> None:
        pass

    commands.add_command(_demo_command())
    return commands


def _demo_command() -> click.Command:
    import click

    return click.Command(
        "demo",
        callback=_demo,
        short_help="Report on a folder, with a tree of durable tasks.",
        help=(
            "Report on FOLDER: a durable task a folder hashes and measures it, and two a file find its title and "
            "summarise it. Kill it in the middle (kill -9) and run the same command again: it carries on, and ends "
            "with the same report, in Markdown and JSON. A file that can't be parsed is named in it. When something "
            "in FOLDER has changed since, it starts over.\n\n"
            "FOLDER is by default this library's own sources and docs. Hidden files, __pycache__ and "
            "_build are left out.\n\n"
            "Exit code: 0 when every file has been dealt with, also if some of them failed; 2 when the demo "
            "could not run; 130 when it was interrupted."
        ),
        params=[
            click.Argument(["folder"], required=False, type=click.Path(path_type=Path)),
            click.Option(
                ["--database"],
                metavar="URL",
                help="A SQLAlchemy URL: SQLite, PostgreSQL, MariaDB, MySQL. "
                "By default the file durable-sync-demo.db in the current directory.",
            ),
            click.Option(
                ["--report"],
                metavar="NAME",
                type=click.Path(path_type=Path),
                help="Write the report to NAME.md and NAME.json. "
                "By default durable-sync-demo in the current directory.",
            ),
            click.Option(
                ["--workers"],
                type=click.IntRange(min=1),
                default=4,
                show_default=True,
                help="How many tasks to run at once.",
            ),
            click.Option(
                ["--slow"],
                type=click.FloatRange(min=0),
                metavar="SECONDS",
                help="Pause before each task, so that there is something to watch, and to kill. "
                "By default so long that the whole takes about ten seconds.",
            ),
            click.Option(["--fresh"], is_flag=True, help="Start over: read every file again."),
            click.Option(["--tree"], is_flag=True, help="Show every task that ran, in place of the table."),
            click.Option(["-v", "--verbose"], is_flag=True, help="Show the library's log on stderr."),
        ],
    )


def _demo(
    folder: Path | None,
    database: str | None,
    report: Path | None,
    workers: int,
    slow: float | None,
    fresh: bool,
    tree: bool,
    verbose: bool,
) -> NoReturn:
    from durable_sync.demo import DEFAULT_DATABASE, DEFAULT_REPORT, DemoError, Options, run

    options = Options(
        folder=folder,
        database=database or DEFAULT_DATABASE,
        report=report or DEFAULT_REPORT,
        workers=workers,
        slow=slow,
        fresh=fresh,
        tree=tree,
        verbose=verbose,
    )
    try:
        code = run(options)
    except DemoError as error:
        print(f"durable-sync demo: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
