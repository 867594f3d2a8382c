"""Which machine is meant: which addresses there is a way to, and what of a caller may lead ssh elsewhere."""

import pytest

from hook.machines.builders import parse_machines
from hook.machines.identity import SSH_LOOKS_AT, is_handled, ssh_looks_at


@pytest.mark.parametrize(
    ("address", "handled"),
    [
        ("ssh-ng://b1", True),
        ("ssh://b1", True),
        ("local?root=/x", True),
        ("daemon", True),
        ("unix:///socket", True),
        ("auto", True),
        ("mounted-ssh-ng://b1", False),
        ("s3://bucket", False),
    ],
)
def test_there_is_a_way_to_what_runs_a_known_program(address: str, handled: bool) -> None:
    """For all else Nix's own hook is asked."""
    machines, _ = parse_machines(f"{address} x86_64-linux", default_system="x", release=(2, 34), read_file=str)
    assert [is_handled(machine) for machine in machines] == [handled]


@pytest.mark.parametrize("name", SSH_LOOKS_AT)
def test_callers_differ_by_what_ssh_looks_at(name: str) -> None:
    """A variable that is empty is not one that is missing."""
    assert ssh_looks_at({name: "x"}) != ssh_looks_at({})
    assert ssh_looks_at({name: ""}) != ssh_looks_at({})
    assert ssh_looks_at({name: "x", "TERM": "dumb"}) == ssh_looks_at({name: "x"})
    assert ssh_looks_at({name: "x"}, "scope") != ssh_looks_at({name: "x"})
