"""When root directories are made, with a pretended mmdebstrap that writes down how it was called."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import roots

SUITE = roots.SUITES[0]

MMDEBSTRAP = """\
#!/bin/sh
echo "$@" >> "$CALLS"
for target; do case $target in */nix-ferry/roots/*) break ;; esac; done
mkdir -p "$target/etc"
[ ! -e "$CALLS.fail" ] || exit 1
echo "nix (Nix) 2.8.0" > "$target/etc/nix-version"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file with one line for each call."""
    for name, script in (("mmdebstrap", MMDEBSTRAP), ("apt-get", "#!/bin/sh\necho http://mirror.example/debian/\n")):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    roots.machine_mirror.cache_clear()
    yield tmp_path / "calls"
    roots.machine_mirror.cache_clear()


def test_a_root_is_made_once_from_the_machines_own_mirror(calls: Path) -> None:
    assert roots.root(SUITE) == roots.root(SUITE)
    (call,) = calls.read_text().splitlines()
    assert call.endswith(" http://mirror.example/debian/")


@pytest.mark.usefixtures("calls")
def test_a_root_is_labelled_by_the_nix_in_it_once_it_is_made() -> None:
    """Collecting tests must not take minutes, so an unmade root has its suite for a label."""
    assert roots.label(SUITE) == SUITE
    roots.root(SUITE)
    assert roots.label(SUITE) == "2.8.0"


@pytest.mark.usefixtures("calls")
def test_another_list_of_packages_makes_another_root(monkeypatch: pytest.MonkeyPatch) -> None:
    before = roots.root(SUITE)
    monkeypatch.setattr(roots, "PACKAGES", (*roots.PACKAGES, "strace"))
    after = roots.root(SUITE)
    assert after != before
    assert after.is_dir()
    assert not before.exists()


def test_what_an_interrupted_run_leaves_is_never_taken_for_a_root(calls: Path) -> None:
    failing = calls.with_suffix(".fail")
    failing.touch()
    with pytest.raises(subprocess.CalledProcessError):
        roots.root(SUITE)
    assert roots.label(SUITE) == SUITE
    failing.unlink()
    made = roots.root(SUITE)
    assert [path for path in made.parent.iterdir() if path.is_dir()] == [made]
