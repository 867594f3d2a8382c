"""What came of the cells that were run, kept in results.json, and the table of it in the README.

`python -m tests.faults.report` writes the table; conftest.py keeps the results of a run of every cell.
"""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from tests import REPOSITORY
from tests.faults.matrix import FAULTS, Fault

RESULTS = Path(__file__).with_name("results.json")
README = REPOSITORY / "README.md"
RESULT = "cell"
"""The property of a test that tells its fault, its way, the outcome, and how many seconds it took."""

BEGIN, END = "<!-- faults: made by `make faults` -->\n", "<!-- end of faults -->\n"


@dataclass(frozen=True)
class Result:
    """One cell that was run; `seconds` from the fault to the end of the build."""

    passed: bool
    outcome: str
    seconds: float


Results = Mapping[str, Mapping[str, Result]]
"""By fault and way."""


def load(path: Path = RESULTS) -> dict[str, dict[str, Result]]:
    """Read what was kept."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {fault: {way: Result(*result) for way, result in ways.items()} for fault, ways in kept.items()}


def save(results: Results, path: Path = RESULTS) -> None:
    """Keep results, one cell a line."""
    faults = []
    for fault, ways in sorted(results.items()):
        lines = [f"  {json.dumps(way)}: {json.dumps(astuple(result))}" for way, result in sorted(ways.items())]
        faults.append(f" {json.dumps(fault)}: {{\n" + ",\n".join(lines) + "\n }")
    path.write_text("{\n" + ",\n".join(faults) + "\n}\n")


def table(results: Results) -> str:
    """The README's table: a line for each fault, in the order of the matrix."""
    lines = ["| what goes wrong | what was promised | cells run | passed | longest |", "|---|---|---|---|---|"]
    run = passed = 0
    for fault in FAULTS:
        cells = list(results.get(fault.name, {}).values())
        run += len(cells)
        passed += sum(cell.passed for cell in cells)
        longest = max((cell.seconds for cell in cells), default=0.0)
        kept = sum(cell.passed for cell in cells)
        lines.append(f"| {fault.name} | {_promise(fault)} | {len(cells)} | {kept} | {longest:.1f} s |")
    lines.append(f"| all | | {run} | {passed} | |")
    return "\n".join(lines) + "\n"


def _promise(fault: Fault) -> str:
    either = "".join(f"; at {step}: either" for step in fault.either_at)
    return fault.outcome + either


def update(readme: str, results: Results) -> str:
    """The README with the table made anew."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table(results)}{END}{after}"


if __name__ == "__main__":
    README.write_text(update(README.read_text(), load()))
