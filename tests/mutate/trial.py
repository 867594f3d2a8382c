"""One change in a copy of the tree, and whether tests notice it; needs nothing that the tests themselves do not need.

A copy has a virtual environment of its own that shares the packages of the one in use, so children of tests import from
the copy as well, however they are started.  Nothing is ever written to the tree itself.  Tested in test_mutate.py.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "check", "valgrind", ".*_cache")
OF_MAKE = re.compile(r"[\w-]+$")
"""Tests in C are targets of native/Makefile; all others are files for pytest."""

PYTEST = ("-m", "pytest", "-x", "-q", "-m", "not lab", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=60")
BUILD_MODULE = "import sys; sys.path.insert(0, 'native'); from build import ffibuilder; ffibuilder.compile()"
PATIENCE_S = 3600
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-w")

Key = tuple[str, str, str, str]
"""What a change is known by, whatever else the module comes to hold: module, function, old text, new text."""

NOTICED, SURVIVED, EQUIVALENT = "noticed", "survived", "equivalent"


@dataclass(frozen=True)
class Change:
    """`old` of `line` (from 1) became `new` in the function `within`; `text` is the module with the change made."""

    module: str
    line: int
    within: str
    old: str
    new: str
    text: str

    @property
    def key(self) -> Key:
        return self.module, self.within, self.old, self.new

    def __str__(self) -> str:
        return f"{self.module}:{self.line}  {self.old} → {self.new}"


def compare(module: str, before: str, after: str) -> Change:
    """The lines in which two texts of a module differ; the fewest that there are, in one piece."""
    old, new = before.splitlines(), after.splitlines()
    start = end = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    texts = [" ".join(line.strip() for line in lines[start : len(lines) - end]) for lines in (old, new)]
    return Change(module, start + 1, function_at(old, start), *texts, after)


def function_at(lines: Sequence[str], index: int) -> str:
    """The function or class that a line (from 0) belongs to, by the looks of what is above it; "" outside of any."""
    indent = len(lines[index]) - len(lines[index].lstrip())
    for line in reversed(lines[:index] if indent else []):
        python = re.match(r"( *)(?:async )?(?:def|class) (\w+)", line)
        if python and len(python[1]) < indent:
            return python[2]
        if c := re.match(r"\w[^;=]*?(\w+)\([^;]*$", line):
            return c[1]
    return ""


@dataclass(frozen=True)
class Outcome:
    """What came of a change; `by` is the test that noticed it, or what was said instead."""

    result: str
    by: str
    seconds: float


@contextmanager
def copied(tree: Path) -> Iterator[Path]:
    """A copy of `tree` with a virtual environment, in memory if possible; in the end it and what runs in it is gone."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="mutate-", dir=memory if os.access(memory, os.W_OK) else None))
    # Some tests become another user.
    root.chmod(0o711)
    try:
        copy = root / "tree"
        shutil.copytree(tree, copy, symlinks=True, ignore=LEFT_OUT)
        _add_environment(tree, copy)
        yield copy
    finally:
        _end_all(root)
        shutil.rmtree(root, ignore_errors=True)


def _add_environment(tree: Path, copy: Path) -> None:
    venv.EnvBuilder(symlinks=True).create(copy / ".venv")
    packages = Path(sysconfig.get_path("purelib"))
    own = next((copy / ".venv/lib").glob("python*/site-packages"))
    (own / "shared.pth").write_text(f"{packages}\n")
    # Those of the editable install, and the programs, name the tree.
    programs = list((tree / ".venv/bin").glob("nix-ferry*"))
    for path in [*packages.glob("__editable__*"), *programs]:
        target = (copy / ".venv/bin" if path in programs else own) / path.name
        target.write_bytes(path.read_bytes().replace(os.fsencode(tree) + b"/", os.fsencode(copy) + b"/"))
        target.chmod(path.stat().st_mode)
    with suppress(FileNotFoundError):
        shutil.copytree(tree / ".venv/share", copy / ".venv/share")


def _end_all(root: Path) -> None:
    """Kill what names `root` in its command line, its environment or as its directory."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            facts = b"".join((process / name).read_bytes() for name in ("cmdline", "environ"))
            if os.fsencode(root) in facts + os.fsencode(os.readlink(process / "cwd")):
                os.kill(int(process.name), signal.SIGKILL)


def apply(copy: Path, change: Change) -> None:
    """Make it in the copy."""
    (copy / change.module).write_text(change.text)
    if change.module.endswith(".c"):
        build(copy)


def build(copy: Path) -> None:
    """Compile what is in C, if there is something, to where it is already."""
    for module in list((copy / "hook").glob("_native.*.so")):
        module.unlink()
        python = copy / ".venv/bin/python"
        subprocess.run([python, "-c", BUILD_MODULE], check=True, cwd=copy, capture_output=True)
        next((copy / "hook").glob("_native.*.so")).rename(module)
    if sources := sorted(str(path) for path in (copy / "native/shim").glob("*.c")):
        target = copy / ".venv/bin/nix-ferry-hook"
        subprocess.run([os.environ.get("CC", "cc"), *FLAGS, "-static", "-o", target, *sources], check=True)


def run(copy: Path, tests: Sequence[str], limit_s: float, *options: str) -> Outcome:
    """Run `tests` in the order given, until one fails or all have taken `limit_s`; survived if none has failed.

    `options` are for pytest.
    """
    started = time.monotonic()
    files = [test for test in tests if not OF_MAKE.match(test)]
    steps = [["make", "-sC", "native", test] for test in tests if OF_MAKE.match(test)]
    if files:
        # Short, since sockets have their places in there.
        steps.append([str(copy / ".venv/bin/python"), *PYTEST, "--basetemp", str(copy.parent / "t"), *options, *files])
    # Only what a change does may be noticed, not what a compiler thinks of it.
    env = {**os.environ, "MAKEFLAGS": "WARNINGS=", "TMPDIR": str(copy.parent), "PYTHONHASHSEED": "0"}
    for step in steps:
        process = subprocess.Popen(
            step, cwd=copy, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            said = process.communicate(timeout=max(started + limit_s - time.monotonic(), 0))[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            _end_all(copy.parent)
            process.communicate()
            return Outcome(NOTICED, "takes too long", time.monotonic() - started)
        if process.returncode:
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
            return Outcome(NOTICED, " ".join(failed or said[-300:].split()), time.monotonic() - started)
    return Outcome(SURVIVED, "", time.monotonic() - started)


def time_tests(tree: Path, tests: Sequence[str], jobs: int) -> dict[str, float]:
    """How many seconds each takes without a change; those of which none can run without the lab are left out."""
    takes_s: dict[str, float] = {}
    with copied(tree) as copy:
        # Built as for a change, so that no test can fail of that.
        build(copy)
        report = copy.parent / "report.xml"
        files = [test for test in tests if not OF_MAKE.match(test)]
        for those in (files, *([test] for test in tests if test not in files)):
            options = ("--maxfail=0", f"--numprocesses={jobs}", f"--junit-xml={report}")
            outcome = run(copy, those, PATIENCE_S, *options)
            if outcome.result != SURVIVED:
                raise SystemExit(f"without any change fails: {outcome.by}")
            if those is not files:
                takes_s[those[0]] = outcome.seconds
        for case in ElementTree.parse(report).iter("testcase") if files else ():
            file = case.attrib["classname"].replace(".", "/") + ".py"
            takes_s[file] = takes_s.get(file, 0) + float(case.attrib["time"])
    return takes_s


def try_change(
    tree: Path, change: Change, tests: Sequence[str], limit_s: float, equivalent: Mapping[Key, str]
) -> Outcome:
    """What tests make of one change; they may take `limit_s`.  Nothing is run for one that alters nothing."""
    if change.key in equivalent:
        return Outcome(EQUIVALENT, equivalent[change.key], 0)
    with copied(tree) as copy:
        apply(copy, change)
        return run(copy, tests, limit_s)


def read_equivalent(path: Path) -> dict[Key, str]:
    """Changes that alter nothing, by key, with the reason.

    Each is four lines and an empty one: module and function, the old text, the new one, why.
    """
    entries = {}
    for block in path.read_text().split("\n\n"):
        lines = [line for line in block.strip().splitlines() if not line.startswith("#")]
        if lines:
            place, old, new, reason = lines
            module, _, within = place.partition(" ")
            entries[module, within, old, new] = reason
    return entries


def stale(tree: Path, entries: Mapping[Key, str]) -> list[str]:
    """Entries whose old text is no longer in that function of the module."""
    found = []
    for module, within, old, new in entries:
        lines = (tree / module).read_text().splitlines() if (tree / module).exists() else []
        texts = (" ".join(line.strip() for line in lines[start : start + 20]) for start in range(len(lines)))
        if not any(text.startswith(old) and function_at(lines, start) == within for start, text in enumerate(texts)):
            found.append(f"{module} {within}: {old} → {new}")
    return found


def score(outcomes: Sequence[Outcome]) -> str:
    """As in `12 of 14 (86 %)`, of changes that alter behaviour."""
    counted = [outcome for outcome in outcomes if outcome.result != EQUIVALENT]
    noticed = sum(outcome.result == NOTICED for outcome in counted)
    return f"{noticed} of {len(counted)}" + (f" ({100 * noticed / len(counted):.0f} %)" if counted else "")


def save(path: Path, results: Sequence[tuple[Change, Outcome]]) -> None:
    """Keep results, one change a line."""
    names = ("module", "line", "within", "old", "new")
    facts = ({name: getattr(change, name) for name in names} | vars(outcome) for change, outcome in results)
    lines = [json.dumps(each, ensure_ascii=False) for each in facts]
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
