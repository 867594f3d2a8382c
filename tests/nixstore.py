"""Throwaway local stores, made and used by the Nix installed on this machine."""

import os
import sqlite3
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hook.store.local import LocalStore
from hook.store.nar import Dumper, Restorer
from hook.values.info import PathInfo
from hook.values.release import Release
from hook.values.settings import Settings

CONFIG = """
build-users-group =
sandbox = false
substituters =
experimental-features = nix-command ca-derivations
"""

GRAPH = r"""
let
  shell = attrs: derivation ({
    system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-ec" attrs.script ];
  } // attrs);
in rec {
  leaf = shell { name = "leaf"; script = "mkdir -p $out/bin; echo leaf > $out/bin/leaf; chmod 755 $out/bin/leaf"; };
  self = shell {
    name = "self"; inherit leaf; odd = "quote \" backslash \\ tab \t newline \n";
    script = "mkdir $out; echo $out $leaf > $out/self; ln -s $out/self $out/link; echo leaf > $out/same";
  };
  pair = shell {
    name = "pair"; outputs = [ "out" "dev" ]; inherit self;
    script = "echo $self > $out; mkdir $dev; ln -s $out $dev/out";
  };
  fixed = shell {
    name = "fixed"; script = "echo hello > $out"; outputHashMode = "flat"; outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "hello\n";
  };
  tree = shell {
    name = "tree"; script = "mkdir $out; echo hello > $out/file"; outputHashMode = "recursive";
    outputHashAlgo = "sha1"; outputHash = "sha1-T8A9yH+y54h+vEP7IaCZsKHG4Ow=";
  };
  text = shell {
    name = "text"; script = "echo $source > $out";
    source = builtins.toFile "source" "refers to ${builtins.toFile "other" "nothing"}";
  };
}
"""


_ALONE = ("unshare", "--pid", "--fork", "--mount-proc", *(() if os.geteuid() == 0 else ("--map-root-user",)))
"""Where a command sees no other process.

Nix looks for roots among all files that processes have open before it deletes anything, and gives up at one whose name
exceeds PATH_MAX, as those of a very deep directory do.
"""

COLLECTOR = (*_ALONE, "nix-store", "--gc")
"""Nix's garbage collector, which no other process can disturb."""


class NixStore:
    """A store below `root`; its names are those of `names`, a store directory that need not be its own."""

    def __init__(self, root: Path, *, names: Path | None = None, **settings: str) -> None:
        self.root = root
        self.real_store_dir = root / "store"
        self.store_dir = names or self.real_store_dir
        self.state_dir = root / "state"
        self.uri = f"local?store={self.store_dir}&real={self.real_store_dir}&state={self.state_dir}&log={root}/log"
        self._config = {name.replace("_", "-"): value for name, value in settings.items()}
        (root / "conf").mkdir(parents=True)
        (root / "conf" / "nix.conf").write_text(CONFIG + "".join(f"{k} = {v}\n" for k, v in self._config.items()))
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("NIX_")} | {
            "NIX_REMOTE": self.uri,
            "NIX_CONF_DIR": str(root / "conf"),
            "HOME": str(root),
        }
        self.run("nix-store", "--init")

    def run(self, *argv: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a command of Nix on this store."""
        result = subprocess.run(argv, input=stdin, env=self.environ, capture_output=True, check=False)
        assert not check or result.returncode == 0, result.stderr.decode()
        return result

    def lines(self, *argv: str) -> list[str]:
        """The words that a command printed."""
        return self.run(*argv).stdout.decode().split()

    def build(self, *attributes: str) -> list[str]:
        """Build attributes of GRAPH, or all of them; their output paths."""
        (self.root / "graph.nix").write_text(GRAPH)
        wanted = [argument for attribute in attributes for argument in ("-A", attribute)]
        return self.lines("nix-build", "--no-out-link", str(self.root / "graph.nix"), *wanted)

    def objects(self) -> list[str]:
        """Every valid path that is no derivation, references first."""
        paths = [path for (path,) in self.rows("select path from ValidPaths where path not like '%.drv'")]
        return self.lines("nix-store", "-qR", *paths)

    def verify(self) -> None:
        """Fail unless Nix finds the store clean."""
        result = self.run("nix-store", "--verify", "--check-contents")
        assert b"error" not in result.stderr, result.stderr.decode()

    def open(self) -> LocalStore:
        """This store as nix-ferry sees it."""
        return LocalStore.open(Settings(self._config), self.environ)

    def release(self) -> Release:
        """The release of the Nix that made it."""
        major, minor, *_ = self.lines("nix-store", "--version")[-1].split(".")
        return int(major), int(minor)

    def collect(self) -> None:
        """Delete what no root keeps."""
        self.run(*COLLECTOR)

    def delete(self, path: str) -> None:
        """Delete a path that no root keeps."""
        self.run(*_ALONE, "nix-store", "--delete", path)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The result of a query."""
        connection = sqlite3.connect(self.state_dir / "db" / "db.sqlite")
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """What is valid and what it refers to, with paths in place of ids."""
        return {
            "ValidPaths": self.rows(
                "select path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca from ValidPaths"
                " order by path"
            ),
            "Refs": self.rows(
                "select a.path, b.path from Refs"
                " join ValidPaths a on referrer = a.id join ValidPaths b on reference = b.id order by a.path, b.path"
            ),
        }

    def files(self) -> dict[str, tuple[Any, ...]]:
        """Everything below the store directory: mode, size, time, owner and number of links."""
        found: dict[str, tuple[Any, ...]] = {}
        for directory, names, files in os.walk(self.real_store_dir):
            for name in [*names, *files]:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                found[os.path.relpath(path, self.real_store_dir)] = (
                    oct(status.st_mode),
                    0 if os.path.isdir(path) else status.st_size,
                    status.st_mtime_ns if name != ".links" else None,
                    status.st_uid,
                    status.st_gid,
                    1 if os.path.isdir(path) else status.st_nlink,
                )
        return found


def copy(source: LocalStore, target: LocalStore, infos: Iterable[PathInfo]) -> None:
    """Import the store objects of `infos` from one store into another, in one transaction."""
    wanted = list(infos)
    for info in wanted:
        restore(source, target, info)
    target.commit(wanted)


def restore(source: LocalStore, target: LocalStore, info: PathInfo) -> None:
    """Everything an import does before it commits."""
    real_path = target.prepare(info.path)
    assert real_path
    buffer = bytearray(1 << 16)
    with Dumper(source.real_path(info.path)) as dumper, Restorer(real_path, **target.restore_options()) as restorer:
        while size := dumper.read_into(buffer):
            restorer.feed(memoryview(buffer)[:size])
        target.check_import(info, restorer.digest(), restorer.size)
