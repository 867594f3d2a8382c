"""Which cipher ssh tries first: AES-GCM where nobody has configured any and both processors have instructions for AES.

ssh itself begins with ChaCha20-Poly1305, the fastest where there are none; elsewhere it takes twice as long.  Only the
order changes: everything ssh offers by default stays on offer.

Source: ssh_config(5), on Ciphers.  Tested in test_cipher.py and with a real ssh in lab/test_sharing.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from hook.errors import MachineError
from hook.remote.child import Command
from hook.remote.ssh import ssh_configuration

FIRST = "aes256-gcm@openssh.com"

CPUINFO = "/proc/cpuinfo"
FIRST_PROCESSOR_BYTES = 16 << 10


def cipher_option(command: Command, configuration: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What to tell ssh about ciphers for `command`, of whose ssh this is the configuration: an option, or nothing."""
    if not (command.has_aes and host_has_aes()):
        return ()
    without_files = replace(command, argv=(command.argv[0], "-Fnone", "localhost", "--"))
    try:
        default = ssh_configuration(without_files).get("ciphers")
    except MachineError:
        return ()
    if not default or configuration.get("ciphers") != default:
        return ()
    names = default[0].split(",")
    if FIRST not in names:
        return ()
    names.remove(FIRST)
    return (f"-oCiphers={','.join([FIRST, *names])}",)


@cache
def host_has_aes() -> bool:
    """Whether the processor of this host has instructions for AES."""
    try:
        with open(CPUINFO, "rb") as file:
            return b"aes" in file.read(FIRST_PROCESSOR_BYTES).split()
    except OSError:
        return False
