"""Where fuzzing begins: recorded conversations, and inputs that were interesting or once failed.

Those are kept in one file for each target, hexadecimal, an input a line.
"""

from collections.abc import Iterable
from pathlib import Path

from tests import VECTORS

CORPUS = Path(__file__).parent / "corpus"

WHOLE_BUILD = {"worker": bytes([0, 7, 3, 2, 2, 5, 5, 0]), "serve": bytes([0, 7, 3, 6, 2, 2, 5, 5])}
"""The operations that recorded conversations consist of, more or less."""

TEXTS: dict[str, tuple[bytes, ...]] = {
    "derivation": (
        b'Derive([("out","/nix/store/a","",""),("dev","","r:sha256","")],[("/nix/store/b.drv",["out"])],["/nix/store/c"],'
        b'"x86_64-linux","/bin/sh",["-c","a \\\\ \\n\\""],[("k","v")])',
    ),
    "realisation": (
        b'{"dependentRealisations":{},"id":"sha256:%s!out","outPath":"%s-a","signatures":["k:c2ln"]}'
        % (b"ab" * 32, b"0" * 32),
    ),
    "machines": (
        b"ssh-ng://u@h:22?compress=true&remote-store=/a%20b x86_64-linux,i686-linux /k 4 1.5 kvm big-parallel c3No\n"
        b"@/etc/nix/machines\nssh://[fe80::1%25eth0]:22 # comment ; b2\nlocalhost - - 0\nauto;daemon;unix:///s;/a/../b",
    ),
    "config": (b"broker = true\nconnect-timeout = 5\nlook-ahead = 3\n",),
    "greeting": (b"0.1.0-5f\0002\0003\00042\0A=b\0PATH=/\0",),
}


def recorded(target: str) -> Iterable[bytes]:
    """What real Nix said, for targets that understand it, and texts that show what there is."""
    match target:
        case "worker" | "serve":
            directory = VECTORS / {"worker": "wp", "serve": "sp"}[target]
            return [WHOLE_BUILD[target] + path.read_bytes() for path in sorted(directory.glob("*.s2c"))]
        case "request":
            return [path.read_bytes() for path in sorted((VECTORS / "hook").glob("*.stdin"))]
    return TEXTS[target]


def kept(target: str) -> list[bytes]:
    """The inputs that are kept."""
    file = CORPUS / target
    return [bytes.fromhex(line) for line in file.read_text().split()] if file.exists() else []
