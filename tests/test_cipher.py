"""Who has configured ciphers keeps them; nobody loses one.

`ssh` is a script that answers `-G` as ssh does; which cipher a real one uses is in tests/lab/test_sharing.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hook import cipher
from hook.cipher import cipher_option, host_has_aes
from hook.transport import Command, ssh_configuration

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
        '[ "$ciphers" != fails ] || exit 1\n'
        'echo "ciphers $ciphers"\n'
    )
    ssh.chmod(0o755)
    return Command((str(ssh), "b1", "-x", "--", "nix-daemon"), {"PATH": "/usr/bin:/bin"}, has_aes=has_aes)


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
