"""Who has configured ciphers keeps them; nobody loses one.

`ssh` is a script that answers `-G` as ssh does; which cipher a real one uses is in tests/lab/test_sharing.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.cli.probe.speed import Speed, measure
from hook.machines.builders import Machine, parse_machines
from hook.remote import cipher
from hook.remote.child import Command
from hook.remote.cipher import cipher_option, host_has_aes
from hook.remote.routes import Routes
from hook.remote.ssh import ssh_configuration
from hook.values.settings import Settings

DEFAULT = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr"
QUICKEST = ("-oCiphers=aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes128-ctr",)


@pytest.fixture(autouse=True)
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the kernel says of a processor that has instructions for AES."""
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu pclmulqdq aes xsave\n")
    monkeypatch.setattr(cipher, "CPUINFO", str(file))
    host_has_aes.cache_clear()
    yield file
    host_has_aes.cache_clear()


def command(bin_dir: Path, configured: str = DEFAULT, default: str = DEFAULT, *, has_aes: bool = True) -> Command:
    """A command whose ssh has these ciphers, and those by default."""
    ssh = bin_dir / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" -Fnone "*) ciphers={default};; *) ciphers={configured};; esac\n'
        f'case " $* " in *" -G "*|*" -V "*) ;; *) echo " $* " >> {bin_dir}/uses;; esac\n'
        '[ "$ciphers" != fails ] || exit 1\n'
        'echo "controlmaster false"; echo "ciphers $ciphers"\n'
    )
    ssh.chmod(0o755)
    return Command((str(ssh), "b1", "-x", "--", "nix-daemon"), {"PATH": "/usr/bin:/bin"}, has_aes=has_aes)


@pytest.mark.parametrize(
    ("system", "has_aes"), [("x86_64-linux", True), ("i686-linux,x86_64-linux", True), ("aarch64-linux", False)]
)
def test_a_machine_is_known_by_its_systems(tmp_path: Path, system: str, has_aes: bool) -> None:
    assert commands(tmp_path, system)[1].has_aes is has_aes


@pytest.mark.parametrize("configured", [DEFAULT, "aes128-ctr", "fails"])
def test_the_speed_of_a_link_is_measured_with_the_cipher_of_builds(tmp_path: Path, configured: str) -> None:
    """Also by an ssh that cannot say what it would do."""
    command(tmp_path, configured)
    assert measure(*commands(tmp_path, "x86_64-linux")[0]) == Speed()
    uses = (tmp_path / "uses").read_text().splitlines()
    assert [f" -x {QUICKEST[0]} " in use for use in uses] == [configured == DEFAULT] * 2


def commands(bin_dir: Path, system: str) -> tuple[tuple[Machine, Routes], Command]:
    """A machine and a way to it by the ssh in `bin_dir`; what that leads to."""
    machines, _ = parse_machines(f"ssh://b1 {system}", default_system=system, release=(2, 34), read_file=str)
    routes = Routes(Settings({}), (2, 34), {"PATH": f"{bin_dir}:/usr/bin:/bin"}, "/private", 1, 5)
    way = routes.to(machines[0])
    assert isinstance(way, Command)
    return (machines[0], routes), way


def option(command: Command) -> tuple[str, ...]:
    return cipher_option(command, ssh_configuration(command))


def test_only_the_order_changes(tmp_path: Path) -> None:
    assert option(command(tmp_path)) == QUICKEST


@pytest.mark.parametrize(
    "configured", ["aes128-ctr", "chacha20-poly1305@openssh.com", DEFAULT.replace(",aes128-ctr", "")]
)
def test_what_is_configured_counts(tmp_path: Path, configured: str) -> None:
    """By the user, or by the system's policy."""
    assert option(command(tmp_path, configured)) == ()


def test_a_processor_without_aes_does_without(tmp_path: Path, processor: Path) -> None:
    """On either side; what cannot be read has none."""
    assert option(command(tmp_path, has_aes=False)) == ()
    for text in ("Features\t: fp asimd crc32\n", ""):
        processor.write_text(text)
        host_has_aes.cache_clear()
        assert option(command(tmp_path)) == ()
    processor.unlink()
    host_has_aes.cache_clear()
    assert option(command(tmp_path)) == ()


@pytest.mark.parametrize("default", ["chacha20-poly1305@openssh.com,aes128-ctr", "fails", "''"])
def test_an_ssh_of_another_kind_is_left_alone(tmp_path: Path, default: str) -> None:
    configured = "aes128-ctr" if default == "fails" else default
    assert option(command(tmp_path, configured, default)) == ()
