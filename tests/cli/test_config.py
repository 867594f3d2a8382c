"""ferry.toml: optional, and a mistake in it is named and costs nothing but the file."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.config import KEYS, MOST_BYTES, Config, Key, find_config, read_config, read_small
from hook.errors import ConfigurationError
from tests import REPOSITORY
from tests.fakes.bench import Bench
from tests.leaks import no_leaks
from tests.test_imports import modules_after


def read(tmp_path: Path, text: str | bytes) -> Config:
    path = tmp_path / "ferry.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(str(path))


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    """As does an empty one."""
    assert read_config(str(tmp_path / "ferry.toml")) == Config() == read(tmp_path, "")


def test_only_a_small_file_is_read(tmp_path: Path) -> None:
    """Reading anything else may never end, and nobody would notice that its caller is gone."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * MOST_BYTES)
    assert read_small(str(path)) == b"x" * MOST_BYTES
    assert read_small("/dev/null") == b""
    os.mkfifo(fifo := tmp_path / "fifo")
    path.write_bytes(b"x" * (MOST_BYTES + 1))
    refused = {path: "larger than 1 MiB", fifo: "not a regular file", tmp_path: "directory"}
    refused |= {
        Path("/dev/zero"): "not a regular file",
        Path("/dev/tty"): "ot a regular file|No such device",
        tmp_path / "none": "No such file",
    }
    for each, why in refused.items():
        with no_leaks(), pytest.raises(OSError, match=why):
            read_small(str(each))


def test_every_key_can_be_set(tmp_path: Path) -> None:
    """By the name it has in the README."""
    text = "broker = false\nconnect-timeout = 20\nlook-ahead = 0  # none\n"
    assert read(tmp_path, text) == Config(broker=False, connect_timeout_s=20, look_ahead=0)
    assert all(key.name in text for key in KEYS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("look-ahaed = 1", "line 1: unknown key 'look-ahaed'; did you mean 'look-ahead'?"),
        ("# one\n\n 'connect_timeout'=1", "line 3: unknown key 'connect_timeout'; did you mean 'connect-timeout'?"),
        ("x.y = 1", "line 1: unknown key 'x'; did you mean "),
        ('"\\u0078" = 1', "is ignored: unknown key 'x'; did you mean "),
        ("look-ahead = 1\n[broker]\nenabled = true", "line 2: 'broker' must be true or false"),
        ("broker = 'no'", "line 1: 'broker' must be true or false"),
        ("connect-timeout = 0", "'connect-timeout' must be a whole number from 1 to 3600"),
        ("connect-timeout = 4000000000", "'connect-timeout' must be a whole number from 1 to 3600"),
        ("connect-timeout = 2.5", "'connect-timeout' must be a whole number from 1 to 3600"),
        ("look-ahead = true", "'look-ahead' must be a whole number from 0 to 1000000"),
        ("look-ahead = -1", "'look-ahead' must be a whole number from 0 to 1000000"),
        ("\nlook-ahead = 1 1", "line 2"),
        ("look-ahead = " + "9" * 5000, "is ignored"),
        ("look-ahead = " + "[" * 5000, "is ignored"),
        (b"broker = '\xff'", "invalid start byte"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, text: str | bytes, expected: str) -> None:
    """In words that its writer can act on."""
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert expected in str(caught.value)
    assert f"'{tmp_path}/ferry.toml' is ignored" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("look-ahead = 1\nbroker true", 2, 8),
        ("look-ahead = 1 1", 1, 16),
        ("broker = yes", 1, 10),
        ("broker = true\nbroker = false", 2, 15),
        ("\n\n[broker", 3, 8),
        ("look-ahead = 1\nbroker = 'tr", 2, 13),
        ("broker = ", 1, 10),
        (b"look-ahead = 1\nbroker = '\xff'", 2, 11),
    ],
)
def test_a_mistake_of_syntax_has_a_line_and_a_column(tmp_path: Path, text: str | bytes, line: int, column: int) -> None:
    """Also at the end of the file, where something is missing that may have been meant to be much earlier."""
    with pytest.raises(ConfigurationError, match=f"is ignored: line {line}, column {column}: [^ ]"):
        read(tmp_path, text)


WITHOUT_TOMLI = """
import sys
sys.modules["tomli"] = None
from hook.config import find_config
print(*find_config({"NIX_CONF_DIR": sys.argv[1]}))
"""


@pytest.mark.parametrize("text", ["look-ahead = 7", "broker = True", "look-ahead = 1\nlook-ahead = 2\n", "x = 1"])
def test_a_python_without_tomli_reads_the_same(tmp_path: Path, text: str) -> None:
    """A host whose Python is the system's has its own parser, and is told the place as well."""
    (tmp_path / "ferry.toml").write_text(text)
    command = [sys.executable, "-c", WITHOUT_TOMLI, str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    config, warnings = find_config({"NIX_CONF_DIR": str(tmp_path)})
    assert said.startswith(str(config))
    for warning in warnings:
        place = "".join(re.findall(r"line \d+(?:, column \d+)?", warning))
        assert place
        assert place in said


def test_no_parser_is_loaded_without_a_file(tmp_path: Path) -> None:
    """Nix waits for the first reply, and most hosts have no ferry.toml."""
    code = f"from hook.config import find_config; find_config({{'NIX_CONF_DIR': '{tmp_path}'}})"
    assert modules_after(code) & {"tomli", "tomllib", "hook.toml"} == set()
    (tmp_path / "ferry.toml").write_text("look-ahead = 7")
    assert modules_after(code) & {"tomli", "tomllib", "hook.toml"} == {"tomli", "hook.toml"}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A directory, here."""
    with pytest.raises(ConfigurationError, match=r"cannot read '.*': Is a directory; it is ignored"):
        read_config(str(tmp_path))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_default_is_a_value_or_is_described(key: Key) -> None:
    """And can be written into the file, if it is one."""
    if key.default is None:
        assert key.unset
    else:
        assert key.check(key.default) == key.default


def test_it_is_beside_the_configuration_of_nix(tmp_path: Path) -> None:
    """Which `NIX_CONF_DIR` can move; a file that cannot be used is a warning and the defaults."""
    environ = {"NIX_CONF_DIR": str(tmp_path)}
    assert find_config(environ) == (Config(), [])
    read(tmp_path, "look-ahead = 7")
    assert find_config(environ) == (Config(look_ahead=7), [])
    (tmp_path / "ferry.toml").write_text("x = 1")
    config, (warning,) = find_config(environ)
    assert config == Config()
    assert "unknown key 'x'" in warning


# In whole sessions


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, broker=True) as bench:
        yield bench


def test_a_mistake_in_the_configuration_costs_one_warning(bench: Bench) -> None:
    """And only its own effect: builds go on."""
    bench.configure("look-ahaed = 3\n")
    outcomes = [bench.build(bench.machine("ok")) for _ in range(2)]
    assert [outcome.status for outcome in outcomes] == [0, 0]
    (warning,) = (line for outcome in outcomes for line in outcome.messages.splitlines() if "warning" in line)
    assert "did you mean 'look-ahead'?" in warning


@pytest.mark.parametrize("broker", ["true", "false"])
def test_the_configuration_is_read_for_every_conversation(bench: Bench, broker: str) -> None:
    """Without a broker each hook connects anew; nothing has to be restarted for that."""
    assert bench.build(bench.machine("ok")).status == 0
    bench.configure(f"broker = {broker}\n")
    outcome = bench.build(bench.machine("ok"))
    assert outcome.status == 0
    assert any("connecting to" in text for text in outcome.texts) is (broker == "false")
