"""Forks worker processes: they begin at once, where starting Python and importing the library takes a second.

The module named by the first argument has their `main`. Reads `NAME OUTPUT-FILE ARGUMENTS...` as JSON lists from
standard input, one a line; answers each with the process id of the worker. Prints `dead PID CODE` when one has ended.
Ends, and its workers with it, when its input does. No thread runs and no executor exists here when it forks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback

# What the workers need is imported once, here.
import psycopg  # noqa: F401
import pymysql  # noqa: F401
import sqlalchemy.dialects.mysql.pymysql
import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401


def say(line: str) -> None:
    os.write(1, (line + "\n").encode())


def reap(_number: int, _frame: object) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        say(f"dead {pid} {os.waitstatus_to_exitcode(status)}")


def bear(name: str, output: str, arguments: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ["WORKER"] = name
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main = importlib.import_module(sys.argv[1]).main
    signal.signal(signal.SIGCHLD, reap)
    children = []
    while line := sys.stdin.readline():
        name, output, *arguments = json.loads(line)
        # Held back, so that no death is told before its birth.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        child = bear(name, output, arguments)
        say(f"born {child}")
        children.append(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    # Those that are suspended can't end by themselves.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, signal.SIGKILL)
