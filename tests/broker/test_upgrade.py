"""What is installed is removed or replaced while builds run: none of them is lost.

Real hooks and scripted machines; the stock hook is a script that answers for good.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.session.loading import FOR_OTHERS
from tests.fakes.bench import Bench
from tests.fakes.installation import Installation
from tests.lab.container import wait_until
from tests.test_imports import HOOK, modules_after

FEATURE = {"experimental_features": "ca-derivations"}


MEANWHILE = """
import hook.session.loading
load = hook.session.loading.load


def load_and_upgrade(*, lasting):
    load(lasting=lasting)
    open("{}", "w").write("0.1-second")


hook.session.loading.load = load_and_upgrade
"""


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "installed", "0.1-first")


@pytest.fixture
def brokered(tmp_path: Path, installed: Installation) -> Iterator[Bench]:
    """Hooks of that installation, with a broker that has loaded all it needs."""
    with Bench(tmp_path, broker=True, program=str(installed.hook)) as bench:
        assert bench.ask().answers == ["# decline-permanently"]
        wait_until(lambda: "loaded\n" in log_of(bench), "the broker")
        yield bench


def log_of(bench: Bench) -> str:
    return (bench.hook_state / "nix-ferry/broker.log").read_text()


def lazy_imports() -> set[str]:
    """What functions of ours import, but for those of commands, and those that start a broker."""
    found: set[str] = set()
    for path in HOOK.rglob("*.py"):
        if "cli" in path.relative_to(HOOK).parts or path in (HOOK / "broker/main.py", HOOK / "broker/unit.py"):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        found |= {alias.name for alias in node.names}
                    elif isinstance(node, ast.ImportFrom) and node.module:
                        found.add(node.module)
    return found - {"hook.store"}


@pytest.mark.parametrize("lasting", [True, False])
def test_whatever_is_imported_late_can_be_loaded_early(lasting: bool) -> None:
    """A module that is missing in the list would be looked for during a build."""
    program = "hook.broker.main" if lasting else "hook.broker.standalone"
    loaded = modules_after(f"import {program}, hook.session.loading; hook.session.loading.load(lasting={lasting})")
    late = lazy_imports()
    assert {"hook.session.build", "hashlib"} <= late
    # A lone hook needs these before its accept, or not at all.
    assert late - loaded <= (set() if lasting else {*FOR_OTHERS, "hook.broker.log"})


def test_a_broker_needs_nothing_of_what_is_installed(installed: Installation, brokered: Bench) -> None:
    """Builds that succeed, that fail, and that nobody can have; Python's own modules count, too."""
    bench, broker = brokered, brokered.broker_pid()
    for _ in installed.remove():
        pass
    before = installed.imported()
    floating, _ = bench.store.add_floating("Realisations")
    assert bench.build(bench.machine("ok"), drv_path=floating, **FEATURE).status == 0
    assert bench.build(bench.machine("build-fails"), bench.machine("no-nix")).status == 1
    assert bench.build(bench.machine("die-build_derivation"), bench.machine("ok", "other")).status == 0
    assert bench.outputs_valid()
    assert bench.hook(bench.preamble([bench.machine("ok")]) + bench.request()[:-1]).by_stock
    bench.configure("connect-timeout = 'x'")
    assert bench.ask(f"ssh-ng://[::1]:x;{bench.machine('ok')}").answers == ["# accept"]
    assert bench.broker_pid() == broker
    assert installed.imported() == before


def test_a_lone_hook_needs_nothing_after_its_accept(tmp_path: Path, installed: Installation) -> None:
    """From there on nobody else can have the build."""
    with Bench(tmp_path, broker=False, program=str(installed.hook)) as bench:
        with bench.start(bench.preamble([bench.machine("ok")]) + bench.request()) as hook:
            assert hook.stdin is not None
            assert hook.stderr is not None
            assert b"# accept\n" in iter(hook.stderr.readline, b"")
            before = installed.imported()
            for _ in installed.remove():
                pass
            hook.stdin.write(bench.job())
            hook.stdin.close()
            hook.stderr.read()
        assert hook.returncode == 0
        assert bench.outputs_valid()
        assert installed.imported() == before


@pytest.mark.parametrize("running", [True, False], ids=["broker", "no broker"])
def test_an_upgrade_loses_no_build(installed: Installation, brokered: Bench, running: bool) -> None:
    """In the middle the broker that runs, or the stock hook, answers; in the end a broker of what is installed now."""
    bench = brokered
    first = bench.broker_pid()

    def steps() -> Iterator[str]:
        yield from installed.remove()
        yield from installed.put("0.1-second")

    all_steps, stock = [], []
    for step in steps():
        all_steps.append(step)
        if not running and bench.broker_pid():
            bench.kill_broker()
        outcome = bench.build(bench.machine("ok"))
        assert outcome.status == 0 or outcome.by_stock, (step, outcome)
        stock += [step] * outcome.by_stock
    # The last two are those with a program.
    assert stock == ([] if running else all_steps[:-2])
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.broker_pid() not in (None, first)
    if running:
        assert "making room for build '0.1-second'" in log_of(bench)


@pytest.mark.parametrize(
    "module", ["hook.session.session", "hook.session.build", "hook.protocol.lists", "hook._native"]
)
@pytest.mark.parametrize("broker", [True, False], ids=["broker", "alone"])
def test_a_module_that_does_not_load_leaves_builds_to_stock(
    tmp_path: Path, installed: Installation, module: str, broker: bool
) -> None:
    """A wrong Python, a disk with a bad block; also where it is not needed before the answer."""
    path = tmp_path / "installed/lib" / module.replace(".", "/")
    path.with_suffix(".abi3.so" if module == "hook._native" else ".py").write_text("1 +")
    with Bench(tmp_path, broker=broker, program=str(installed.hook)) as bench:
        data = bench.preamble([bench.machine("ok")]) + bench.request()
        outcome = bench.hook(data)
        assert outcome.by_stock
        assert bench.stock.given == data
        assert outcome.messages.count("stock build hook") == 1


def test_a_broker_that_was_mixed_from_two_builds_makes_room(tmp_path: Path, installed: Installation) -> None:
    """The upgrade began after its first module was loaded, and was over before the last."""
    script = tmp_path / "installed/bin/nix-ferry-broker"
    identity = tmp_path / "installed/share/nix-ferry/identity"
    script.write_text(script.read_text().replace("from hook.", f"{MEANWHILE.format(identity)}from hook."))
    with Bench(tmp_path, broker=True, program=str(installed.hook)) as bench:
        bench.ask()
        wait_until(lambda: "making room: what is installed has changed" in log_of(bench), "the broker")
