"""The table of the README says what the kept results say."""

from pathlib import Path

from tests.faults.matrix import FAULTS
from tests.faults.report import BEGIN, END, README, Result, load, save, table, update


def test_results_survive_being_kept(tmp_path: Path) -> None:
    """A later run adds to them."""
    results = {"a": {"one": Result(True, "built", 0.5), "two": Result(False, "given up", 1.0)}, "b": {}}
    save(results, tmp_path / "kept.json")
    assert load(tmp_path / "kept.json") == results
    assert load(tmp_path / "none.json") == {}


def test_a_cell_that_failed_shows() -> None:
    """The table must not flatter."""
    fault = FAULTS[0]
    cells = {"one": Result(True, fault.outcome, 0.5), "two": Result(False, fault.outcome, 1.26)}
    made = update(f"before\n{BEGIN}old\n{END}after\n", {fault.name: cells})
    assert made == f"before\n{BEGIN}{table({fault.name: cells})}{END}after\n"
    assert f"| {fault.name} | {fault.outcome} | 2 | 1 | 1.3 s |" in made.splitlines()
    assert "| all | | 2 | 1 | |" in made.splitlines()


def test_the_readme_has_the_table_of_the_kept_results() -> None:
    """`make faults` writes both."""
    text = README.read_text()
    assert update(text, load()) == text
