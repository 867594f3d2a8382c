"""The store that is built for is recognised by what happens in it; real ones are in tests/lab/test_here.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.errors import ConnectionLost, MachineError
from hook.front.log import Log
from hook.remote.child import Command
from hook.remote.connection import Address, Link, Remote
from hook.remote.ownstore import THE_SAME, refuse_own
from hook.store.temproots import TempRoots, is_rooted
from tests.fakes import DAEMON

STORE_DIR = "/nix/store"
PATH = f"{STORE_DIR}/00000000000000000000000000000001-a"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "temproots").mkdir()
    return tmp_path


@pytest.fixture(params=["ok"])
def remote(state: Path, request: pytest.FixtureRequest) -> Iterator[Remote]:
    """A scripted daemon; as `own-store` it keeps its temporary roots in `state`."""
    argv = (*DAEMON, request.param)
    environ = {"OWN_STATE": str(state)}
    remote = Remote(Link(Address(Command(argv, environ), "ssh-ng", "ssh-ng://b1")), log=Log(2, 3))
    yield remote
    remote.close()


def test_another_store_is_accepted_and_the_connection_is_good_for_more(remote: Remote, state: Path) -> None:
    """One request more than stock, so one answer more that has to be read."""
    refuse_own(remote, STORE_DIR, str(state))
    assert remote.is_clean()
    assert remote.client.query_valid_paths([PATH], substitute=False) == set()


@pytest.mark.parametrize("remote", ["own-store"], indirect=True)
def test_the_own_store_is_refused(remote: Remote, state: Path) -> None:
    with pytest.raises(MachineError, match=THE_SAME[:20]):
        refuse_own(remote, STORE_DIR, str(state))


@pytest.mark.parametrize("remote", ["own-store"], indirect=True)
def test_what_happens_in_another_store_does_not_matter(remote: Remote, tmp_path: Path) -> None:
    """Of a host with several stores, most are not ours."""
    refuse_own(remote, STORE_DIR, str(tmp_path / "other"))


@pytest.mark.parametrize("remote", ["refuse-add_temp_root"], indirect=True)
def test_a_store_with_other_paths_is_refused(remote: Remote, state: Path) -> None:
    """It says so at the first path; before the accept that costs nothing."""
    with pytest.raises(MachineError, match=r"^it refused a temporary root: not today$"):
        refuse_own(remote, STORE_DIR, str(state))


@pytest.mark.parametrize("remote", ["die-add_temp_root"], indirect=True)
def test_a_machine_that_ends_meanwhile_is_quoted(remote: Remote, state: Path) -> None:
    with pytest.raises(ConnectionLost, match="Connection reset by peer"):
        refuse_own(remote, STORE_DIR, str(state))


def test_only_the_last_root_of_each_file_counts(state: Path) -> None:
    """Whoever asks has just added it; files grow to megabytes."""
    roots = TempRoots(str(state))
    roots.add([PATH])
    assert is_rooted(str(state), PATH)
    roots.add([f"{PATH}b"])
    assert is_rooted(str(state), f"{PATH}b")
    assert not is_rooted(str(state), PATH)
    roots.close()
    assert not is_rooted(str(state), f"{PATH}b")
