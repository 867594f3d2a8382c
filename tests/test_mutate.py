"""What `make mutate` does with a change; the kinds of change have their cases in tests/mutate/changes.py."""

import os
import select
import subprocess
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.mutate.trial import (
    EQUIVALENT,
    NOTICED,
    SURVIVED,
    Outcome,
    compare,
    copied,
    function_at,
    read_equivalent,
    run,
    score,
    stale,
    time_tests,
    try_change,
)

PATIENT_S = 600

MODULE = """\
def up_to(start, end):
    steps = 0
    while start < end:
        start += 1
        steps = max(steps, start)
    return start
"""

TEST = """\
from counting import up_to


def test_the_end_is_reached():
    assert up_to(1, 3) == 3
"""

LEAVING = """\
import pathlib, subprocess


def test_nothing():
    left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    pathlib.Path("{}").write_text(str(left.pid))
    left.returncode = 0
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One module and its test."""
    tree = tmp_path / "there"
    tree.mkdir()
    (tree / "counting.py").write_text(MODULE)
    (tree / "test_counting.py").write_text(TEST)
    return tree


def trial(tree: Path, old: str, new: str, limit_s: float = PATIENT_S, equivalent: str = "") -> Outcome:
    (tree / "equivalent.txt").write_text(equivalent)
    change = compare("counting.py", MODULE, MODULE.replace(old, new))
    return try_change(tree, change, ["test_counting.py"], limit_s, read_equivalent(tree / "equivalent.txt"))


def test_a_change_that_fails_a_test_is_noticed_by_it(tree: Path) -> None:
    """Who reads the result wants to know which test it was."""
    outcome = trial(tree, "start < end", "start <= end")
    assert (outcome.result, outcome.by) == (NOTICED, "test_counting.py::test_the_end_is_reached")


def test_a_change_that_fails_no_test_survives(tree: Path) -> None:
    assert trial(tree, "max(", "min(").result == SURVIVED


def test_a_change_that_never_ends_is_noticed(tree: Path) -> None:
    """What hangs would not pass in CI either, and must not stop the other trials."""
    outcome = trial(tree, "start += 1", "pass", limit_s=1)
    assert (outcome.result, outcome.by) == (NOTICED, "takes too long")


def test_a_change_known_to_alter_nothing_is_not_tried(tree: Path) -> None:
    entry = "# why\ncounting.py up_to\nsteps = 0\nsteps = 1\nNobody reads it.\n"
    outcome = trial(tree, "steps = 0", "steps = 1", limit_s=0, equivalent=entry)
    assert (outcome.result, outcome.by) == (EQUIVALENT, "Nobody reads it.")


def test_tests_are_timed_and_must_pass_without_a_change(tree: Path) -> None:
    """Otherwise every change would be noticed."""
    assert time_tests(tree, ["test_counting.py"], 1).keys() == {"test_counting.py"}
    (tree / "counting.py").write_text(MODULE.replace("start < end", "start <= end"))
    with pytest.raises(SystemExit, match=r"without any change fails: test_counting\.py::test_the_end"):
        time_tests(tree, ["test_counting.py"], 1)


def test_the_tree_itself_stays_as_it_is(tree: Path) -> None:
    """Somebody may be at work in it."""
    trial(tree, "start < end", "start <= end")
    assert (tree / "counting.py").read_text() == MODULE
    assert sorted(path.name for path in tree.iterdir()) == ["counting.py", "equivalent.txt", "test_counting.py"]


def test_an_entry_whose_text_is_gone_is_stale(tree: Path) -> None:
    """The judgement was about code that is no longer there."""
    there, elsewhere, changed, gone = (
        ("counting.py", "up_to", "steps = 0", "steps = 1"),
        ("counting.py", "down_to", "steps = 0", "steps = 1"),
        ("counting.py", "up_to", "steps = 7", "steps = 1"),
        ("gone.py", "up_to", "steps = 0", "steps = 1"),
    )
    entries = dict.fromkeys((there, elsewhere, changed, gone), "Nobody reads it.")
    assert stale(tree, entries) == [
        "counting.py down_to: steps = 0 → steps = 1",
        "counting.py up_to: steps = 7 → steps = 1",
        "gone.py up_to: steps = 0 → steps = 1",
    ]


def test_what_alters_nothing_does_not_count() -> None:
    outcomes = [Outcome(result, "", 0) for result in (NOTICED, NOTICED, SURVIVED, EQUIVALENT)]
    assert score(outcomes) == "2 of 3 (67 %)"
    assert score([]) == "0 of 0"


def test_children_of_tests_import_the_copy() -> None:
    """Otherwise a change in what only they run would never be noticed."""
    with copied(REPOSITORY) as copy:
        # Isolated: no directory and no variable tells it where to look.
        command = [copy / ".venv/bin/python", "-Ic", "import hook; print(hook.__file__)"]
        found = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()
        assert found == str(copy / "hook/__init__.py")
        assert str(REPOSITORY) not in (copy / ".venv/bin/nix-ferry").read_text()


def test_what_a_trial_leaves_behind_is_ended(tree: Path, tmp_path: Path) -> None:
    """A hundred trials would leave a hundred daemons."""
    (tree / "test_leaving.py").write_text(LEAVING.format(tmp_path / "pid"))
    with copied(tree) as copy:
        assert run(copy, ["test_leaving.py"], PATIENT_S).result == SURVIVED
        left = os.pidfd_open(int((tmp_path / "pid").read_text()))
    assert select.select([left], [], [], PATIENT_S)[0]
    os.close(left)


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        ("def f():\n    def g():\n        pass\n    x()\n", 3, "f"),
        ("def f():\n    x()\n\n\ny()\n", 4, ""),
        ("class A:\n    async def f(self):\n        x()\n", 2, "f"),
        ("def f():\n    x()\n\n\nclass A:\n    y = 1\n", 5, "A"),
        ("static int f(int a,\n             int b)\n{\n    x();\n", 3, "f"),
    ],
)
def test_a_change_has_the_name_of_its_function(text: str, line: int, name: str) -> None:
    """The same statement in another function is another change."""
    assert function_at(text.splitlines(), line) == name
