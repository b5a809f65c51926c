"""Runs a server and ends it when whoever started this program ends, however that happens.

usage: keeper.py PARENT USER SIGNAL DIRECTORY COMMAND...

Its standard input is a pipe whose other end the tests hold: it closes with them, even after kill -9.
Prints the server's process id. Standard library only, so that it starts quickly.
"""

import os
import select
import shutil
import subprocess
import sys
import threading

GRACE = 10.0  # seconds from the polite signal to SIGKILL


def wait_for_orphanhood(parent: int) -> None:
    """Return once the pipe is closed or this process has another parent.

    The second is for a fork of the tests that outlives them and holds the pipe open.
    """
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], 1.0)
        if readable and not os.read(sys.stdin.fileno(), 1):
            return


class Keeper:
    """One server, and the thread that ends it once nobody is left to use it."""

    def __init__(self, parent: int, user: str, stop_signal: int, directory: str, command: list[str]) -> None:
        self.parent, self.stop_signal, self.directory = parent, stop_signal, directory
        drop = {"user": user, "group": group_of(user), "extra_groups": []} if user else {}
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=directory, **drop)
        self.orphaned = threading.Event()
        self.thread = threading.Thread(target=self.end_when_orphaned, daemon=True)

    def run(self) -> int:
        print(self.server.pid, flush=True)
        self.thread.start()
        code = self.server.wait()
        if self.orphaned.is_set():
            self.thread.join()
        return code

    def end_when_orphaned(self) -> None:
        wait_for_orphanhood(self.parent)
        self.orphaned.set()
        self.server.send_signal(self.stop_signal)
        try:
            self.server.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


if __name__ == "__main__":
    parent, user, stop_signal, directory, *command = sys.argv[1:]
    sys.exit(Keeper(int(parent), user, int(stop_signal), directory, command).run())
