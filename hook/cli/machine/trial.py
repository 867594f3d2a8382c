"""A first build on a machine, which shows that builds there work: an input goes there, and an output comes back.

The input is a path that this host vouches for alone, as it does for whatever it has built itself: nobody has signed it,
and its content does not follow from its name.  A machine that does not trust us refuses it.  Tested with real daemons
in tests/lab/test_add.py.
"""

import os
import subprocess
import uuid
from collections.abc import Mapping

from hook.cli.install import where as place
from hook.errors import FerryError
from hook.machines.builders import Machine
from hook.protocol.wire import Writer
from hook.values.path import encode_base32

BUILD = """
derivation {
  name = "nix-ferry-proof";
  system = "%s";
  seed = "%s";
  requiredSystemFeatures = [ %s ];
  input = %s;
  builder = "/bin/sh";
  args = [ "-euc" "read -r word < $input; echo $word > $out" ];
}
"""
TIMEOUT_S = 120
EXPORT_MAGIC = 0x4558494E


def try_out(machine: Machine, line: str, environ: Mapping[str, str], store_dir: str, *, trusts: bool) -> None:
    """Build something on `machine`, whose line of `builders` this is, and nowhere else.

    The input is signed by nobody if the machine `trusts` us.  FerryError, with what Nix said, if that fails.
    """
    word = str(uuid.uuid4())
    if trusts:
        source = f'builtins.storePath "{_add_unsigned(word, environ, store_dir)}"'
    else:
        source = f'builtins.toFile "nix-ferry-proof-input" "{word}\\n"'
    features = " ".join(f'"{name}"' for name in sorted(machine.mandatory))
    command = ["nix-build", "--no-out-link", "-j0", "--builders", line]
    if os.access(place.hook_path(), os.X_OK):
        command += ["--option", "build-hook", place.hook_path()]
    expression = BUILD % (machine.systems[0], word, features, source)
    output = _run([*command, "--option", "substitute", "false", "-E", expression], environ, b"", "a build there")
    # A store below another root is not for us to look into.
    if os.path.exists(output):
        with open(output, encoding="utf-8", errors="replace") as file:
            if file.read() != f"{word}\n":
                raise FerryError(f"a build there made '{output}', which is not what was to be built")


def _add_unsigned(word: str, environ: Mapping[str, str], store_dir: str) -> str:
    """Make a file that says `word` valid here, on our word alone; returns its path."""
    path = f"{store_dir}/{encode_base32(os.urandom(20))}-nix-ferry-proof-input"
    w = Writer()
    w.u64(1)
    for token in ("nix-archive-1", "(", "type", "regular", "contents", f"{word}\n", ")"):
        w.string(token)
    # The export format: what is known of the path follows its NAR.  It has no deriver and no signature.
    w.u64(EXPORT_MAGIC)
    w.string(path)
    w.strings([])
    w.string("")
    w.u64(0)
    w.u64(0)
    _run(["nix-store", "--import"], environ, w.take(), "adding a path to the store of this host")
    return path


def _run(command: list[str], environ: Mapping[str, str], data: bytes, what: str) -> str:
    """What it prints; FerryError if it fails."""
    try:
        done = subprocess.run(command, env=environ, input=data, capture_output=True, timeout=TIMEOUT_S, check=True)
    except subprocess.TimeoutExpired:
        raise FerryError(f"{what} did not end within {TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        said = [text for text in lines if text.startswith("error: ")] or lines[-1:] or [f"status {error.returncode}"]
        raise FerryError(f"{what} failed: {said[0].removeprefix('error: ')}") from None
    return done.stdout.decode(errors="replace").strip()
