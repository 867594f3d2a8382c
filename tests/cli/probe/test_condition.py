"""What a machine says of itself, read from whatever else its login prints, and held against its line in `builders`."""

import subprocess
import time

import pytest

from hook.cli.probe.condition import SCRIPT, Condition, Shell, parse_condition, parse_shell
from tests.machines.test_schedule import machine

SAID = """Welcome!
nix-ferry clock = 1000
nix-ferry free-kib = 3145728
nix-ferry extra-platforms = i686-linux
nix-ferry system = x86_64-linux
nix-ferry system-features = benchmark kvm
"""


def said(start: float = 1000.0, end: float = 1001.0, text: str = SAID) -> Condition:
    condition = parse_condition(text, start, end)
    assert condition is not None
    return condition


def test_all_that_it_says_is_read() -> None:
    """Greetings of a login shell are not."""
    assert said() == Condition(0, 3 << 20, ("x86_64-linux", "i686-linux"), frozenset({"benchmark", "kvm"}))
    assert (said().builds, said().free) == ("builds x86_64-linux, i686-linux with benchmark, kvm", "3.0 GiB free")


@pytest.mark.parametrize(
    ("start", "end", "off"),
    [
        (1000.0, 1000.3, 0),
        (1000.9, 1003.0, 0),
        (990.0, 1030.0, 0),
        (900.0, 910.0, 90),
        (1101.0, 1102.0, -100),
    ],
)
def test_its_clock_is_off_by_what_the_way_there_cannot_explain(start: float, end: float, off: int) -> None:
    """Nor the fraction of a second that it does not tell."""
    assert said(start, end).clock_off_s == off


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, str(1 << 64)], ids=len)
def test_a_number_without_an_end_is_none(number: str) -> None:
    """Doctor looks at all machines, and one of them must not end that."""
    assert said(text=SAID.replace("3145728", number)).free == ""
    assert parse_condition(SAID.replace("1000", number), 1000.0, 1001.0) is None
    most = said(text=SAID.replace("1000", str((1 << 64) - 1)).replace("3145728", str((1 << 64) - 1)))
    assert most.clock_off_s > 0
    assert most.free


def test_a_line_that_claims_too_much_is_found() -> None:
    """Systems, and features of either kind."""
    assert said().wrong_claims(machine("ssh://m i686-linux - 1 1 kvm benchmark")) == []
    claimed = said().wrong_claims(machine("ssh://m x86_64-linux,riscv64-linux - 1 1 kvm,big-parallel unobtainium"))
    assert claimed == ["system 'riscv64-linux'", "feature 'big-parallel'", "feature 'unobtainium'"]


EXPERIMENTAL = "nix-ferry experimental-features = ca-derivations flakes nix-command recursive-nix\n"


def test_a_line_may_claim_what_a_store_adds() -> None:
    """Two system features come with an experimental one; the setting of that name lists neither."""
    claims = machine("ssh://m x86_64-linux - 1 1 kvm,ca-derivations,recursive-nix")
    assert said(text=SAID + EXPERIMENTAL).wrong_claims(claims) == []
    assert said().wrong_claims(claims) == ["feature 'ca-derivations'", "feature 'recursive-nix'"]
    assert said(text=SAID + EXPERIMENTAL).wrong_claims(machine("ssh://m x86_64-linux - 1 1 flakes")) == [
        "feature 'flakes'"
    ]


@pytest.mark.parametrize(
    "text", ["", "This account is for Nix only.", "nix-ferry clock = 12\n", "nix-ferry clock = x\n"]
)
def test_a_login_that_runs_nothing_but_nix_says_nothing(text: str) -> None:
    assert parse_condition(text, 0, 0) is None


def test_the_script_runs_without_a_nix() -> None:
    """And says then what any machine can."""
    environ = {"PATH": "/usr/bin:/bin"}
    printed = subprocess.run(["sh"], input=SCRIPT, env=environ, capture_output=True, text=True, check=False).stdout
    values = dict(line.split(" = ", 1) for line in printed.splitlines() if "clock" in line or "free" in line)
    assert abs(int(values["nix-ferry clock"]) - time.time()) < 60
    assert int(values["nix-ferry free-kib"]) > 0


def test_a_login_shell_is_known_by_what_it_runs() -> None:
    """Among greetings; what it says instead is kept, and what ssh itself fails of tells nothing."""
    assert parse_shell("Hello\nnix-ferry shell = /bin/zsh\n", 0) == Shell(True, "/bin/zsh")
    assert parse_shell("This account is\nnot available.\n", 1) == Shell(False, said="This account is not available.")
    assert parse_shell("", 1) == Shell(False)
    assert parse_shell("", 255) is None
