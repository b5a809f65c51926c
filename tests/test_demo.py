"""`durable-sync demo`: real processes, killed and started again, on real databases."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import define, frozen
from markdown_it import MarkdownIt
from sqlalchemy import create_engine, select

import durable_sync
from durable_sync import ChildExecution, ErrorInfo, ExecutionStatus, ParentResult, TaskError
from durable_sync.cli import main
from durable_sync.demo import Options
from durable_sync.demo import run as demo
from durable_sync.demo.errors import DemoError
from durable_sync.demo.finding import FoundFolder, find_files, user_folder
from durable_sync.demo.measuring import measure
from durable_sync.demo.parsing import extract_title, summarize
from durable_sync.demo.rendering import escaped, to_markdown
from durable_sync.demo.report import Report, report_of
from durable_sync.demo.writing import Target
from tests.waiting import wait_until

REPOSITORY = Path(durable_sync.__file__).parent.parent
FILES = 18
FOLDERS = 4
EXECUTIONS = 2 * FILES + 2 * FOLDERS + 2
"""Two a file, a folder with its finalize, the root with its own."""
DEADLINE = 60.0
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


# running the demo


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """A shell that starts these tests in the background has Ctrl-C ignored, here and in whatever is started."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, before)


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
    def markdown(self) -> bytes:
        """The file that it says it wrote, as it is now; so is `json`."""
        return Path(re.findall("the report: (.*) and ", self.output)[-1]).read_bytes()

    @property
    def json(self) -> bytes:
        return Path(re.findall("the report: .* and (.*)", self.output)[-1]).read_bytes()

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

        wait_until(reached, timeout=DEADLINE, message=lambda: self.output + self.errors, interval=0.03)
        self.process.kill()
        self.process.wait(DEADLINE)


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `durable-sync demo ARGUMENTS` in `tmp_path`; what still runs in the end is killed."""
    runs: list[Run] = []

    def start(*arguments: str | Path) -> Run:
        out, err = (tmp_path / f"{name}-{len(runs)}" for name in ("stdout", "stderr"))
        with out.open("wb") as stdout, err.open("wb") as stderr, heeding_interrupts():
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
    """A folder of Markdown files, one in a folder of its own, one that can't be parsed, and an empty folder."""
    folder = tmp_path / "input"
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / "empty").mkdir()
    for number in range(FILES - 2):
        (folder / f"{number:03}.md").write_text(f"# Title {number}\n\nthree more words\n", "utf-8")
    (folder / "sub" / "deeper" / "last.md").write_text("# The last\n", "utf-8")
    (folder / "sub" / "picture.png").write_bytes(b"\x89PNG\0")
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def undisturbed(folder: Path) -> bytes:
    """The report of a run that nothing disturbs, on a database of its own: Markdown, then JSON."""
    base = folder.parent / "undisturbed"
    assert demo(Options(folder=folder, database=f"sqlite:///{base}.db", report=base, slow=0)) == 0
    return base.with_suffix(".md").read_bytes() + base.with_suffix(".json").read_bytes()


# what the database knows


@frozen
class Record:
    """How an execution stands; of a finished one, what must never change again."""

    task_id: str
    status: str
    started_at: int | None
    finished_at: int | None
    starts: int


def recorded(url: str) -> dict[str, Record]:
    """All executions of a database by id; none while there are no tables."""
    table = durable_sync.metadata.tables["durable_executions"]
    columns = [table.c[name] for name in ("id", "task_id", "status", "started_at", "finished_at", "starts")]
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            if not engine.dialect.has_table(connection, table.name):
                return {}
            return {row.id: Record(*row[1:]) for row in connection.execute(select(*columns))}
    finally:
        engine.dispose()


def finished(url: str) -> dict[str, Record]:
    return {id: record for id, record in recorded(url).items() if record.finished_at is not None}


# killed and started again


@posix
def test_a_killed_run_carries_on(start: Start, folder: Path, sqlite_url: str) -> None:
    """After kill -9 in the middle, the next run does what was left, nothing twice, and says so."""
    command = (folder, "--database", sqlite_url, "--slow", "0.1", "--workers", "3")
    first = start(*command)
    first.kill_when(lambda: first.done >= FILES // 4)
    before = finished(sqlite_url)
    assert FILES // 4 <= len(before) < EXECUTIONS
    assert not list(folder.parent.glob("durable-sync-demo.*")), "there is a report of half a run"

    second = start(*command)
    assert second.finish() == 0, second.errors

    resumed = re.search(rf"resumed: (\d+) of {FILES} files were already done(?:, (\d+) tasks? started)?", second.output)
    assert resumed, second.output
    # It may have been killed between two tasks.
    old, running = int(resumed[1]), int(resumed[2] or 0)
    assert first.done <= old <= len(before) // 2
    assert f"{FILES} files: {FILES - old} done in this run, {old} recorded before, " in second.output
    assert f", {running} task{'s' * (running != 1)} resumed after a crash, 1 failed" in second.output
    after = finished(sqlite_url)
    assert before.items() <= after.items(), "something recorded was done again"
    assert len(after) == len(recorded(sqlite_url)) == EXECUTIONS
    assert sum(record.starts for record in after.values()) == EXECUTIONS + running
    assert set(second.table) == names(folder), "a file is missing"


@posix
def test_killed_again_and_again(start: Start, folder: Path, database_url: str) -> None:
    """Killed at random moments, it ends with the report of a run that nothing disturbed, and does nothing twice."""
    command = (folder, "--database", database_url, "--slow", "0.1", "--workers", "3")
    moments = sorted(random.sample(range(EXECUTIONS - 1), 3))
    done: dict[str, Record] = {}
    for moment in moments:
        run = start(*command)
        run.kill_when(lambda moment=moment: len(finished(database_url)) >= moment)
        assert done.items() <= finished(database_url).items(), f"something recorded was done again: {moments}"
        done = finished(database_url)

    last = start(*command)
    assert last.finish() == 0, (moments, last.errors)

    assert last.markdown + last.json == undisturbed(folder), moments
    assert done.items() <= finished(database_url).items(), f"something recorded was done again: {moments}"
    assert len(finished(database_url)) == len(recorded(database_url)) == EXECUTIONS, moments


@posix
def test_a_lease_that_is_waited_for(start: Start, tmp_path: Path, sqlite_url: str) -> None:
    """While all that is left belongs to another process, the output says so; when that dies, it goes on."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.md").write_text("# A", "utf-8")
    first = start(tmp_path / "one", "--database", sqlite_url, "--slow", "60")
    wait_until(
        lambda: any(record.status == "running" for record in recorded(sqlite_url).values()),
        timeout=DEADLINE,
        message=lambda: first.errors,
    )
    second = start(tmp_path / "one", "--database", sqlite_url, "--slow", "0")
    wait_until(lambda: "waiting for the lease" in second.output, timeout=DEADLINE, message=lambda: second.output)

    first.process.kill()

    assert second.finish() == 0, second.errors
    assert "resumed: 0 of 1 files were already done, 1 task started but not finished" in second.output
    assert "1 task resumed after a crash" in second.output


@posix
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_politely(start: Start, folder: Path, sqlite_url: str, sent: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end it soon, leave nothing unfinished behind, and say how to carry on."""
    first = start(folder, "--database", sqlite_url, "--slow", "0.5", "--workers", "2")
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
    """Two processes on one folder and database do each task once between them, and both see the whole."""
    runs = [start(folder, "--database", database_url, "--slow", "0.1") for _ in range(2)]

    for run in runs:
        assert run.finish() == 0, run.errors
        assert set(run.table) == names(folder)
        assert {row[-1] for row in run.table.values()} == {"1"}
    assert len(recorded(database_url)) == EXECUTIONS
    assert runs[0].markdown == runs[1].markdown


# started again after its end


def test_a_finished_run_is_not_repeated(start: Start, folder: Path, sqlite_url: str) -> None:
    """A second run does nothing, shows the table again, names --fresh, and puts back a report that is gone."""
    command = (folder, "--database", sqlite_url, "--slow", "0")
    first = start(*command)
    assert first.finish() == 0, first.errors
    before, report = finished(sqlite_url), (first.markdown, first.json)
    (folder.parent / "durable-sync-demo.md").unlink()

    second = start(*command)
    assert second.finish() == 0, second.errors

    assert finished(sqlite_url) == before
    assert f"nothing to do: all {FILES} files were already done; --fresh starts over" in second.output
    assert second.table == first.table
    assert f"{FILES} files: 0 done in this run, {FILES} recorded before" in second.output
    assert (second.markdown, second.json) == report


@posix
def test_other_options_for_the_same_run(start: Start, folder: Path, sqlite_url: str) -> None:
    """With other workers, another pause and another place for the report, what was recorded still holds."""
    first = start(folder, "--database", sqlite_url, "--slow", "0.2", "--report", folder.parent / "one")
    first.kill_when(lambda: first.done > 0)
    before = finished(sqlite_url)

    other = folder.parent / "other.md"
    second = start(folder, "--database", sqlite_url, "--slow", "0", "--workers", "1", "--report", other)
    assert second.finish() == 0, second.errors

    assert before.items() <= finished(sqlite_url).items()
    assert len(recorded(sqlite_url)) == EXECUTIONS
    assert second.markdown == other.read_bytes()
    assert not (folder.parent / "one.md").exists()


@posix
def test_fresh_starts_over(start: Start, folder: Path, sqlite_url: str) -> None:
    """--fresh in the middle of a run cancels what is left of that run, and reads every file again."""
    first = start(folder, "--database", sqlite_url, "--slow", "0.2")
    first.kill_when(lambda: first.done > 0)
    old = recorded(sqlite_url)

    again = start(folder, "--database", sqlite_url, "--slow", "0", "--fresh")
    assert again.finish() == 0, again.errors

    assert f"started over: {FILES} files to read" in again.output
    now = recorded(sqlite_url)
    left = [now.pop(id).status for id, record in old.items() if record.finished_at is None or not now.pop(id)]
    assert set(left) == {"cancelled"}
    assert len(now) == EXECUTIONS
    assert {record.status for record in now.values()} == {"completed", "failed"}


def test_a_changed_folder_is_read_again(start: Start, folder: Path, sqlite_url: str) -> None:
    """After a file has changed, or a folder has come, there is a new run, whose report is of what is there now."""
    assert demo(Options(folder=folder, database=sqlite_url, report=folder.parent / "old", slow=0)) == 0
    (folder / "000.md").write_text("# Another title\n", "utf-8")
    (folder / "new").mkdir()

    second = start(folder, "--database", sqlite_url, "--slow", "0")
    assert second.finish() == 0, second.errors

    assert f"something has changed since the last run, started over: {FILES} files to read" in second.output
    assert second.table["000.md"][1] == "Another title"
    assert "new" in [section["name"] for section in json.loads(second.json)["sections"]]


@posix
def test_a_report_that_can_not_be_written(start: Start, folder: Path, sqlite_url: str) -> None:
    """When the place of the report goes away, what was read is kept, and written once there is a place again."""
    place = folder.parent / "place"
    place.mkdir()
    run = start(folder, "--database", sqlite_url, "--slow", "0.05", "--report", place / "report")
    wait_until(lambda: run.done, timeout=DEADLINE, message=lambda: run.errors)
    place.rmdir()
    wait_until(lambda: "can't be written, and is tried again" in run.output, timeout=DEADLINE)

    place.mkdir()

    assert run.finish() == 0, run.errors
    assert run.markdown == (place / "report.md").read_bytes()
    assert {row[-1] for row in run.table.values()} == {"1"}


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
        cwd=folder.parent,
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


@posix
def test_files_that_can_not_be_parsed(start: Start, folder: Path, sqlite_url: str) -> None:
    """Such a file fails its own tasks alone: table and report say why in a line, and the demo has done its work."""
    (folder / "broken.py").write_text("x = 1\ndef f(:\n", "utf-8")
    (folder / "sub" / "latin.txt").write_bytes("fine\ncaf\xe9\n".encode("latin1"))
    run = start(folder, "--database", sqlite_url, "--slow", "0")

    assert run.finish() == 0
    expected = {
        "broken.py": "syntax error in line 2: invalid syntax",
        "sub/latin.txt": "bad encoding: byte 0xe9 in line 2 is not UTF-8",
        "sub/picture.png": "binary: not parsed",
    }
    report = json.loads(run.json)
    files = [file for section in report["sections"] for file in section["files"]]
    assert {file["name"]: file["error"] for file in files if file["error"]} == expected
    assert report["totals"]["failed"] == 3
    for name, why in expected.items():
        assert run.table[name][1] == f"failed: {why}"
        assert f"\n{name} failed: {why}\n" in run.output
        assert f"| `{name}` | {why} |" in run.markdown.decode()
    assert "3 failed" in run.output
    assert "Traceback" not in run.output + run.errors


def test_a_tree(start: Start, folder: Path, sqlite_url: str) -> None:
    """--tree shows every task that ran, below the one it was spawned for, in place of the table."""
    run = start(folder, "--database", sqlite_url, "--slow", "0", "--tree")
    assert run.finish() == 0, run.errors

    shown = re.findall(r"^( *)(demo[.\w]+) .*(?:completed|failed)  ", run.output, re.MULTILINE)
    assert len(shown) == EXECUTIONS
    depths = {name: len(indent) // 2 for indent, name in shown}
    assert depths == {
        "demo.report": 0,
        "demo.folder": 1,
        "demo.write_report": 1,
        "demo.extract_title": 2,
        "demo.summarize": 2,
        "demo.folder.finalize": 2,
    }
    assert "\nfile " not in run.output


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
        (["input", "--report", "nowhere/x"], "can't be written to nowhere/x: there is no folder"),
        (["input", "--report", "taken"], "taken.md is a folder"),
        pytest.param(
            ["input", "--report", "/proc/x"],
            "/proc is not writable",
            marks=pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder where root can't write"),
        ),
        (["input", "--workers", "0"], "--workers"),
        (["input", "--slow", "-1"], "--slow"),
        (["input", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_input(command: Command, folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    """What can't work is said in a line, with exit code 2, no traceback and no password."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken.md").mkdir()
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
        ("a.md", b"# x\x1b[31m\r\n", "markdown", "x[31m"),
    ],
)
def test_kinds_and_titles(tmp_path: Path, name: str, content: bytes, kind: str, title: str | None) -> None:
    """A file's kind and title are what a reader would say they are."""
    (tmp_path / name).write_bytes(content)
    found = extract_title(tmp_path / name)
    assert (found.kind, found.text) == (kind, title)


@pytest.mark.parametrize(
    ("name", "content", "summary"),
    [
        ("a.py", '"""First line.\n\nMore of it.\nAnd on.\n\nNo."""\n', "More of it. And on."),
        ("a.py", '"""First line."""\nclass A: ...\ndef f(): ...\ndef _g(): ...\n', "Defines A, f."),
        ("a.py", "", None),
        ("a.md", "# Title\n\n![x](y)\n\n```\nno\n```\n\nThe text.\n", "The text."),
        ("a.md", "Title\n=====\nThe text.\n## More\n", "The text."),
        ("a.rst", "Title\n=====\n\n.. note:: no\n\nThe text.\n", "The text."),
        ("a.txt", "one two three four five six\n", "one two three four five …"),
        ("a.txt", "x" * 500, "x" * 400 + " …"),
    ],
)
def test_summaries(tmp_path: Path, name: str, content: str, summary: str | None) -> None:
    """A summary is the first words of what comes after the title."""
    (tmp_path / name).write_text(content, "utf-8")
    assert summarize(tmp_path / name, words=5).text == summary


def test_counts(tmp_path: Path) -> None:
    """Lines, words, functions and classes are counted, nested ones too."""
    path = tmp_path / "a.py"
    path.write_text("class A:\n    async def f(self):\n        def g(): ...\n\nx = 1", "utf-8")
    found = summarize(path, words=5)
    assert (found.lines, found.words, found.functions, found.classes) == (5, 11, 2, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("a.py", content) for content in (b"x = (\n", b"\0", b"(" * 10_000, b"# coding: nonsense\n", b"\xff")),
        ("a.md", b"# T\0\n"),
        ("a.md", b"# \xff\n"),
        ("missing.md", None),
    ],
)
def test_unparsable(tmp_path: Path, name: str, content: bytes | None) -> None:
    """Whatever is wrong with a file, its tasks fail with one line that doesn't name where the file lies."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError) as from_title:
        extract_title(path)
    with pytest.raises(TaskError) as from_summary:
        summarize(path, words=5)
    assert str(from_title.value) == str(from_summary.value)
    assert from_title.value.retryable is False
    assert len(str(from_title.value).splitlines()) == 1
    assert str(tmp_path) not in str(from_title.value)


def test_measures(tmp_path: Path) -> None:
    """A folder's hash is of the names and contents of its files, its size the sum of theirs."""

    def measured(**files: str) -> tuple[int, int, str]:
        for name, content in files.items():
            (tmp_path / name).write_text(content, "utf-8")
        found = measure(FoundFolder(str(tmp_path), ".", tuple(files)))
        return found.files, found.bytes, found.sha256

    first = measured(a="12", b="345")
    assert first[:2] == (2, 5)
    others = [measured(a="123", b="45"), measured(a="12345"), measured(), measured(a="12", c="345")]
    assert len({first[2], *(other[2] for other in others)}) == 5
    assert measured(a="12", b="345") == first


def test_which_files(tmp_path: Path) -> None:
    """Hidden files, caches and the database are left out; links to folders are not followed; empty folders are in."""
    for name in ("a.md", "b/c.md", ".hidden", ".git/x", "__pycache__/x.pyc", "_build/x.html", "jobs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", "utf-8")
    (tmp_path / "b" / "empty").mkdir()
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    found = find_files(user_folder(tmp_path), leave_out={tmp_path / "jobs.db"}, warn=pytest.fail)
    assert [(folder.name, folder.files) for folder in found.folders] == [
        (".", ("a.md",)),
        ("b", ("c.md",)),
        ("b/empty", ()),
    ]
    assert found.files == ["a.md", "b/c.md"]


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is none is refused."""
    with pytest.raises(DemoError):
        user_folder(tmp_path / "nowhere")


def failed_report() -> Report:
    """Of a run whose one folder failed as a whole."""
    id = "01a20405-a523-71e6-a225-84c2e55ae3ae"
    error = ErrorInfo("FinalizeFailedError", f"task 'x' execution {id}: failed: OSError: no\nmore")
    child = ChildExecution("demo.folder", id, ExecutionStatus.FINALIZE_FAILED, error)
    folders = [FoundFolder("/x/a", "a", ("b.md",))]
    return report_of(ParentResult({"name": "/x", "folders": folders}, 1, (child,), (None,)))


def test_a_folder_that_failed() -> None:
    """A folder whose own task failed is in the report with all its files, and with no id, for each run has others."""
    report = failed_report()

    why = "finalize failed: task 'x': failed: OSError: no more"
    assert [(file.name, file.error) for file in report.failed] == [("a/b.md", f"its folder failed: {why}")]
    assert (report.totals.files, report.totals.failed) == (1, 1)
    assert f"the folder failed: {why}" in to_markdown(report)


def test_a_report_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the new report is whole the old one stays, and a failure leaves nothing else behind."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    target = Target.parse(tmp_path / "report.json")
    target.markdown.write_text("old", "utf-8")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        target.write(failed_report())

    assert target.markdown.read_text("utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    monkeypatch.undo()
    target.write(failed_report())
    assert target.holds(failed_report())


@posix
def test_odd_names_in_markdown(start: Start, tmp_path: Path, sqlite_url: str) -> None:
    """Whatever files are called and titled, Markdown shows just that, a row a file; JSON has the very name."""
    odd = ["a|b.md", "line\nbreak.md", "`tick`.md", "sp  ace.md", " space.md", "ünï 漢字.md", "a\\b.md", "a\\|b.md"]
    odd += ["*_<b>&amp;[x](y)~~$.md"]
    title = r"A | `b` *c* _d_ <b>e</b> [f](g) &amp; ~~h~~ a_b \| `` \\ ![x](y) __g__ i_ _j"
    (tmp_path / "odd" / "a|b").mkdir(parents=True)
    for name in odd:
        (tmp_path / "odd" / name).write_text(f"# {title}\n", "utf-8")
    (tmp_path / "odd" / "a|b" / os.fsdecode(b"not-utf8-\xff.md")).write_text("# x\n", "utf-8")
    run = start(tmp_path / "odd", "--database", sqlite_url, "--slow", "0")
    assert run.finish() == 0, run.errors

    headings, rows = rendered(run.markdown.decode())
    assert headings[1:] == [".", "a|b"]
    shown = {row[0]: row[1] for row in rows}
    assert shown == {**{name.replace("\n", "\\n"): title for name in odd}, "not-utf8-\\xff.md": "x"}
    files = [file["name"] for section in json.loads(run.json)["sections"] for file in section["files"]]
    assert sorted(files) == sorted([*odd, "a|b/not-utf8-\\xff.md"])


def rendered(markdown: str) -> tuple[list[str], list[list[str]]]:
    """The headings, and the rows of all tables, as a reader sees them: nothing but text and code."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    headings: list[str] = []
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        parts = token.children or []
        assert {part.type for part in parts} <= {"text", "code_inline", "softbreak"}, parts
        content = "".join(part.content for part in parts)
        if before.type == "heading_open":
            headings.append(content)
        if before.type == "tr_open":
            rows.append([])
        if before.type == "td_open":
            rows[-1].append(content)
    return headings, [row for row in rows if row]


def test_escaping_leaves_words_alone() -> None:
    """What needs no escape has none: a report is read as plain text, too."""
    assert escaped("a_b-c d.e (f) #1 & 2!") == "a_b-c d.e (f) #1 & 2!"
