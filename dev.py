#!/usr/bin/env python3
"""Everything a developer runs, on a machine with Python 3.11 or newer and nothing else.

usage: python3 dev.py COMMAND [ARGUMENTS]

  demo    a tour of durable_sync; the arguments are those of `durable-sync demo`
  test    the whole gate: lint, types, docs, tests on every database, and the fault laboratory in
          short; with arguments, which are pytest's, without the laboratory
  lint    ruff and import-linter
  types   mypy and pyright
  stress  the long tests in tests/stress; the arguments are pytest's
  faults  the fault laboratory at its full size, some hours; writes the table of docs/reliability.md
  bench   speed beside the limit of the database; the arguments are the benchmark's; try --quick
  docs    builds the documentation into docs/_build/html

Each command makes or updates the virtual environment .venv first. `test` and the three after `types` also look for
PostgreSQL and MariaDB, and install MariaDB with apt-get where they may: as root, or with a sudo that
asks for no password. Where a server is missing its tests are skipped, or fail if CI=true.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterable, Iterator

# This file has to parse on Python 3.6, so that an old python3 gets the error below, not a SyntaxError.
OLDEST = (3, 11)
HELP = (__doc__ or "").strip()

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
STAMP = VENV / "installed"

# The name of each step and its command; noxfile.py runs the same.
DEMO = [("demo", ["durable-sync", "demo"])]
LINT = [
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
    ("import-linter", ["lint-imports"]),
]
TYPES = [
    ("mypy", ["mypy"]),
    ("pyright", ["pyright"]),
]
TESTS = [("pytest", ["pytest", "-n", "2", "--dist", "worksteal"])]
STRESS = [("stress", ["pytest", "tests/stress", "--timeout", "1800"])]
FAULTS = [
    ("faults", ["pytest", "tests/faults", "--timeout", "7200"]),
    ("report", ["python", "-m", "tests.faults.report"]),
]
# The rows of the laboratory that take no special rig, in their short form; its checker; and the controls, each of which
# has to fail every time.
SHORT_ROWS = [
    "test_checker.py",
    "test_history.py",
    "test_mutants.py",
    "test_kills.py",
    "test_commits.py",
    "test_cancels.py",
    "test_network.py",
    "test_sqlite.py",
    "test_user_engines.py",
    "test_stuck_threads.py",
    "test_black_holes.py::test_without_a_watchdog",
    "test_failover.py::test_asynchronous",
    "test_clocks.py::test_belief_in_clocks_is_caught",
]
SHORT_FAULTS = [("faults, in short", ["pytest", *("tests/faults/" + row for row in SHORT_ROWS)])]
BENCH = [("bench", ["python", "-m", "benchmarks"])]
DOCS = [("sphinx", ["sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html"])]


class StepError(Exception):
    """A step failed; the message says which and how."""


# commands: each returns what has to be said beside 'everything passed'


def demo(arguments: "list[str]") -> str:
    prepare("cli")
    run_steps(DEMO, arguments)
    return ""


def test(arguments: "list[str]") -> str:
    prepare("dev")
    with step("servers"):
        missing = provide_servers()
    run_steps(LINT + TYPES + DOCS)
    run_steps(TESTS, arguments)
    if not arguments:
        run_steps(SHORT_FAULTS)
    return without(missing)


def lint() -> str:
    prepare("dev")
    run_steps(LINT)
    return ""


def types() -> str:
    prepare("dev")
    run_steps(TYPES)
    return ""


def stress(arguments: "list[str]") -> str:
    prepare("dev")
    with step("servers"):
        missing = provide_servers()
    run_steps(STRESS, arguments)
    return without(missing)


def faults(arguments: "list[str]") -> str:
    prepare("dev")
    with step("servers"):
        missing = provide_servers()
    os.environ["FAULTS"] = "full"
    run_steps(FAULTS[:1], arguments)
    run_steps(FAULTS[1:])
    return without(missing)


def bench(arguments: "list[str]") -> str:
    prepare("bench")
    with step("servers"):
        missing = provide_servers()
    run_steps(BENCH, arguments)
    return without(missing)


def docs() -> str:
    prepare("dev")
    run_steps(DOCS)
    return ""


WITH_ARGUMENTS = {"demo": demo, "test": test, "stress": stress, "faults": faults, "bench": bench}
COMMANDS = {"lint": lint, "types": types, "docs": docs}


# steps


@contextlib.contextmanager
def step(name: str) -> "Iterator[None]":
    say(f"== {name}")
    started = time.monotonic()
    try:
        yield
    except StepError as error:
        raise StepError(f"{name}: {error}") from None
    say(f"== {name}: ok, {time.monotonic() - started:.1f} s")


def run_steps(steps: "list[tuple[str, list[str]]]", arguments: "Iterable[str]" = ()) -> None:
    for name, command in steps:
        with step(name):
            run([str(BIN / command[0]), *command[1:], *arguments])


def run(command: "list[str]") -> None:
    """Run in the virtual environment, as if it were activated."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    environment = dict(os.environ, PATH=path, VIRTUAL_ENV=str(VENV), PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    environment.pop("PYTHONHOME", None)
    code = subprocess.run(command, cwd=str(ROOT), env=environment, check=False).returncode
    if code != 0:
        raise StepError(f"exit {code}")


def say(text: str) -> None:
    print(text, flush=True)


# the virtual environment


def prepare(extra: str) -> None:
    """Make .venv and install the package with an extra into it, unless it is there and up to date."""
    wanted = hashlib.sha256((ROOT / "setup.cfg").read_bytes()).hexdigest()
    installed = venv_contents()
    if installed is None:
        with step("make .venv"):
            make_venv()
    elif installed in ([wanted, "dev"], [wanted, extra]):
        return
    with step(f"install .[{extra}] into .venv"):
        with contextlib.suppress(FileNotFoundError):
            STAMP.unlink()
        options = ["--quiet", "--disable-pip-version-check", "--no-input"]
        run([str(PYTHON), "-m", "pip", "install", *options, "--editable", f".[{extra}]"])
        STAMP.write_text(f"{wanted} {extra}\n")


def venv_contents() -> "list[str] | None":
    """What `prepare` wrote, [] if it did not get that far, None if there is no fit environment."""
    version = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([str(PYTHON), "-c", version], stdout=subprocess.PIPE, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    if done.stdout.decode().strip() != "{}.{}".format(*sys.version_info):
        return None
    return STAMP.read_text().split() if STAMP.exists() else []


def make_venv() -> None:
    package = "python{}.{}-venv".format(*sys.version_info)
    if importlib.util.find_spec("ensurepip") is None and not apt_install(package):
        raise StepError("this Python has no ensurepip; on Debian and Ubuntu: apt-get install " + package)
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False).returncode != 0:
        raise StepError("python3 -m venv failed")


# the database servers


def provide_servers() -> "dict[str, str]":
    """Install what can be installed; say loudly what is still missing, or fail if this is CI."""
    missing = missing_servers()
    if "mariadb" in missing and apt_install("mariadb-server"):
        missing = missing_servers()
    if missing:
        say("!" * 100)
        for name, hint in missing.items():
            say(f"NO {name.upper()} SERVER: its tests will not run. To change that: {hint}")
        say("!" * 100)
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            raise StepError("a database server is missing, and CI is set")
    return missing


def missing_servers() -> "dict[str, str]":
    """Look for the servers; for each that is missing, its name and how to install it."""
    command = [str(PYTHON), "-m", "tests.servers"]
    done = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1):
        raise StepError("could not look for database servers")
    missing = {}
    for line in done.stdout.decode().splitlines():
        say(line)
        name, _, hint = line.partition(": missing, ")
        if hint:
            missing[name] = hint
    return missing


def without(missing: "Iterable[str]") -> str:
    names = " and ".join(missing)
    return f", BUT WITHOUT {names.upper()}" if names else ""


def apt_install(package: str) -> bool:
    """Install a Debian package if this user may, without starting any service. True if it did."""
    privileged = privilege()
    if privileged is None or shutil.which("apt-get") is None:
        return False
    say(f"installing {package} with apt-get")
    apt = [*privileged, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    with no_services_started(privileged):
        subprocess.run([*apt, "update", "-qq"], stdout=subprocess.DEVNULL, check=False)
        install = [*apt, "install", "-y", "-qq", "--no-install-recommends", package]
        return subprocess.run(install, stdout=subprocess.DEVNULL, check=False).returncode == 0


def privilege() -> "list[str] | None":
    """Return what to put before a command to run it as root, or None if that can't be."""
    if not hasattr(os, "geteuid"):
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    asked = subprocess.run(["sudo", "-n", "true"], stderr=subprocess.DEVNULL, check=False)
    return ["sudo", "-n"] if asked.returncode == 0 else None


@contextlib.contextmanager
def no_services_started(privileged: "list[str]") -> "Iterator[None]":
    """Keep Debian's packages from starting the server that they bring; the tests start their own."""
    policy = "/usr/sbin/policy-rc.d"
    if Path(policy).exists():
        yield
        return
    script = f"printf '#!/bin/sh\\nexit 101\\n' > {policy} && chmod 755 {policy}"
    subprocess.run([*privileged, "sh", "-c", script], check=False)
    try:
        yield
    finally:
        subprocess.run([*privileged, "rm", "-f", policy], check=False)


# start


def refuse_old_python() -> None:
    if sys.version_info >= OLDEST:
        return
    newer = [name for name in ("python3.13", "python3.12", "python3.11") if shutil.which(name)]
    hint = f"try: {newer[0]} dev.py" if newer else "none was found here"
    version = "{}.{}".format(*sys.version_info)
    sys.exit(f"dev.py needs Python 3.11 or newer, and this is {version}; {hint}")


def main(arguments: "list[str]") -> "int":
    refuse_old_python()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    name, *rest = arguments
    started = time.monotonic()
    try:
        if name in WITH_ARGUMENTS:
            note = WITH_ARGUMENTS[name](rest)
        elif name in COMMANDS and not rest:
            note = COMMANDS[name]()
        else:
            print(f"dev.py: not understood: {' '.join(arguments)}\n\n{HELP}", file=sys.stderr)
            return 2
    except StepError as error:
        say(f"dev.py {name}: FAILED at {error}")
        return 1
    except KeyboardInterrupt:
        say(f"dev.py {name}: interrupted")
        return 130
    if name != "demo":
        say(f"dev.py {name}: everything passed{note}, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
