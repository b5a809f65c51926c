"""Small disks that can be filled and freed, and servers that keep their data on one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.servers import MariaDBServer, PostgresServer, Server

__all__ = ["Disk", "MariaDBOnDisk", "PostgresOnDisk"]

_MEGABYTE = 1024 * 1024

# Lives as long as its input is open, so that the disk goes even if the tests are killed.
_KEEPER = """
mount -t tmpfs -o size="$2" durable-sync "$1" || exit 1
echo mounted
cat > /dev/null
umount -l "$1"
rmdir "$1"
"""


class Disk:
    """A disk of a few megabytes, in memory."""

    def __init__(self, megabytes: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="durable-sync-disk-"))
        self.path.chmod(0o755)
        self._keeper = subprocess.Popen(
            ["sh", "-c", _KEEPER, "keeper", str(self.path), f"{megabytes}m"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        answer = self._keeper.stdout.readline().strip()
        self.problem = None if answer == "mounted" else answer or "no mount"
        """Why there is no disk; None if there is one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._keeper.communicate()
        if self.problem is not None:
            self.path.rmdir()

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    @property
    def free(self) -> int:
        """Bytes that are left."""
        return shutil.disk_usage(self.path).free

    def fill(self) -> None:
        """Takes every byte that is left; may be called again, to take what has been given back meanwhile."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            for size in (_MEGABYTE, 4096):
                _write_until_full(descriptor, bytes(size))
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Gives it all back."""
        self._filler.unlink(missing_ok=True)


def _write_until_full(descriptor: int, block: bytes) -> None:
    while True:
        try:
            if os.write(descriptor, block) < len(block):
                return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


class _OnDisk(Server):
    """A server with all of its data on this disk; flushed to it."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(fsync=True)
        self._disk = disk

    def _make_directory(self) -> Path:
        return _directory_on(self._disk, self._user)


class PostgresOnDisk(_OnDisk, PostgresServer):
    """A PostgreSQL with its write-ahead log in small pieces."""

    def _command(self, directory: Path) -> list[str]:
        return [*super()._command(directory), "-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB"]


class MariaDBOnDisk(_OnDisk, MariaDBServer):
    """A MariaDB with a small redo log."""

    def _command(self, directory: Path) -> list[str]:
        return [*super()._command(directory), "--innodb-log-file-size=16M"]


def _directory_on(disk: Disk, user: str | None) -> Path:
    directory = disk.path / "server"
    directory.mkdir(exist_ok=True)
    if user is not None:
        shutil.chown(directory, user)
    return directory
