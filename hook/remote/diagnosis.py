"""What can be wrong with a machine: recognised in what ssh, a shell or Nix said about it, and what helps.

They say it in words only, so this goes by the words of OpenSSH and of the releases of Nix.  The last part is about
machines that refuse what only trusted users may do.  Pure; tested in test_diagnosis.py, and with a real ssh in the lab.
"""

from dataclasses import dataclass

from hook.errors import MachineError, NotTrusted, Trouble


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong, and what can be done about it, if that is known."""

    trouble: Trouble
    advice: str = ""


OTHER_HOST_KEY = "it is not the key in known_hosts, or in the last column of `builders`"
_NO_HOST_KEY = "add the machine's host key to known_hosts, or to the last column of `builders`"
_TURNED_AWAY = "its sshd turns connections away: see MaxStartups and PerSourcePenalties there"
CLOSED = (
    "its sshd ends the connection: its log there says why; often it is MaxStartups or PerSourcePenalties in its "
    "sshd_config, or an expired password or account ('chage -l USER' there)"
)
_ON_THE_WAY = "what ssh's configuration has on the way there ended: see ProxyJump or ProxyCommand in 'ssh -G'"
_EXPIRED_PASSWORD = "log in there once by hand and change the password, or have it not expire: 'chage -M -1 USER' there"
_EXPIRED_ACCOUNT = "have the account there not expire: 'chage -E -1 USER'"
LOGIN_REFUSED = "the machine refused the key; ssh runs as the user of the Nix daemon, without questions"
_NO_KEY = "the key that the line or ssh's configuration names is not there, or not to be read"
_OPEN_KEY = "ssh takes no key that others may read: 'chmod 600' it"
_SOCKET = (
    "the user that logs in there may not use the Nix daemon there: add that user to the group of its socket, which is "
    "nix-users on Debian: 'usermod -aG nix-users USER'"
)
_NOT_FOUND = "Nix is not installed there, or not in PATH of a non-interactive login; see `remote-program`"
_FULL = "make room there: 'nix-collect-garbage', or 'min-free' in its nix.conf"

NOT_FOUND_STATUS = 127
"""By which shells say that there is no such program."""

SIGNS = (
    (("Host key verification failed", "HOST IDENTIFICATION HAS CHANGED"), Diagnosis(Trouble.HOST_KEY, OTHER_HOST_KEY)),
    (("Host key verification failed",), Diagnosis(Trouble.HOST_KEY, _NO_HOST_KEY)),
    # Through ProxyJump or ProxyCommand, the end of that is no word of the machine itself.
    (("Connection closed by UNKNOWN", "Could not resolve hostname"), Diagnosis(Trouble.UNRESOLVED, _ON_THE_WAY)),
    (("Connection closed by UNKNOWN",), Diagnosis(Trouble.REFUSED, _ON_THE_WAY)),
    (("Could not resolve hostname",), Diagnosis(Trouble.UNRESOLVED)),
    (("Connection refused",), Diagnosis(Trouble.REFUSED)),
    (("No route to host",), Diagnosis(Trouble.UNREACHABLE)),
    (("Network is unreachable",), Diagnosis(Trouble.UNREACHABLE)),
    (("timed out",), Diagnosis(Trouble.TIMED_OUT)),
    (("not responding",), Diagnosis(Trouble.TIMED_OUT)),
    (("Permission denied (", "UNPROTECTED PRIVATE KEY FILE"), Diagnosis(Trouble.AUTHENTICATION, _OPEN_KEY)),
    (("Permission denied (", "Identity file", "not accessible"), Diagnosis(Trouble.AUTHENTICATION, _NO_KEY)),
    (("Permission denied (",), Diagnosis(Trouble.AUTHENTICATION, LOGIN_REFUSED)),
    (("Too many authentication failures",), Diagnosis(Trouble.AUTHENTICATION, LOGIN_REFUSED)),
    (("password has expired",), Diagnosis(Trouble.AUTHENTICATION, _EXPIRED_PASSWORD)),
    (("Password change required",), Diagnosis(Trouble.AUTHENTICATION, _EXPIRED_PASSWORD)),
    (("Connection closed by", "account has expired"), Diagnosis(Trouble.AUTHENTICATION, _EXPIRED_ACCOUNT)),
    (("account has expired",), Diagnosis(Trouble.AUTHENTICATION, _EXPIRED_ACCOUNT)),
    (("daemon-socket", "Permission denied"), Diagnosis(Trouble.OTHER, _SOCKET)),
    # Of a connection that was up, ssh says another thing: "Connection to HOST closed by remote host."
    (("Connection closed by", "kex_exchange_identification"), Diagnosis(Trouble.REFUSED, _TURNED_AWAY)),
    (("Connection reset by", "kex_exchange_identification"), Diagnosis(Trouble.REFUSED, _TURNED_AWAY)),
    (("kex_exchange_identification",), Diagnosis(Trouble.REFUSED, _TURNED_AWAY)),
    (("Connection closed by", " port "), Diagnosis(Trouble.REFUSED, CLOSED)),
    (("Connection reset by", " port "), Diagnosis(Trouble.REFUSED, CLOSED)),
)
"""What ssh, or Nix there, says: words that are all in it.

The latest first word counts, and of equals the first row: what a banner says comes before the reason.
"""

FULL = ("No space left on device", "database or disk is full", "lack of free disk space")
"""What Nix says when the disk is full; the last of it after a build that failed on an almost full one."""

LOG_QUOTE = ">"
ORNAMENT = " \x1b[0123456789;m"
"""What may stand before a quoted line of a log: blanks and colours."""


SHARING = ("muxclient:", "mux_client_", "control master")
"""What ssh says of itself when the connection that it was to share is no use to it."""


def blames_sharing(said: str) -> bool:
    """Whether ssh failed only because it was to share a connection."""
    return any(sign in said for sign in SHARING)


def diagnose(said: str, status: int | None) -> Diagnosis | None:
    """What is wrong, by what ssh or the shell there said and the exit status of ssh; None if that is not known."""
    if status == NOT_FOUND_STATUS:
        return Diagnosis(Trouble.NO_NIX, _NOT_FOUND)
    if is_disk_full(said):
        return Diagnosis(Trouble.DISK_FULL, _FULL)
    found = [(said.rfind(signs[0]), diagnosis) for signs, diagnosis in SIGNS if all(sign in said for sign in signs)]
    return max(found, key=lambda at_and_diagnosis: at_and_diagnosis[0])[1] if found else None


def is_disk_full(said: str) -> bool:
    """Whether Nix says so itself, and not the log of a build that it quotes."""
    lines = (line for line in said.splitlines() if not line.lstrip(ORNAMENT).startswith(LOG_QUOTE))
    return any(sign in line for line in lines for sign in FULL)


def trouble_of(said: str) -> Trouble:
    """What is wrong when an operation was refused with these words."""
    return Trouble.DISK_FULL if is_disk_full(said) else Trouble.OTHER


TRUST_THE_USER = "add the user that logs in there to `trusted-users` in nix.conf of that machine"

NOT_PRIVILEGED = "you are not privileged to build"
"""What older daemons say, and all of them over ssh, to whoever asks for an input-addressed derivation."""

ADVICE = (
    ("lacks a signature by a trusted key", f"{TRUST_THE_USER}, or sign the path with one of its `trusted-public-keys`"),
    ("lacks a valid signature", f"{TRUST_THE_USER}, or sign the path with one of its `trusted-public-keys`"),
    (NOT_PRIVILEGED, TRUST_THE_USER),
)
"""What daemons say, and what helps."""


def with_advice(error: MachineError) -> MachineError:
    """`error`, as NotTrusted and with advice if that is what it is about."""
    text = error.one_line
    advice = next((advice for words, advice in ADVICE if words in text), None)
    return error if advice is None else NotTrusted(text, error.trouble, advice)
