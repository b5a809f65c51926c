"""A PostgreSQL primary and its replica, one URL for both, and the failover from the one to the other."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any, Self

import psutil

from tests.servers import PostgresServer, database_name
from tests.waiting import wait_until

__all__ = ["Pair"]


class _Member(PostgresServer):
    """One of the two."""

    def copy(self, primary: _Member) -> None:
        """Throws its data away, and follows the primary from now on, with a copy of its data."""
        self.kill()
        assert self.directory is not None
        self._release(self.directory)
        data = self.directory / "data"
        shutil.rmtree(data)
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        how = ["--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--no-sync"]
        self._run([str(self.binaries / "pg_basebackup"), *source, "-D", str(data), *how])
        self.start()

    def execute(self, *statements: str) -> list[Any]:
        return self._execute(*statements)


class Pair:
    """Two servers, one of which follows the other. To be used from one thread at a time.

    With `synchronous`, the primary acknowledges a COMMIT once the replica has it on its disk; without, at once.
    """

    def __init__(self, *, synchronous: bool, fsync: bool = False) -> None:
        self.synchronous = synchronous
        self._servers = [_Member(fsync=fsync), _Member(fsync=fsync)]

    @classmethod
    def is_available(cls) -> bool:
        """The wheel's PostgreSQL has no pg_basebackup."""
        found = PostgresServer.find()
        return found is not None and Path(found / "pg_basebackup").exists()

    @property
    def primary(self) -> _Member:
        return self._servers[0]

    @property
    def replica(self) -> _Member:
        return self._servers[1]

    def __enter__(self) -> Self:
        try:
            for server in self._servers:
                server.start()
            self.rejoin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_details: object) -> None:
        for server in self._servers:
            server.close()

    def create_database(self) -> str:
        """Makes a database; its URL names both servers, and finds the one that may be written to."""
        name = database_name()
        self.primary.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        hosts = "&".join(f"host=127.0.0.1:{port}" for port in sorted(server.port for server in self._servers))
        return f"postgresql+psycopg://postgres@/{name}?{hosts}&target_session_attrs=read-write"

    def hold_back(self) -> None:
        """From now on nothing leaves the primary for the replica any more."""
        self._walsender().send_signal(signal.SIGSTOP)

    def fail_over(self) -> None:
        """The primary dies, and the replica takes its place."""
        self.primary.kill()
        assert self.replica.execute("SELECT pg_promote(true, 60)") == [(True,)]
        self._servers.reverse()

    def rejoin(self) -> None:
        """The other server begins anew, as the replica of the primary."""
        self.replica.copy(self.primary)
        if self.synchronous:
            # Only now, and so not in the replica's copy: once promoted it must not wait for a replica that is dead.
            self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.primary.execute("SELECT pg_reload_conf()")
        wanted = "sync" if self.synchronous else "async"
        state = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: self.primary.execute(state) == [(wanted,)], 30, f"{wanted} replication")

    def _walsender(self) -> psutil.Process:
        ((pid,),) = self.primary.execute("SELECT pid FROM pg_stat_replication WHERE state = 'streaming'")
        return psutil.Process(pid)
