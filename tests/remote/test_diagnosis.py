"""What is wrong with a machine, by the words of ssh, of shells and of several releases of Nix."""

import pytest

from hook.errors import ConnectionLost, MachineError, NotTrusted, Trouble
from hook.remote.diagnosis import LOGIN_REFUSED, diagnose, is_disk_full, trouble_of, with_advice

SAID = {
    "ssh: Could not resolve hostname b1: Name or service not known": Trouble.UNRESOLVED,
    "ssh: Could not resolve hostname b1: Temporary failure in name resolution": Trouble.UNRESOLVED,
    "ssh: connect to host b1 port 22: Connection refused": Trouble.REFUSED,
    "kex_exchange_identification: Connection closed by remote host": Trouble.REFUSED,
    "ssh: connect to host b1 port 22: No route to host": Trouble.UNREACHABLE,
    "ssh: connect to host b1 port 22: Network is unreachable": Trouble.UNREACHABLE,
    "ssh: connect to host b1 port 22: Connection timed out": Trouble.TIMED_OUT,
    "Connection timed out during banner exchange\nConnection to 10.0.0.1 port 22 timed out": Trouble.TIMED_OUT,
    "Timeout, server b1 not responding.": Trouble.TIMED_OUT,
    "No ED25519 host key is known for b1.\nHost key verification failed.": Trouble.HOST_KEY,
    "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.": Trouble.HOST_KEY,
    "root@b1: Permission denied (publickey,keyboard-interactive).": Trouble.AUTHENTICATION,
    "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures": Trouble.AUTHENTICATION,
    "WARNING: Your password has expired.\nPassword change required but no TTY available.": Trouble.AUTHENTICATION,
    "Your account has expired; see us.\nConnection closed by 10.0.0.1 port 22": Trouble.AUTHENTICATION,
    "Connection closed by 10.0.0.1 port 22": Trouble.REFUSED,
    "Connection reset by 10.0.0.1 port 22": Trouble.REFUSED,
    'error: getting status of "/nix/var/nix/daemon-socket/socket": Permission denied': Trouble.OTHER,
    "error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Permission denied": Trouble.OTHER,
    "error: writing to file: No space left on device": Trouble.DISK_FULL,
    "error: executing SQLite query: database or disk is full": Trouble.DISK_FULL,
}


@pytest.mark.parametrize("said", SAID)
def test_trouble_is_known_by_its_words(said: str) -> None:
    found = diagnose(f"Authorised use only.\n{said}", 255)
    assert found is not None
    assert found.trouble is SAID[said]


def test_a_banner_does_not_hide_the_reason() -> None:
    """It may have any words, and comes first."""
    banner = "Sessions are timed out.  Connection refused to strangers.  Your password has expired yesterday.\n" * 60
    found = diagnose(f"{banner}root@b1: Permission denied (publickey).", 255)
    assert found is not None
    assert found.trouble is Trouble.AUTHENTICATION
    assert found.advice == LOGIN_REFUSED


REFUSED = "root@b1: Permission denied (publickey)."


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        (f"Warning: Identity file /k not accessible: No such file or directory.\n{REFUSED}", "is not there"),
        (f"@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nbad permissions\n{REFUSED}", "chmod 600"),
        ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.", "it is not the key"),
        ("No ED25519 host key is known.\nHost key verification failed.", "add the machine's host key"),
        ("kex_exchange_identification: read: reset\nConnection reset by 10.0.0.1 port 22", "turns connections away"),
        ("Connection closed by 10.0.0.1 port 22", "its log there says why"),
        ("ssh: Could not resolve hostname jump: gone\nConnection closed by UNKNOWN port 65535", "ssh -G"),
        ("kex_exchange_identification: closed\nConnection closed by UNKNOWN port 65535", "ssh -G"),
        ("Your password has expired.", "chage -M -1 USER"),
        ("Your account has expired.\nConnection closed by 10.0.0.1 port 22", "chage -E -1 USER"),
        ("cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Permission denied", "nix-users"),
        ("No space left on device", "nix-collect-garbage"),
    ],
)
def test_advice_is_about_the_cause(said: str, helps: str) -> None:
    found = diagnose(said, 255)
    assert found is not None
    assert helps in found.advice


def test_a_missing_program_is_known_by_the_status_of_the_shell() -> None:
    """Each shell has its own words for it."""
    for said in ("fish: Unknown command: nix-daemon", "nix-daemon: nicht gefunden", ""):
        found = diagnose(said, 127)
        assert found is not None
        assert found.trouble is Trouble.NO_NIX


def test_what_is_not_known_is_not_guessed() -> None:
    """Among others a file that may not be read is no login that was refused."""
    assert diagnose("error: opening lock file '/nix/var/nix/db/big-lock': Permission denied", 1) is None
    assert diagnose("", 255) is None
    assert diagnose("error: unable to download: Recv failure: Connection reset by peer", 1) is None
    assert trouble_of("path '/nix/store/x' is not valid") is Trouble.OTHER


FULL_2_34 = """\
Cannot build '/nix/store/x.drv'.
Reason: \x1b[31;1mbuilder failed with exit code 1\x1b[0m.
Last 1 log lines:
\x1b[32;1m> cat: write error: No space left on device\x1b[0m
For full logs, run:
  nix log /nix/store/x.drv
"""
NOTE = "note: build failure may have been caused by lack of free disk space"


def test_the_log_of_a_build_says_nothing_about_the_machine() -> None:
    """A test suite may print that, too, and fail for reasons of its own: its failure is final."""
    assert not is_disk_full(FULL_2_34)
    assert not is_disk_full("builder failed;\n       last 1 log lines:\n       > cp: No space left on device")
    assert is_disk_full(FULL_2_34 + NOTE)


def test_each_kind_has_words_of_its_own() -> None:
    assert len({trouble.words for trouble in Trouble}) == len(Trouble.__members__)


PATH = "/nix/store/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-input"


@pytest.mark.parametrize(
    "text",
    [
        f"it refused an input: cannot add path '{PATH}' because it lacks a signature by a trusted key",
        f"it refused an input: cannot add path '{PATH}' because it lacks a valid signature",
    ],
)
def test_a_missing_signature_can_be_mended_in_two_ways(text: str) -> None:
    error = with_advice(MachineError(text))
    assert isinstance(error, NotTrusted)
    assert str(error).startswith(text)
    assert "`trusted-users`" in str(error)
    assert "`trusted-public-keys`" in str(error)


def test_signatures_are_no_advice_where_they_do_not_help() -> None:
    """Older daemons build input-addressed derivations for trusted users only, whatever is signed."""
    lost = ConnectionLost("unexpected end of file: error: you are not privileged\nto build input-addressed derivations")
    text = str(with_advice(lost))
    assert "`trusted-users`" in text
    assert "sign" not in text
    assert "\n" not in text


def test_other_errors_stay_what_they_are() -> None:
    error = ConnectionLost("unexpected end of file")
    assert with_advice(error) is error
