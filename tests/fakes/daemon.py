"""A scripted Nix daemon on standard input and output: `python tests/fakes BEHAVIOUR[,…] --stdio`.

Builds nothing: an output whose path is known is a file that holds its own path, for the others see `float`.  BEHAVIOUR
names what goes wrong, and when, or which Nix this is; `ok` means nothing special.  Each behaviour is a method or a
branch below or in server.py, and has a test that names it.
"""

import hashlib
import json
import os
import sys
from dataclasses import dataclass

from hook.protocol.building import BuildStatus
from hook.protocol.handshake import OUTPUTS_AS_PATHS
from hook.protocol.wire import Reader
from hook.protocol.worker import Op, Stderr, read_path_info
from hook.store.content import counts_positions, hash_modulo
from hook.values.derivation import parse_derivation
from hook.values.info import PathInfo, format_hash
from hook.values.path import base_name, source_path
from tests import oracles
from tests.fakes.server import Server
from tests.fakes.source import BytesSource

NOBODY_HAS = "/nix/store/00000000000000000000000000000008-nobody-has"
CHATTY_LINES = 200_000
UNSIGNED = "cannot add path '{}' because it lacks a signature by a trusted key"
MISMATCH = "hash mismatch importing path '\x1b[35;1m{}\x1b[0m';\n  specified: …\n  got:       …"
FULL = "error: writing to file: No space left on device"
NOT_PRIVILEGED = "you are not privileged to build input-addressed derivations"


@dataclass
class Built:
    """An output; all of them are files."""

    content: bytes
    references: tuple[str, ...] = ()
    ca: str = ""


class Daemon(Server):
    """What is uploaded to it, built and downloaded."""

    def __init__(self, behaviour: str) -> None:
        super().__init__(behaviour)
        self.uploaded: dict[str, bytes] = {}
        self.built: dict[str, Built] = {}
        self.builds = 0

    def set_options(self) -> None:
        for _ in range(12):
            self.r.u64()
        options = {self.r.text(): self.r.text() for _ in range(self.r.u64())}
        print(f"options: {options}", file=sys.stderr)
        self.w.u64(Stderr.LAST)

    def add_temp_root(self) -> None:
        path = self.r.text()
        if "own-store" in self.behaviour:
            with open(os.path.join(os.environ["OWN_STATE"], "temproots", "1"), "w") as roots:
                roots.write(path + "\0")
        self.w.u64(Stderr.LAST)
        self.w.u64(1)

    def query_valid_paths(self) -> None:
        wanted = self.r.texts()
        if self.version >= 0x11B:
            self.r.flag()
        self.w.u64(Stderr.LAST)
        self.w.strings(sorted(filter(self.has, wanted)))

    def has(self, path: str) -> bool:
        return path in self.uploaded or ("lacks-large" in self.behaviour and not path.endswith("-large"))

    # Uploads

    def add_multiple_to_store(self) -> None:
        self.r.flag()
        self.r.flag()
        source = BytesSource(self.frames())
        r = Reader(source)
        added = {}
        for _ in range(r.u64() if source.left else 0):
            info = read_path_info(r, r.text())
            added[info] = source.read(info.nar_size)
        self.add(Op.ADD_MULTIPLE_TO_STORE, added)

    def add_to_store_nar(self) -> None:
        info = read_path_info(self.r, self.r.text())
        self.r.flag()
        self.r.flag()
        self.add(Op.ADD_TO_STORE_NAR, {info: self.pull(info.nar_size) if self.version < 0x117 else self.frames()})

    def pull(self, size: int) -> bytes:
        """Ask for a NAR piece by piece, as daemons did once."""
        data = b""
        while len(data) < size:
            self.w.u64(Stderr.READ)
            self.w.u64(32 << 10)
            self.flush()
            data += self.r.string()
        return data

    def frames(self) -> bytes:
        data = b""
        while size := self.r.u64():
            data += self.read(size)
        return data

    def add(self, op: Op, nars: dict[PathInfo, bytes]) -> None:
        if "wants-signatures" in self.behaviour:
            self.error(UNSIGNED.format(min(info.path for info in nars)))
        elif not self.refused(op):
            for info, data in nars.items():
                if hashlib.sha256(data).digest() != info.nar_hash or "accuses" in self.behaviour:
                    self.error(MISMATCH.format(info.path))
                    return
                self.uploaded[info.path] = data
            self.w.u64(Stderr.LAST)

    # Builds

    def build_derivation(self) -> None:
        self.r.text()
        outputs = {self.r.text(): (self.r.text(), self.r.text(), self.r.text())[0] for _ in range(self.r.u64())}
        missing = not all(map(self.has, self.r.texts()))
        self.r.text()
        self.r.string()
        for _ in range(self.r.u64()):
            self.r.string()
        for _ in range(self.r.u64()):
            self.r.string()
            self.r.string()
        self.r.u64()
        if self.refused(Op.BUILD_DERIVATION):
            return
        if "untrusting" in self.behaviour and all(outputs.values()):
            self.error(NOT_PRIVILEGED)
            return
        self.builds += 1
        if "trusts-once" in self.behaviour and self.builds > 1:
            self.error(NOT_PRIVILEGED)
            return
        if "fills-up" in self.behaviour and self.builds > 1:
            self.w.u64(Stderr.LAST)
            self.failure(BuildStatus.MISC_FAILURE, FULL)
            return
        if "always-full" in self.behaviour:
            self.w.u64(Stderr.LAST)
            self.failure(BuildStatus.MISC_FAILURE, FULL)
            return
        if "misses-once" in self.behaviour:
            if self.misses():
                missing = True
            elif "then-dies" in self.behaviour:
                self.die("Connection reset by peer")
        # Connections of one machine have no store in common here.
        if missing and "careless" not in self.behaviour:
            self.w.u64(Stderr.LAST)
            self.failure(BuildStatus.MISC_FAILURE, "some dependencies are missing")
            return
        self.log()
        self.result(outputs)
        if "collects-garbage" in self.behaviour:
            self.uploaded.clear()

    def misses(self) -> bool:
        """Whether this is the first build of a machine, whatever connection it comes over: there is a file."""
        if not os.path.exists(file := os.environ.get("MISSED", "")):
            return False
        os.unlink(file)
        return True

    def build_paths_with_results(self) -> None:
        (wanted,) = self.r.texts()
        drv_path, _, names = wanted.partition("!")
        assert (names, self.r.u64()) == ("*", 0)
        if drv_path not in self.uploaded:
            self.error(f"path '{drv_path}' is not valid")
            return
        file, _ = oracles.parse_nar(self.uploaded[drv_path])
        assert isinstance(file, oracles.File)
        derivation = parse_derivation(file.contents)
        assert self.uploaded.keys() >= set(derivation.input_srcs)
        self.log()
        self.w.u64(2 if "two-results" in self.behaviour else 1)
        self.w.string(wanted)
        self.result({name: output.path for name, output in derivation.outputs})

    def log(self) -> None:
        self.w.u64(Stderr.START_ACTIVITY)
        for value in (1, 3, 105):
            self.w.u64(value)
        self.w.string("building")
        self.w.u64(0)
        self.w.u64(0)
        self.w.u64(Stderr.RESULT)
        for value in (1, 101, 1, 1):
            self.w.u64(value)
        self.w.string("a line of the log")
        if "chatty" in self.behaviour:
            for _ in range(CHATTY_LINES // 1000):
                self.w.raw(oracles.log_line(1, b"one of many lines of the log") * 1000)
                self.flush()
        self.w.u64(Stderr.STOP_ACTIVITY)
        self.w.u64(1)
        self.w.u64(Stderr.LAST)

    def result(self, outputs: dict[str, str]) -> None:
        if "build-fails" in self.behaviour:
            self.failure(BuildStatus.PERMANENT_FAILURE, "builder failed with exit code 3")
            return
        if "fails-once" in self.behaviour and self.misses():
            self.failure(BuildStatus.PERMANENT_FAILURE, "builder failed with exit code 3")
            return
        if "fails-at-length" in self.behaviour:
            self.failure(BuildStatus.PERMANENT_FAILURE, f"first words\n{'x' * 1_000_000}\nlast words")
            return
        if "cannot-build" in self.behaviour:
            self.failure(BuildStatus.MISC_FAILURE, "cannot build such a thing")
            return
        if "cannot-register" in self.behaviour:
            self.failure(BuildStatus.MISC_FAILURE, "error: committing transaction: database or disk is full")
            return
        self.end_of_build(BuildStatus.BUILT)
        if not all(outputs.values()):
            outputs = self.float(sorted(outputs, reverse=True))
        self.built.update({path: Built(path.encode()) for path in outputs.values() if path not in self.built})
        if self.version < 0x11C:
            return
        reported = {} if "reports-nothing" in self.behaviour else outputs
        self.w.u64(len(reported))
        for name, path in reported.items():
            if OUTPUTS_AS_PATHS in self.features:
                self.w.string(name)
                self.w.string("/nix/store/../etc" if "reports-nonsense" in self.behaviour else path)
                self.w.strings(["key-1:cGF0aA=="])
                continue
            # The hash is anything but the right one, which nobody should need.
            output_id = f"sha256:{'0' * 64}!{name}"
            realisation: dict[str, object] = {"id": output_id, "outPath": base_name(path)}
            if "reports-nonsense" in self.behaviour:
                realisation["outPath"] = "../etc"
            realisation |= {"signatures": ["key-1:c2ln"], "dependentRealisations": {}}
            self.w.string(output_id)
            self.w.string(json.dumps(realisation))

    def failure(self, status: BuildStatus, message: str) -> None:
        self.end_of_build(status, message)
        if self.version >= 0x11C:
            self.w.u64(0)

    def end_of_build(self, status: BuildStatus, message: str = "") -> None:
        self.w.u64(status)
        self.w.string(message)
        for _ in range(4 * (self.version >= 0x11D) + 2 * (self.version >= 0x125)):
            self.w.u64(0)

    def float(self, names: list[str]) -> dict[str, str]:
        """Content-addressed outputs in a chain: the first refers to nothing, each other one to its predecessor."""
        paths: dict[str, str] = {}
        references: tuple[str, ...] = ()
        for name in names:
            if "self-references" in self.behaviour:
                paths[name] = self.float_itself(name)
                continue
            content = " ".join((name, *references)).encode()
            claimed = b"other content" if "wrong-address" in self.behaviour else content
            digest = hashlib.sha256(nar(claimed)).digest()
            called = "floating" if name == "out" else f"floating-{name}"
            if "other-names" in self.behaviour:
                called += ".drv"
            paths[name] = source_path(digest, references, False, called, "/nix/store")
            ca = "" if "no-address" in self.behaviour else f"fixed:r:{format_hash(digest)}"
            self.built[paths[name]] = Built(content, references, ca)
            references = (paths[name],)
        return paths

    def float_itself(self, name: str) -> str:
        """A content-addressed output that contains its own path, by the rule of this release."""
        called = "floating" if name == "out" else f"floating-{name}"
        modulus = b"0" * 32
        before = f"/nix/store/{modulus.decode()}-{called}".encode()
        zeroed, named = hash_modulo(iter([nar(before)]), "sha256", modulus)
        digest = named if counts_positions((2, int(self.nix_version.split(".")[1]))) else zeroed
        path = source_path(digest, (), True, called, "/nix/store")
        self.built[path] = Built(path.encode(), (path,), f"fixed:r:{format_hash(digest)}")
        return path

    # Downloads

    def query_path_info(self) -> None:
        built = self.built.get(self.r.text())
        if self.refused(Op.QUERY_PATH_INFO):
            return
        self.w.u64(Stderr.LAST)
        if "output-missing" in self.behaviour or built is None:
            self.w.u64(0)
            return
        archive = nar(built.content)
        self.w.u64(1)
        self.w.string("/nix/store/00000000000000000000000000000009-elsewhere.drv")
        self.w.string(hashlib.sha256(b"other" if "wrong-hash" in self.behaviour else archive).hexdigest())
        self.w.strings([NOBODY_HAS] if "wild-reference" in self.behaviour else built.references)
        self.w.u64(1_000_000)
        self.w.u64(len(archive) - 8 if "endless" in self.behaviour else len(archive))
        self.w.u64(0)
        self.w.strings(["key-1:c2ln"])
        self.w.string(built.ca)

    def nar_from_path(self) -> None:
        built = self.built.get(self.r.text())
        if self.refused(Op.NAR_FROM_PATH):
            return
        self.w.u64(Stderr.LAST)
        if built is None:
            # Nix notices when it has begun to send.
            self.error("path is not valid")
            self.die("path is not valid")
        archive = nar(built.content)
        if "bad-nar" in self.behaviour:
            archive = archive.replace(b"regular", b"fifo\0\0\0")
        if "half-nar" in self.behaviour:
            self.w.raw(archive[:-16])
            self.die("Connection reset by peer")
        if "stall-nar" in self.behaviour:
            self.w.raw(archive[:-16])
            self.hang()
        self.w.raw(archive)


def nar(content: bytes) -> bytes:
    return oracles.nar(oracles.File(content))
