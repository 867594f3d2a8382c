"""Where ssh would go, as far as an open port."""

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hook.cli.probe import way
from hook.cli.probe.way import Way, look, resolver
from hook.machines.builders import parse_machines


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of the loopback interface with somebody behind it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> Iterator[int]:
    """One that is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def options(**values: str) -> Mapping[str, list[str]]:
    return {"hostname": ["127.0.0.1"], "user": ["root"], **{name: [value] for name, value in values.items()}}


def test_an_open_port_is_found(listening: int) -> None:
    assert look(options(port=str(listening))) == Way("127.0.0.1", listening, "root", open_at="127.0.0.1")


def test_a_closed_port_is_told_with_the_reason(closed: int) -> None:
    found = look(options(port=str(closed)))
    assert (found.closed, found.open_at) == ((("127.0.0.1", "Connection refused"),), "")


def test_a_name_without_an_address_is_told_with_the_reason() -> None:
    """Of whatever kind: one that DNS could not hold, too."""
    assert look(options(hostname="nowhere.invalid")).unresolved
    assert look(options(hostname="a" * 64 + ".invalid")).unresolved
    assert look(options(hostname="::1", addressfamily="inet")).unresolved


@pytest.mark.parametrize(
    ("name", "title"), [("proxyjump", "ProxyJump bastion"), ("proxycommand", "ProxyCommand bastion")]
)
def test_what_goes_through_another_machine_is_not_tried_from_here(name: str, title: str) -> None:
    """The name may mean something there only."""
    assert look(options(hostname="nowhere.invalid", **{name: "bastion"})) == Way(
        "nowhere.invalid", 22, "root", through=title
    )


@pytest.mark.parametrize("name", ["directory", "pipe", "key.pub"])
def test_what_cannot_be_a_key_is_not_to_be_closed_to_others(tmp_path: Path, name: str) -> None:
    """To be told so of a directory would do harm; and nobody waits for a pipe."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOoQhHD72FWl me\n")
    line = f"ssh-ng://b1 - {tmp_path / name}"
    (machine,), _ = parse_machines(line, default_system="x86_64-linux", release=(2, 34), read_file=str)
    text, fix = way._key(machine, Way("b1", 22, "root", ()))
    assert text == f"the key '{tmp_path / name}' is {'a public one' if name == 'key.pub' else 'no file'}"
    assert fix.endswith("name another key in the 3rd column (builders)")
    assert "chmod" not in fix


def test_a_port_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that ssh has, too."""
    waited: list[float | None] = []

    class Silent(socket.socket):
        def connect(self, _: object) -> None:
            waited.append(self.gettimeout())
            raise TimeoutError

    monkeypatch.setattr(way.socket, "socket", Silent)
    assert look(options(connecttimeout="7")).closed == (("127.0.0.1", "no answer within 7 s"),)
    assert look(options(connecttimeout="none")).closed == (("127.0.0.1", "no answer within 30 s"),)
    assert waited == [7, 30]


def test_who_resolves_names_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(way, "RESOLV_CONF", str(file))
    assert resolver() == f"{file}: No such file or directory"
    file.write_text("# search\nsearch example\n")
    assert resolver() == f"{file}: no nameserver"
    file.write_text("nameserver 192.0.2.1\nnameserver\nnameserver 192.0.2.2\n")
    assert resolver() == f"{file}: 192.0.2.1, 192.0.2.2"
