"""The hosts that tests share: for each Debian suite one builder and one client, started when first asked for."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import install, roots
from tests.lab.host import Host

GRAPHS = "/srv/graphs"
"""Where clients have tests/lab/graphs."""


class Lab:
    """All hosts of one test run; a context manager that ends them.

    `ferry` builds nix-ferry and returns the tree to install; it is called for the first client.
    """

    def __init__(self, ferry: Callable[[], Path]) -> None:
        self._ferry = ferry
        self._standalone = False
        self._stack = contextlib.ExitStack()
        self._tree: Path | None = None
        self._builders: dict[str, Host] = {}
        self._clients: dict[str, Host] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def builder(self, suite: str) -> Host:
        """Return the host that builds with the Nix of `suite`; it has an sshd."""
        if suite not in self._builders:
            host = self._start("builder", suite)
            host.start_sshd()
            self._builders[suite] = host
        return self._builders[suite]

    def client(self, suite: str) -> Host:
        """Return the host that has nix-ferry, the graphs, and the Nix of `suite`."""
        if suite not in self._clients:
            host = self._start("client", suite)
            install.install(self.tree(), host)
            host.standalone = self._standalone
            shutil.copytree(Path(__file__).with_name("graphs"), host.path(GRAPHS), symlinks=True)
            self._clients[suite] = host
        return self._clients[suite]

    def tree(self) -> Path:
        """Return nix-ferry as it is to be installed."""
        if self._tree is None:
            self._tree = self._ferry()
        return self._tree

    def standalone(self, alone: bool) -> None:
        """Have hooks work without a broker from now on, or with one."""
        self._standalone = alone
        for client in self._clients.values():
            client.standalone = alone

    def stop_brokers(self) -> None:
        """End what clients keep running between builds, and with it their connections to builders."""
        for client in self._clients.values():
            client.stop_broker()

    def _start(self, role: str, suite: str) -> Host:
        root = roots.root(suite)
        return self._stack.enter_context(Host(f"{role}-{roots.label(suite)}", root))
