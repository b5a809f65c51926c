"""A MariaDB Galera cluster on this machine: every node takes writes, and may be killed and rejoin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from attrs import frozen
from sqlalchemy import make_url

from tests.servers import MariaDBServer, free_port, is_mariadb, is_root
from tests.waiting import wait_until

__all__ = ["Cluster", "Node"]

_PROVIDERS = ("/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera-4/libgalera_smm.so")
# By default a node that was killed is missed for five seconds, in which nobody commits.
_PATIENCE = "evs.keepalive_period=PT0.5S;evs.suspect_timeout=PT3S;evs.inactive_timeout=PT6S"


@frozen
class _Ports:
    """What a node listens on beside the port for clients."""

    group: int
    increments: int
    snapshots: int


class Node(MariaDBServer):
    """One node. That which `founds` the cluster is started first; the others take their data from those that run."""

    name: ClassVar[str] = "galera"
    how_to_install: ClassVar[str] = "apt-get install galera-4 mariadb-server"

    def __init__(self, *, founds: bool, fsync: bool = False) -> None:
        super().__init__(fsync=fsync)
        self.ports = _Ports(free_port(), free_port(), free_port())
        self.peers: Sequence[Node] = ()
        self._founds = founds

    @classmethod
    def find(cls) -> Path | None:
        """MariaDB, if the library that makes it a node is there too."""
        server = super().find()
        return server if server is not None and is_mariadb(server) and _provider() is not None else None

    @property
    def _user(self) -> str | None:
        # As root, the rsync that hands a joining node its data would step down to a user who may read nothing.
        return "mysql" if is_root() else None

    def _user_option(self) -> list[str]:
        return []

    def _command(self, directory: Path) -> list[str]:
        group = ",".join(f"127.0.0.1:{peer.ports.group}" for peer in self.peers)
        provider = {
            "base_host": "127.0.0.1",
            "gmcast.listen_addr": f"tcp://127.0.0.1:{self.ports.group}",
            "ist.recv_addr": f"127.0.0.1:{self.ports.increments}",
            "gcache.size": "64M",
        }
        settings = {
            "wsrep-on": "ON",
            "wsrep-provider": _provider(),
            "wsrep-provider-options": ";".join([*(f"{key}={value}" for key, value in provider.items()), _PATIENCE]),
            "wsrep-cluster-name": "durable-sync",
            "wsrep-cluster-address": "gcomm://" if self._founds else f"gcomm://{group}",
            "wsrep-node-address": f"127.0.0.1:{self.ports.group}",
            "wsrep-sst-method": "rsync",
            "wsrep-sst-receive-address": f"127.0.0.1:{self.ports.snapshots}",
            "wsrep-slave-threads": 4,
            "binlog-format": "ROW",
            "innodb-autoinc-lock-mode": 2,
        }
        self._founds = False
        return [*super()._command(directory), *(f"--{key}={value}" for key, value in settings.items())]

    def status(self, name: str) -> str:
        """One of the status variables that begin with `wsrep_`."""
        ((_name, value),) = self._execute(f"SHOW STATUS LIKE 'wsrep_{name}'")
        return str(value)


class Cluster:
    """Three nodes. To be used from one thread at a time."""

    def __init__(self, *, fsync: bool = False) -> None:
        self.nodes = [Node(founds=place == 0, fsync=fsync) for place in range(3)]
        for node in self.nodes:
            node.peers = self.nodes
        self._conflicts_of_the_killed = 0

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_details: object) -> None:
        for node in self.nodes:
            node.close()

    def create_database(self) -> list[str]:
        """Makes a database; its URLs, one for each node."""
        url = make_url(self.nodes[0].create_database())
        return [url.set(port=node.port).render_as_string() for node in self.nodes]

    def kill(self, node: Node) -> None:
        """Kills a node, and waits until the others miss it: until then nobody commits."""
        self._conflicts_of_the_killed += _conflicts(node)
        running = sum(node.is_running for node in self.nodes)
        node.kill()
        for other in self.nodes:
            if other.is_running:
                wait_until(lambda other=other: other.status("cluster_size") == str(running - 1), 30, "missed")

    def conflicts(self) -> int:
        """Transactions that were undone so far, because those of another node touched the same rows."""
        return self._conflicts_of_the_killed + sum(_conflicts(node) for node in self.nodes if node.is_running)


def _conflicts(node: Node) -> int:
    return int(node.status("local_cert_failures")) + int(node.status("local_bf_aborts"))


def _provider() -> Path | None:
    return next((path for path in map(Path, _PROVIDERS) if path.exists()), None)
