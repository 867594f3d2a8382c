"""The sshd of a machine that tests of advice break, and what the doctor says of the machine."""

from tests.lab.host import Host
from tests.lab.test_doctor import examine

PATIENT = "PerSourcePenalties no"
"""All tests come from one address, and some logins are to fail."""

VISITOR = "visitor"


def serve(client: Host, box: Host, *options: str) -> None:
    """Have sshd there start anew, with these options."""
    box.stop_sshd()
    box.start_sshd(*options, PATIENT)
    client.trust(box)


def advice(client: Host, builders: str, title: str) -> tuple[str, str]:
    """What is wrong, and what helps."""
    level, text, fix = examine(client, "--option", "builders", builders)[title]
    assert level == "wrong", text
    return text, fix


def is_well(client: Host, builders: str) -> bool:
    """Whether nothing is wrong any more; whom a machine trusts is another matter."""
    found = examine(client, "--option", "builders", builders)
    return all(level != "wrong" for name, (level, _, _) in found.items() if not name.endswith(" trust"))


def close_daemon(host: Host) -> None:
    """As Debian's package does."""
    host.run(["groupadd", "-f", "nix-users"])
    host.run(["chgrp", "nix-users", "/nix/var/nix/daemon-socket"])
    host.run(["chmod", "750", "/nix/var/nix/daemon-socket"])
