"""Who shares a broker: everybody who sees the same host with the same rights, and nobody else."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from hook.broker.standing import same_namespaces, standing_of
from tests import REPOSITORY
from tests.standing import LEFT, standing

NOBODY = 65534
ASK = (sys.executable, "-c", "from hook.broker.standing import standing_of; print(standing_of(0))")


def named(*prefix: str) -> str:
    """What a process says that is started so."""
    return subprocess.run([*prefix, *ASK], check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout.strip()


def test_we_and_our_children_stand_in_one_place() -> None:
    """Also as others see us."""
    assert named() == standing() == standing_of(os.getpid())


@pytest.mark.parametrize(
    "prefix",
    [
        ("nice", "-n", "19"),
        ("taskset", "1"),
        ("ionice", "-c", "3"),
        ("setsid",),
        ("env", "-i"),
        ("sh", "-c", 'umask 077; ulimit -Sn 100; ulimit -Sf 1000000; exec "$@"', "sh"),
        ("sh", "-c", 'echo 500 > /proc/self/oom_score_adj; exec "$@"', "sh"),
        ("unshare", "--ipc", "--uts"),
    ],
    ids=" ".join,
)
def test_what_can_be_reset_or_does_not_matter_makes_no_difference(prefix: Sequence[str]) -> None:
    """Every broker that is not needed forgets what another one knows."""
    assert named(*prefix) == standing()


@pytest.mark.parametrize(
    "prefix",
    [
        ("unshare", "--mount"),
        ("unshare", "--net"),
        ("unshare", "--user", "--map-root-user"),
        ("unshare", "--pid", "--fork", "--mount-proc"),
        ("setpriv", "--no-new-privs"),
        ("setpriv", "--bounding-set", "-net_admin"),
    ],
    ids=" ".join,
)
def test_another_view_or_fewer_rights_make_another_standing(prefix: Sequence[str]) -> None:
    """Who started a broker there would act for us in its place."""
    assert named(*prefix) != standing()


def named_as_user(prepare: Callable[[], object]) -> str:
    """What a process of another user says that has prepared itself so; it may not read our files."""
    ends = os.pipe()
    child = os.fork()
    if child == 0:
        prepare()
        os.setgroups(os.getgroups()[1:])
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.write(ends[1], (standing_of(0) or "").encode())
        os._exit(0)
    os.close(ends[1])
    with open(ends[0]) as said:
        name = said.read()
    os.waitpid(child, 0)
    return name


def test_of_a_user_more_counts() -> None:
    """A group opens a key; what is limited cannot be raised, and not by a broker that such a process has started."""
    usual = named_as_user(lambda: os.setgroups([0]))
    others = [
        named_as_user(lambda: os.setgroups([0, 10])),
        named_as_user(lambda: (os.setgroups([0]), resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500)))),
        named_as_user(lambda: (os.setgroups([0]), os.nice(5))),
    ]
    assert len({usual, *others}) == 4
    assert named_as_user(lambda: os.setgroups([0])) == usual


def test_a_user_may_be_in_as_many_groups_as_there_can_be() -> None:
    """The last one counts like the first."""
    most = [4_000_000_000 + number for number in range(65_536)]
    others = [*most[:-1], most[-1] + 1]
    names = [named_as_user(lambda groups=groups: os.setgroups(groups)) for groups in (most, others, most)]
    assert names[0] == names[2] != names[1]
    assert "" not in names


@pytest.mark.parametrize("leaks", [True, False])
def test_a_hook_of_nix_stands_where_nix_began(leaks: bool) -> None:
    """Where the store is mounted read-only every command has a mount namespace of its own, and would have a broker.

    Releases so far leak the first one to the hook, but need not.
    """
    assert named(sys.executable, "-c", LEFT.replace("leaks", str(leaks))) == standing()


def test_namespaces_are_compared() -> None:
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"hello\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"hello\n"
        assert same_namespaces(os.getpid(), other.pid) is False
        assert same_namespaces(os.getpid(), os.getppid()) is True
        other.stdin.close()
    assert same_namespaces(os.getpid(), other.pid) is None
