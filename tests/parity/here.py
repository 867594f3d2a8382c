"""Scenarios of machines that are not reached by ssh: other stores on the client itself, and a daemon of one of them."""

import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.lab.host import Host, Output, connects, wait_until
from tests.lab.offload import nix_build
from tests.lab.roots import SUITES
from tests.parity.scenarios import Scenario

ELSEWHERE = "/root/elsewhere"
SOCKET = "/run/elsewhere.socket"
SANDBOX = {"sandbox_paths": "/bin /lib /lib64 /usr"}
"""A store that is not at /nix/store is built in within a sandbox."""

Act = Callable[[Host, Host], Sequence[Output]]


@contextmanager
def other_daemon(host: Host) -> Iterator[None]:
    """While a daemon of the store ELSEWHERE listens at SOCKET."""
    host.path(SOCKET).unlink(missing_ok=True)
    environment = {"NIX_DAEMON_SOCKET_PATH": SOCKET, "NIX_REMOTE": ""}
    command = ["nix-daemon", "--store", ELSEWHERE]
    daemon = host.popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        path = str(host.path(SOCKET))
        wait_until(lambda: connects(socket.AF_UNIX, path), f"nix-daemon of {ELSEWHERE}")
        yield
    finally:
        host.end(daemon)


def _build(*attributes: str, daemon: bool = False, options: Sequence[str] = ()) -> Act:
    """Build the attributes; `daemon` says that the machine is one."""

    def act(client: Host, _builder: Host) -> Sequence[Output]:
        command = nix_build(*attributes, seed="parity", options=options)
        if not daemon:
            return [client.run(command, check=False)]
        with other_daemon(client):
            return [client.run(command, check=False)]

    return act


def _scenario(
    name: str,
    uri: str,
    act: Act,
    suites: Sequence[str] = SUITES,
    *,
    status: int = 0,
    daemon: bool = True,
    **settings: str,
) -> Scenario:
    return Scenario(
        f"here, {name}",
        act,
        status,
        daemon,
        machines=f"{uri} - - 4 1 - big-parallel ; {uri} - - 4",
        settings={**SANDBOX, **settings},
        machine_store=f"{ELSEWHERE}/nix",
        suites=suites,
    )


FAILING = ("failing", "after-failing", "forgetful", "shapes")

SCENARIOS = (
    _scenario("by path", ELSEWHERE, _build("top")),
    _scenario("by path, as JSON", ELSEWHERE, _build("shapes", options=["--log-format", "internal-json"]), SUITES[2:]),
    # Stock does not show the last lines of the log of such a build; nor do we, if there are to be none.
    _scenario("by path, failing", ELSEWHERE, _build(*FAILING, options=["-k"]), status=1, log_lines="0"),
    _scenario("by parameter, single user", f"local?root={ELSEWHERE}", _build("shapes"), daemon=False, cores="3"),
    _scenario(
        "by socket",
        f"unix://{SOCKET}?root={ELSEWHERE}",
        _build(*FAILING, "featured", daemon=True, options=["-k"]),
        status=1,
        cores="3",
    ),
    _scenario(
        "by ssh-ng",
        f"ssh-ng://localhost?remote-store=local%3Froot%3D{ELSEWHERE}%26require-sigs%3Dfalse",
        _build("shapes", "featured"),
    ),
    _scenario("by ssh", f"ssh://localhost?remote-store={ELSEWHERE}", _build("shapes", "featured")),
)
