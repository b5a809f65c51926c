"""`durable-sync demo`: real processes, killed and started again, on real databases."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, frozen
from sqlalchemy import create_engine, func, select, text

import durable_sync
from durable_sync import DurableExecutor, Execution, TaskError
from durable_sync.cli import main
from durable_sync.demo.errors import DemoError
from durable_sync.demo.finding import find_files, user_folder
from durable_sync.demo.reading import read
from tests.waiting import wait_until

REPOSITORY = Path(durable_sync.__file__).parent.parent
FILES = 30
DEADLINE = 60.0
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


# running the demo


@define
class Run:
    """A `durable-sync` process; its output goes to files, so that it can be read while it runs."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def output(self) -> str:
        return self.out.read_text("utf-8")

    @property
    def errors(self) -> str:
        return self.err.read_text("utf-8")

    @property
    def done(self) -> int:
        """How many files it says are done."""
        counts = re.findall(r"^(\d+) of \d+ done", self.output, re.MULTILINE)
        return int(counts[-1]) if counts else 0

    @property
    def table(self) -> dict[str, list[str]]:
        """The rows of the table at the end, by file."""
        lines = self.output.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("file "))
        rows = [re.split(r" {2,}", line.rstrip()) for line in lines[start + 1 :] if "  " in line]
        assert len({row[0] for row in rows}) == len(rows), "a file is there twice"
        return {row[0]: row[1:] for row in rows}

    def finish(self) -> int:
        def ended() -> bool:
            return self.process.poll() is not None

        wait_until(ended, timeout=DEADLINE, message=lambda: f"hangs:\n{self.output}{self.errors}")
        return self.process.returncode

    def kill_when(self, predicate: Callable[[], bool]) -> None:
        def reached() -> bool:
            assert self.process.poll() is None, f"ended too early:\n{self.output}{self.errors}"
            return predicate()

        wait_until(reached, timeout=DEADLINE, message=lambda: self.output + self.errors)
        self.process.kill()
        self.process.wait(DEADLINE)


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `durable-sync demo ARGUMENTS` in `tmp_path`; what still runs in the end is killed."""
    runs: list[Run] = []

    def start(*arguments: str | Path) -> Run:
        out, err = (tmp_path / f"{name}-{len(runs)}" for name in ("stdout", "stderr"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "durable_sync", "demo", *arguments],
                cwd=tmp_path,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        runs.append(Run(process, out, err))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait(DEADLINE)


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `durable-sync ARGUMENTS` in this process; returns its exit code and standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["durable-sync", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        assert isinstance(exit.value.code, int)
        return exit.value.code, capfd.readouterr().err

    return command


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8", **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of Markdown files, one in a folder of its own."""
    folder = tmp_path / "input"
    (folder / "sub").mkdir(parents=True)
    for number in range(FILES - 1):
        (folder / f"{number:03}.md").write_text(f"# Title {number}\n\nthree more words\n", "utf-8")
    (folder / "sub" / "last.md").write_text("# The last\n", "utf-8")
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# what the database knows


@frozen
class Record:
    """What must never change again once an execution has finished."""

    started_at: object
    finished_at: object
    attempt: int


def recorded(url: str) -> dict[str, Execution]:
    """The executions that the demo's own table names, by id."""
    engine = create_engine(url)
    with engine.connect() as connection:
        ids = list(connection.execute(text("SELECT execution_id FROM durable_demo_runs")).scalars())
    engine.dispose()
    executor = DurableExecutor(url)
    try:
        return {id: executor.get_execution(id) for id in ids}
    finally:
        executor.shutdown()


def finished(url: str) -> dict[str, Record]:
    return {
        id: Record(execution.started_at, execution.finished_at, execution.attempt)
        for id, execution in recorded(url).items()
        if execution.is_finished
    }


def number_of_executions(url: str) -> int:
    engine = create_engine(url)
    table = durable_sync.metadata.tables["durable_executions"]
    with engine.connect() as connection:
        count = connection.execute(select(func.count()).select_from(table)).scalar_one()
    engine.dispose()
    return count


# killed and started again


@posix
def test_a_killed_run_carries_on(start: Start, folder: Path, database_url: str) -> None:
    """After kill -9 in the middle, the next run does what was left, nothing twice, and says so."""
    command = (folder, "--database", database_url, "--slow", "0.2", "--workers", "3")
    first = start(*command)
    first.kill_when(lambda: first.done >= FILES // 4)
    before = finished(database_url)
    assert FILES // 4 <= len(before) < FILES

    second = start(*command)
    assert second.finish() == 0, second.errors

    assert f"resumed: {len(before)} of {FILES} files were already done" in second.output
    after = finished(database_url)
    assert before.items() <= after.items(), "something recorded was done again"
    assert len(after) == number_of_executions(database_url) == FILES
    assert set(second.table) == names(folder), "a file is missing"
    assert f"{FILES} files: {FILES - len(before)} done in this run, {len(before)} recorded before" in second.output


@posix
def test_what_a_kill_interrupted_runs_again(start: Start, folder: Path, sqlite_url: str) -> None:
    """The files that were being read when the process died are read again, and are counted."""
    first = start(folder, "--database", sqlite_url, "--slow", "1", "--workers", "3")
    first.kill_when(lambda: first.done >= 3)

    second = start(folder, "--database", sqlite_url, "--slow", "0", "--workers", "3")
    assert second.finish() == 0, second.errors

    started = re.search(r"(\d+) started but not finished", second.output)
    resumed = re.search(r"(\d+) resumed after a crash", second.output)
    assert started, second.output
    assert resumed, second.output
    assert int(started[1]) == int(resumed[1]) > 0
    twice = [name for name, row in second.table.items() if row[-1] != "1"]
    assert len(twice) == int(resumed[1])


@posix
def test_killed_again_and_again(start: Start, folder: Path, sqlite_url: str) -> None:
    """However often it is killed, and whenever, each file has one execution, and all are done in the end."""
    command = (folder, "--database", sqlite_url, "--slow", "0.1", "--workers", "3")
    done: dict[str, Record] = {}
    moments = (
        lambda run: "recording in" in run.output,
        lambda run: "started:" in run.output or "resumed:" in run.output,
        lambda run: run.done > len(done),
        lambda run: run.done > len(done),
    )
    for moment in moments:
        run = start(*command)
        run.kill_when(lambda run=run, moment=moment: moment(run))
        if moment is not moments[0]:
            assert done.items() <= finished(sqlite_url).items()
            done = finished(sqlite_url)
            assert number_of_executions(sqlite_url) == len(recorded(sqlite_url)) == FILES

    last = start(*command)
    assert last.finish() == 0, last.errors
    assert done.items() <= finished(sqlite_url).items()
    assert len(finished(sqlite_url)) == number_of_executions(sqlite_url) == FILES
    assert set(last.table) == names(folder)
    assert "0 failed" in last.output


@posix
def test_a_lease_that_is_waited_for(start: Start, tmp_path: Path, sqlite_url: str) -> None:
    """While all that is left belongs to another process, the output says so; when that dies, it goes on."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.md").write_text("# A", "utf-8")
    first = start(tmp_path / "one", "--database", sqlite_url, "--slow", "60")
    wait_until(lambda: "0 of 1 done" in first.output, timeout=DEADLINE, message=lambda: first.errors)
    wait_until(lambda: any(e.started_at for e in recorded(sqlite_url).values()), timeout=DEADLINE)
    second = start(tmp_path / "one", "--database", sqlite_url, "--slow", "0")
    wait_until(lambda: "waiting for the lease" in second.output, timeout=DEADLINE, message=lambda: second.output)

    first.process.kill()

    assert second.finish() == 0, second.errors
    assert "resumed: 0 of 1 files were already done, 1 started but not finished" in second.output
    assert "1 resumed after a crash" in second.output


@posix
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_politely(start: Start, folder: Path, sqlite_url: str, sent: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end it soon, leave nothing unfinished behind, and say how to carry on."""
    first = start(folder, "--database", sqlite_url, "--slow", "0.3")
    wait_until(lambda: first.done, timeout=DEADLINE)
    first.process.send_signal(sent)

    assert first.finish() == 130
    assert "the same command (without --fresh) carries on" in first.output
    assert first.errors == ""
    second = start(folder, "--database", sqlite_url, "--slow", "0")
    assert second.finish() == 0, second.errors
    assert "resumed:" in second.output
    assert "started but not finished" not in second.output
    assert {row[-1] for row in second.table.values()} == {"1"}


def test_two_at_once_share_the_work(start: Start, folder: Path, database_url: str) -> None:
    """Two processes on one folder and database read each file once between them, and both see all of it."""
    runs = [start(folder, "--database", database_url, "--slow", "0.1") for _ in range(2)]

    for run in runs:
        assert run.finish() == 0, run.errors
        assert set(run.table) == names(folder)
        assert {row[-1] for row in run.table.values()} == {"1"}
    assert number_of_executions(database_url) == FILES


# started again after its end


def test_a_finished_run_is_not_repeated(start: Start, folder: Path, sqlite_url: str) -> None:
    """A second run does nothing, shows the table again, and names --fresh."""
    command = (folder, "--database", sqlite_url, "--slow", "0")
    first = start(*command)
    assert first.finish() == 0, first.errors
    before = finished(sqlite_url)

    second = start(*command)
    assert second.finish() == 0, second.errors

    assert finished(sqlite_url) == before
    assert f"nothing to do: all {FILES} files were already done; --fresh starts over" in second.output
    assert second.table == first.table
    assert f"{FILES} files: 0 done in this run, {FILES} recorded before" in second.output


def test_fresh_starts_over(start: Start, folder: Path, sqlite_url: str) -> None:
    """--fresh reads every file again."""
    command = (folder, "--database", sqlite_url, "--slow", "0")
    assert start(*command).finish() == 0
    before = finished(sqlite_url)

    again = start(*command, "--fresh")
    assert again.finish() == 0, again.errors

    after = finished(sqlite_url)
    assert len(after) == FILES
    assert not before.keys() & after.keys()
    assert f"started: {FILES} files to read" in again.output


@posix
def test_fresh_drops_what_had_not_finished(start: Start, folder: Path, sqlite_url: str) -> None:
    """--fresh in the middle of a run cancels what is left of that run: no file is read for it."""
    first = start(folder, "--database", sqlite_url, "--slow", "0.3")
    first.kill_when(lambda: first.done > 0)
    old = recorded(sqlite_url)

    again = start(folder, "--database", sqlite_url, "--slow", "0", "--fresh")
    assert again.finish() == 0, again.errors

    executor = DurableExecutor(sqlite_url)
    statuses = {str(executor.get_execution(id).status) for id in old}
    executor.shutdown()
    assert statuses == {"completed", "cancelled"}


def test_changed_and_new_files_are_read(start: Start, folder: Path, sqlite_url: str) -> None:
    """A file that changed since, and a file that was not there, are read; the others are not."""
    command = (folder, "--database", sqlite_url, "--slow", "0")
    assert start(*command).finish() == 0
    before = finished(sqlite_url)
    (folder / "000.md").write_text("# Another title\n", "utf-8")
    (folder / "new.md").write_text("# New\n", "utf-8")

    second = start(*command)
    assert second.finish() == 0, second.errors

    assert f"resumed: {FILES - 1} of {FILES + 1} files were already done, 2 new or changed" in second.output
    assert second.table["000.md"][1] == "Another title"
    assert second.table["new.md"][1] == "New"
    assert len(before.items() & finished(sqlite_url).items()) == FILES - 1


# what it shows


def test_its_own_sources_by_default(start: Start, tmp_path: Path) -> None:
    """Without arguments it reads this library's sources, and keeps its record in the current directory."""
    run = start("--slow", "0")
    assert run.finish() == 0, run.errors

    assert f"recording in {tmp_path / 'durable-sync-demo.db'}" in run.output
    assert (tmp_path / "durable-sync-demo.db").is_file()
    kind, title, *_ = run.table["durable_sync/cli.py"]
    assert (kind, title) == ("python", "The command line: `durable-sync`. click and rich, the extra…")
    assert "0 failed" in run.output


def test_plain_output_has_no_control_characters(start: Start, folder: Path, sqlite_url: str) -> None:
    """In a pipe or a file there are lines of text, one a file, whatever files are called and titled."""
    (folder / "[red]x[bold].md").write_text("# [bold] \x1b[31mred\x1b[0m\n", "utf-8")
    if sys.platform != "win32":
        (folder / "line\nbreak.md").write_text("# B\n", "utf-8")
        (folder / os.fsdecode(b"not-utf8-\xff.md")).write_text("# C\n", "utf-8")
    run = start(folder, "--database", sqlite_url, "--slow", "0")
    assert run.finish() == 0, run.errors

    assert all(char.isprintable() for char in run.output.replace("\n", ""))
    assert run.table["[red]x[bold].md"][1] == "[bold] [31mred[0m"
    assert len(run.table) == len(names(folder))
    assert f"{len(names(folder))} of {len(names(folder))} done" in run.output
    assert run.errors == ""


@posix
def test_a_live_bar_on_a_terminal(folder: Path, sqlite_url: str) -> None:
    """On a terminal there are a moving bar and a table."""
    import pty

    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "durable_sync", "demo", folder, "--database", sqlite_url, "--slow", "0.05"],
        env=environment(TERM="xterm", COLUMNS="100"),
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
    )
    os.close(secondary)
    output = b""
    try:
        while chunk := os.read(primary, 65536):
            output += chunk
    except OSError:  # Linux's way to say that the other end has closed
        pass
    os.close(primary)
    assert process.wait(DEADLINE) == 0, output.decode()

    assert b"\x1b[" in output
    assert f"{FILES}/{FILES}".encode() in output
    assert b"Title 7" in output


def test_a_file_that_does_not_parse(start: Start, folder: Path, sqlite_url: str) -> None:
    """A syntax error fails that file's task alone: the table says where, and the demo has done its work."""
    (folder / "broken.py").write_text("x = 1\ndef f(:\n", "utf-8")
    run = start(folder, "--database", sqlite_url, "--slow", "0")

    assert run.finish() == 0
    assert run.table["broken.py"][:2] == ["python", "failed: syntax error in line 2: invalid syntax"]
    assert "\nbroken.py failed: syntax error in line 2: invalid syntax\n" in run.output
    assert "1 failed" in run.output
    assert "Traceback" not in run.output + run.errors


# what can't be done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["input/000.md"], "000.md is not a folder"),
        (["empty"], "there are no files in"),
        (["input", "--database", "nonsense"], "'nonsense' is not a database URL"),
        (["input", "--database", "nosuchdb://localhost/x"], "nosuchdb"),
        (["input", "--database", "oracle+oracledb://u:secret@localhost/x"], "oracledb"),
        (["input", "--database", "sqlite://"], "name a file"),
        (["input", "--database", "sqlite:///nowhere/x.db"], "nowhere"),
        (["input", "--database", "sqlite:///corrupt.db"], "file is not a database"),
        (["input", "--database", "postgresql+psycopg://u:secret@127.0.0.1:1/x"], "127.0.0.1"),
        (["input", "--database", "mysql+pymysql://u:secret@127.0.0.1:1/x"], "127.0.0.1"),
        (["input", "--workers", "0"], "--workers"),
        (["input", "--slow", "-1"], "--slow"),
        (["input", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_input(command: Command, folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    """What can't work is said in a line, with exit code 2, no traceback and no password."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt.db").write_bytes(b"not a database" * 1000)
    code, errors = command("demo", *arguments)

    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert "secret" not in errors
    if "Usage" not in errors:
        assert errors.startswith("durable-sync demo: ")
        assert len(errors.splitlines()) == 1


def test_bad_input_in_a_process(start: Start) -> None:
    """The same is true of the process that a user starts."""
    run = start("nowhere")
    assert run.finish() == 2
    assert run.errors == "durable-sync demo: there is no folder nowhere\n"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(missing: str) -> None:
    """Without click or rich, one line names the extra to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; from durable_sync.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"], env=environment(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr == ("durable-sync: the command line needs click and rich: pip install 'durable-sync[cli]'\n")


def test_importing_the_command_line_is_light() -> None:
    """Importing the entry point imports neither click nor rich."""
    code = "import sys, durable_sync.cli; sys.exit('click' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0


# its parts


@pytest.mark.parametrize(
    ("name", "content", "kind", "title"),
    [
        ("a.py", b'"""First line.\n\nMore."""\n', "python", "First line."),
        ("a.py", b"# coding: latin1\n'''caf\xe9'''\n", "python", "café"),
        ("a.py", b"", "python", None),
        ("a.md", b"\xef\xbb\xbf# Title #\n", "markdown", "Title"),
        ("a.md", b"Title\n=====\n", "markdown", "Title"),
        ("a.md", b"---\ntitle: x\n---\n```\n# no\n```\n## Yes\n", "markdown", "Yes"),
        ("a.rst", b"Title\n~~~~~\n", "rst", "Title"),
        ("a.sh", b"# not a heading\n", "text", None),
        ("a.md", b"# \xff\x1b[31m\r\n", "markdown", "\N{REPLACEMENT CHARACTER}[31m"),
        ("a.bin", b"\0# x\n", "binary", None),
    ],
)
def test_kinds_and_titles(tmp_path: Path, name: str, content: bytes, kind: str, title: str | None) -> None:
    """A file's kind and title are what a reader would say they are."""
    (tmp_path / name).write_bytes(content)
    report = read(tmp_path / name)
    assert (report.kind, report.title) == (kind, title)


def test_counts(tmp_path: Path) -> None:
    """Lines, words, functions and classes are counted, nested ones too."""
    path = tmp_path / "a.py"
    path.write_text("class A:\n    async def f(self):\n        def g(): ...\n\nx = 1", "utf-8")
    report = read(path)
    assert (report.lines, report.words, report.functions, report.classes) == (5, 11, 2, 1)


@pytest.mark.parametrize("content", [b"x = (\n", b"\0", b"(" * 10_000, b"# coding: nonsense\n", b"\xff"])
def test_unparsable_python(tmp_path: Path, content: bytes) -> None:
    """Whatever is wrong with a Python file, its task fails with a sentence."""
    path = tmp_path / "a.py"
    path.write_bytes(content)
    with pytest.raises(TaskError):
        read(path)


def test_which_files(tmp_path: Path) -> None:
    """Hidden files, caches and the database are left out; links to folders are not followed."""
    for name in ("a.md", "b/c.md", ".hidden", ".git/x", "__pycache__/x.pyc", "_build/x.html", "jobs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", "utf-8")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    found = find_files(user_folder(tmp_path), leave_out={tmp_path / "jobs.db"}, warn=pytest.fail)
    assert [file.name for file in found] == ["a.md", "b/c.md"]


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is none is refused."""
    with pytest.raises(DemoError):
        user_folder(tmp_path / "nowhere")
