"""A hook that no broker serves goes to a process of its own or to Nix's hook, with all that Nix has said.

The broker may want that, or nothing that is installed works.
"""

import json
import os
import shutil
import subprocess
from ast import literal_eval
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.fakes.shims import (
    ALONE,
    READY,
    STANDALONE,
    Bin,
    FakeBroker,
    Nix,
    became_stock,
    message,
    went_alone,
)
from tests.standing import broker_socket

# Left to others


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_the_stock_hook_hears_everything(nix: Nix, broker: FakeBroker, programs: Bin, size: int) -> None:
    """As if Nix had started it; and Nix sees the end of its pipes."""
    read = bytes(range(256)) * 1200
    running = nix.start("6", {"PYTHONPATH": "/elsewhere"})
    server = broker.serve()
    with ThreadPoolExecutor() as nix_itself:
        nix_itself.submit(running.send, read[:size])
        assert server.hear(size) == read[:size]
    server.say(message("s"))
    server.die()
    assert became_stock(programs, running.end(b"and the rest"), read[:size] + b"and the rest")
    assert (programs.state / "stock.arguments").read_text() == "6\n"
    assert "PYTHONPATH=/elsewhere\n" in (programs.state / "stock.environment").read_text()
    assert os.read(running.log, 100) == b"log\n"
    assert os.read(running.log, 100) == b""


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_a_process_of_its_own_hears_everything(nix: Nix, broker: FakeBroker, programs: Bin, size: int) -> None:
    """What the broker has heard, and the rest."""
    read = bytes(range(256)) * 1200
    running = nix.start()
    server = broker.serve()
    with ThreadPoolExecutor() as nix_itself:
        nix_itself.submit(running.send, read[:size])
        assert server.hear(size) == read[:size]
    server.say(message("n"))
    server.die()
    assert went_alone(programs, running.end(b"and the rest"), read[:size] + b"and the rest")
    assert os.read(running.log, 100) == b"log\n"
    assert os.read(running.log, 100) == b""


def test_a_process_of_its_own_has_nothing_but_its_socket(nix: Nix, programs: Bin) -> None:
    """Nix waits until everybody has closed its pipes; and what other programs' Python is told is not for ours."""
    running = nix.start(environ={**ALONE, "PYTHONHOME": "/nonexistent", "MYPYTHON": "stays"})
    pid = running.process.pid
    assert went_alone(programs, running.end())
    arguments, fds, found, group = literal_eval((programs.state / "alone.json").read_text())
    assert arguments[1:] == ["3"]
    assert {fd: fds[fd] for fd in "012"} == dict.fromkeys("012", "/dev/null")
    assert fds["3"].startswith("socket:")
    assert sorted(fds) == ["0", "1", "2", "3"]
    assert {name for name in found if "PYTHON" in name} == {"MYPYTHON"}
    assert {"PATH", "NIX_STATE_DIR", "NIX_FERRY_STANDALONE"} < found.keys()
    # Nix kills this group.
    assert group == os.getpgid(0) != pid


def test_a_process_of_its_own_ends_with_the_hook(nix: Nix, programs: Bin) -> None:
    """Nix kills hooks without a warning."""
    os.mkfifo(programs.state / "life")
    life = "import os; life = open(os.environ['STATE'] + '/life', 'w'); life.write('alive'); life.flush()\n"
    programs.script("nix-ferry-standalone", STANDALONE.replace("import os", f"{life}import os", 1))
    running = nix.start(environ=ALONE)
    with (programs.state / "life").open() as pipe:
        assert pipe.read(5) == "alive"
        running.process.kill()
        assert pipe.read() == ""


# Nothing is installed, or what is does not work


@pytest.fixture(params=["absent", "no program", "fails", "silent", "speaks otherwise"])
def broken(programs: Bin, shims: dict[str, Path], request: pytest.FixtureRequest) -> str:
    """Standalone hooks that cannot serve anybody; what the user reads about it."""
    name = "nix-ferry-standalone"
    match request.param:
        case "absent":
            (programs.path / name).unlink()
        case "no program":
            programs.script(name, "#!/opt/python/that/was/upgraded\n")
        case "fails":
            programs.script(name, "#!/bin/sh\nexec 3>&-\necho Traceback >&2\nexit 1\n")
        case "silent":
            impatient(programs)
            programs.script(name, "#!/bin/sh\nexec sleep 1000\n")
        case _:
            programs.script(name, STANDALONE.replace(repr(READY), repr(message("r"))))
    return "cannot be run" if request.param == "absent" else "does not work"


def impatient(programs: Bin) -> None:
    """Have a shim with less patience."""
    options = ["-D_GNU_SOURCE", "-DPATIENCE_MS=500"]
    sources = (REPOSITORY / "native/shim").glob("*.c")
    subprocess.run(["cc", *options, "-o", programs.path / "nix-ferry-hook", *sources], check=True)


@pytest.mark.parametrize("verbosity", ["3", "4"])
def test_a_broken_installation_is_a_line_for_who_asks(nix: Nix, programs: Bin, broken: str, verbosity: str) -> None:
    """Every build of the host goes this way, and the stock hook does it."""
    running = nix.start(verbosity)
    status, said = running.end(b"question")
    assert (status, said[-1]) == (9, "stock")
    assert (programs.state / "stock.stdin").read_bytes() == b"question"
    texts = [json.loads(line[5:])["msg"] for line in said[:-1]]
    path = programs.path / "nix-ferry-standalone"
    line = f"handing builds to the stock build hook: '{path}' {broken}"
    assert texts == ([line] if verbosity == "4" else [])


def test_without_a_stock_hook_nix_is_told_to_go_on(nix: Nix, programs: Bin) -> None:
    """The very last resort."""
    for name in ("nix", "nix-ferry-standalone"):
        (programs.path / name).unlink()
    status, (line, answer) = nix.start(environ={"PATH": str(programs.path)}).end(b"question")
    assert (status, answer) == (1, "# decline-permanently")
    assert "cannot find the stock build hook: the parent" in json.loads(line[5:])["msg"]


NIX = """\
"$1" 3 4>/dev/null 5</dev/null
exit $?
"""
STOCK_OF_NIX = 'echo "$0" >&2; cat > stdin; exit 9\n'


@pytest.mark.parametrize("replaced", [False, True])
def test_the_stock_hook_is_the_nix_that_runs(programs: Bin, tmp_path: Path, replaced: bool) -> None:
    """Another release may speak another language.  Here it is a shell that is called `nix`, and takes scripts."""
    program = tmp_path / "nix"
    shutil.copy(Path("/bin/bash").resolve(), program)
    (tmp_path / "3").write_text(STOCK_OF_NIX)
    (programs.path / "nix-ferry-standalone").unlink()
    script = ("rm nix; " if replaced else "") + NIX
    done = subprocess.run(
        [program, "-c", script, "nix", programs.path / "nix-ferry-hook"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "NIX_STATE_DIR": str(programs.state)},
        input=b"question",
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (9, b"3\n")
    assert (tmp_path / "stdin").read_bytes() == b"question"


# Outside of what is installed


@pytest.fixture
def outside(programs: Bin, tmp_path: Path) -> Bin:
    """The shim in another directory, with a link to where the programs are."""
    directory = tmp_path / "libexec"
    directory.mkdir()
    (programs.path / "nix-ferry-hook").rename(directory / "nix-ferry-hook")
    (directory / "programs").symlink_to(programs.path)
    programs.hook = directory / "nix-ferry-hook"
    return programs


def test_a_hook_outside_finds_its_programs_and_their_identity(nix: Nix, outside: Bin, broker: FakeBroker) -> None:
    """Also when the hook itself is replaced while it runs."""
    outside.identify(outside.path.parent, "0.2-beef")
    running = nix.start()
    server = broker.accept()
    assert server.identity == b"0.2-beef"
    outside.hook.unlink()
    server.die()
    broker.close()
    broker_socket(outside.directory).unlink()
    assert went_alone(outside, running.end(b"question"), b"question")


def test_a_hook_outside_survives_its_programs(nix: Nix, outside: Bin) -> None:
    """Somebody has removed the virtual environment."""
    stock = outside.path.rename(outside.path.with_name("stock"))
    status, (line, said) = nix.start("4", {"PATH": f"{stock}:{os.environ['PATH']}"}).end(b"question")
    assert (status, said) == (9, "stock")
    assert f"'{outside.hook.parent}/programs/nix-ferry-standalone' cannot be run" in json.loads(line[5:])["msg"]
    assert (outside.state / "stock.stdin").read_bytes() == b"question"


def test_a_broker_survives_its_installation(nix: Nix, outside: Bin, broker: FakeBroker) -> None:
    """It has loaded all it needs, and a hook that cannot know what is installed is served by whatever runs."""
    shutil.rmtree(outside.path.parent / "share")
    running = nix.start()
    server = broker.serve()
    assert server.identity == b""
    server.say(message("x", b"\5"))
    server.die()
    assert running.end() == (5, [])
