"""What the column of a host key may hold, and which lines for ssh become of it."""

import base64
import errno
import os
from pathlib import Path

import pytest

from hook import scratch
from hook.errors import ConfigurationError
from hook.remote.hostkey import known_hosts_file, known_hosts_lines

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIHnBSNwTpZKDwUxkVhGZ7rQeTIkCXpKJr6iM4Wz4mV9y"
KEY = f"ssh-ed25519 {BLOB}"

LINES = {
    f"{KEY} root@b1\n": [f"* {KEY} root@b1"],
    f"{KEY} root@b1 of 2021": [f"* {KEY} root@b1 of 2021"],
    f"b1.example.org {KEY}": [f"* {KEY}"],
    f"[127.0.0.1]:2222,b1 {KEY} root@b1": [f"* {KEY} root@b1"],
    f"|1|c2FsdA==|aGFzaA== {KEY}": [f"* {KEY}"],
    f"@cert-authority *.example.org {KEY}": [f"@cert-authority * {KEY}"],
    f"@cert-authority {KEY}": [f"@cert-authority * {KEY}"],
    BLOB: [f"* {KEY}"],
    f"b1 {BLOB}": [f"* {KEY}"],
    f"# b1:22 SSH-2.0-OpenSSH_9.2\n\nb1 {KEY}\nb1 ssh-rsa AAAA\n": [f"* {KEY}", "* ssh-rsa AAAA"],
    "ecdsa-sha2-nistp256 AAAA": ["* ecdsa-sha2-nistp256 AAAA"],
    "sk-ssh-ed25519@openssh.com AAAA": ["* sk-ssh-ed25519@openssh.com AAAA"],
    f"@revoked b1 {KEY}": [],
    "SHA256:uNiVztksCsDhcc0u9e8BrWQZRKMUUmPbmFb6B3Y1lHk": [],
    "": [],
}


@pytest.mark.parametrize("text", LINES)
@pytest.mark.parametrize("padding", ["padded", "bare"])
def test_a_column_becomes_lines_that_are_valid_for_every_name(text: str, padding: str) -> None:
    """Also one that was copied from known_hosts; stock's base64 needs no padding."""
    column = base64.b64encode(text.encode()).decode()
    if padding == "bare":
        column = column.rstrip("=")
    if LINES[text]:
        assert known_hosts_lines(column) == LINES[text]
    else:
        with pytest.raises(ConfigurationError, match=r"^the public host key is base64 of '"):
            known_hosts_lines(column)


def test_the_key_itself_is_taken_too() -> None:
    """It is base64 already, and tells its own type."""
    assert known_hosts_lines(BLOB) == [f"* {KEY}"]


def test_what_it_decodes_to_and_what_is_expected_is_said() -> None:
    """Whoever wrote something else into the column does not see it otherwise."""
    column = base64.b64encode(("SHA256:uNi\x1b[31m" + "x" * 1000).encode()).decode()
    with pytest.raises(ConfigurationError) as caught:
        known_hosts_lines(column)
    assert str(caught.value) == (
        f"the public host key is base64 of 'SHA256:uNi{'x' * 45}…', expected base64 of a line like 'ssh-ed25519 AAAA…'"
    )


@pytest.mark.parametrize("column", ["*", "ssh-ed25519", "é"])
def test_what_is_not_base64_at_all_is_refused(column: str) -> None:
    with pytest.raises(ConfigurationError, match="is not base64, expected base64 of a line like"):
        known_hosts_lines(column)


@pytest.mark.parametrize("column", ["", "A", "AAA", "AAAA", "/////w=="])
def test_bytes_that_are_no_key_are_refused(column: str) -> None:
    """A length that reaches beyond the end is no reason to fail in another way."""
    with pytest.raises(ConfigurationError, match="is base64 of '"):
        known_hosts_lines(column)


def test_a_full_disk_is_not_filled_with_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection tries anew, and an empty file finds room there; the file is made elsewhere then."""

    def full(fd: int, mode: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path / "state")):
            raise OSError(errno.ENOSPC, "No space left on device")
        chmod(fd, mode)

    chmod = os.fchmod
    monkeypatch.setattr(os, "fchmod", full)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    try:
        path = known_hosts_file(BLOB, str(tmp_path / "state"))
        assert Path(path).read_text() == f"* {KEY}\n"
        assert list((tmp_path / "state" / "known-hosts").iterdir()) == []
    finally:
        scratch.remove()
