"""A cable between two private networks of this machine, on which every packet can be made to vanish. Linux, as root."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

__all__ = ["Cable"]

_CLONE_NEWNET = 0x40000000
_FAR, _NEAR = "10.77.0.1", "10.77.0.2"
_NOBODY = "02:00:00:00:00:99"


class Cable:
    """Threads that live `inside` reach what listens at its far end, and nothing else.

    Packets vanish because each end is told a hardware address of the other that nobody has.
    """

    def __init__(self) -> None:
        self._far = _new_network()
        self._near = _new_network()

    @staticmethod
    @cache
    def is_available() -> bool:
        """True if this process may make networks and join them."""
        try:
            with Cable():
                return True
        except (OSError, subprocess.CalledProcessError):
            return False

    def __enter__(self) -> Self:
        path = f"/proc/{os.getpid()}/fd/{self._near}"
        with _living_in(self._far):
            _ip(f"link add far type veth peer name near netns {path}")
            _ip(f"addr add {_FAR}/30 dev far")
            _ip("link set far up")
        with _living_in(self._near):
            _ip(f"addr add {_NEAR}/30 dev near")
            _ip("link set near up")
        return self

    def __exit__(self, *_details: object) -> None:
        os.close(self._far)
        os.close(self._near)

    def listen(self) -> socket.socket:
        """Listens at the far end, whatever network the caller lives in."""
        with _living_in(self._far):
            return socket.create_server((_FAR, 0))

    @contextmanager
    def inside(self) -> Generator[None]:
        """The calling thread, and those that it starts, live at the near end."""
        with _living_in(self._near):
            yield

    def open_hole(self) -> None:
        """From now on every packet vanishes, in both directions."""
        with _living_in(self._far):
            _ip(f"neigh replace {_NEAR} lladdr {_NOBODY} dev far nud permanent")
        with _living_in(self._near):
            _ip(f"neigh replace {_FAR} lladdr {_NOBODY} dev near nud permanent")

    def close_hole(self) -> None:
        """Packets arrive again."""
        with _living_in(self._far):
            _ip(f"neigh del {_NEAR} dev far")
        with _living_in(self._near):
            _ip(f"neigh del {_FAR} dev near")


def _new_network() -> int:
    """A descriptor of a new network; it lives as long as somebody has it open or lives in it."""
    made: list[int | OSError] = []

    def make() -> None:
        try:
            _call("unshare", _CLONE_NEWNET)
            made.append(_open_own())
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (found,) = made
    if isinstance(found, OSError):
        raise found
    return found


@contextmanager
def _living_in(network: int) -> Generator[None]:
    """Moves the calling thread there and back."""
    home = _open_own()
    try:
        _call("setns", network, _CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def _open_own() -> int:
    return os.open(Path("/proc/thread-self/ns/net"), os.O_RDONLY | os.O_CLOEXEC)


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)
