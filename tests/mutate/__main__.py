"""Find out how many of a sample of small changes tests notice; see docs/reliability.md.

Which modules, and which tests, is in modules.toml; changes known to alter nothing are in equivalent.txt.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePath
from types import CodeType

from tests import REPOSITORY
from tests.mutate import changes, trial
from tests.mutate.trial import NOTICED, SURVIVED, Change, Outcome

HERE = Path(__file__).parent
RESULTS = REPOSITORY / "build"
PAGE = REPOSITORY / "docs/reliability.md"
BEGIN, END = "<!-- changes: made by `make mutate` -->\n", "<!-- end of changes -->\n"

TIMES, ALSO_S = 3, 30
"""How long the tests of a change may take: so many times what they take without it, and so many seconds."""

IMPORT = """
import sys, types
name = sys.argv[1]
sys.modules[name] = module = types.ModuleType(name)
exec(compile(sys.stdin.read(), name, "exec"), vars(module))
"""


def main() -> int:
    """Try the changes that the command line asks for; 1 if something is wrong with what is kept here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, action="append", dest="seeds", help="of a sample; may be given again")
    parser.add_argument("--count", type=int, default=150, help="changes in each sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="changes tried at the same time")
    parser.add_argument("--only", action="append", help="a module, or a pattern; may be given again")
    parser.add_argument("--again", action="store_true", help="try only what survived with this seed the last time")
    parser.add_argument("--report", action="store_true", help="write the scores into docs/reliability.md")
    options = parser.parse_args()
    changes.check()
    kept = tomllib.loads((HERE / "modules.toml").read_text())
    modules = list(_modules(kept["modules"], options.only or ["*"]))
    equivalent = trial.read_equivalent(HERE / "equivalent.txt")
    stale = trial.stale(REPOSITORY, equivalent)
    for entry in stale:
        print(f"equivalent.txt: the module no longer has this text: {entry}", file=sys.stderr)
    samples = {}
    for seed in options.seeds or [1]:
        found = islice(sample(seed, modules), options.count)
        if options.again:
            survived = survivors(RESULTS / f"mutate-{seed}.json")
            found = (change for change in found if change.key in survived)
        samples[seed] = list(found)
        print(f"seed {seed}: {len(samples[seed])} changes", flush=True)
    needed = {change.module for found in samples.values() for change in found if change.key not in equivalent}
    tests = {module: tests_of(module, kept["also"]) for module in sorted(needed)}
    takes_s = trial.time_tests(REPOSITORY, sorted(set().union(*tests.values())), options.jobs)
    print(f"without a change {len(takes_s)} tests pass, in {sum(takes_s.values()):.0f} s", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        order = {module: sorted(those & takes_s.keys(), key=takes_s.__getitem__) for module, those in tests.items()}
        if untested := [module for module, those in order.items() if not those]:
            raise SystemExit(f"modules.toml: no test without the lab for {', '.join(untested)}")

        def outcome_of(change: Change) -> Outcome:
            those = order.get(change.module, [])
            limit_s = TIMES * sum(takes_s[test] for test in those) + ALSO_S
            outcome = trial.try_change(REPOSITORY, change, those, limit_s, equivalent)
            print(f"{outcome.result}  {change}  {outcome.by}", flush=True)
            return outcome

        for seed, found in samples.items():
            results = list(zip(found, pool.map(outcome_of, found), strict=True))
            trial.save(RESULTS / f"mutate-{seed}{'-again' if options.again else ''}.json", results)
            print(f"\nseed {seed}\n{summary(results, order)}\n")
    if options.report:
        report(equivalent)
    return 1 if stale else 0


def _modules(patterns: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    """Paths below the repository; those that say nothing but what a package is are left out."""
    for pattern in patterns:
        paths = sorted(path for path in REPOSITORY.glob(pattern) if path.name not in ("__init__.py", "_native.c"))
        if not paths:
            raise SystemExit(f"modules.toml: there is no {pattern}")
        for module in (str(path.relative_to(REPOSITORY)) for path in paths):
            if any(PurePath(module).match(each) for each in wanted):
                yield module


def tests_of(module: str, also: Mapping[str, Sequence[str]]) -> set[str]:
    """The tests of a module, by rule and by the table."""
    path, tests = PurePath(module), REPOSITORY / "tests"
    own = tests / path.parent.name / f"test_{path.stem}"
    if path.suffix == ".c":
        named = {f"run-{own.name}"} if own.with_suffix(".c").exists() else set()
    else:
        docstring = (REPOSITORY / module).read_text().split('"""')[1]
        found = [*own.parent.glob(f"{own.name}.py")]
        for name in re.findall(r"(?<!lab/)test_\w+\.py", docstring):
            found += [*own.parent.glob(name)] or [*tests.rglob(name)]
        named = {str(each.relative_to(REPOSITORY)) for each in found}
    return named | {test for pattern, those in also.items() if path.match(pattern) for test in those}


def sample(seed: int, modules: Sequence[str]) -> Iterator[Change]:
    """All changes in an order of the seed, without those that alter nothing, or after which nothing runs."""
    texts = {module: (REPOSITORY / module).read_text() for module in modules}
    every = [(module, make) for module, text in texts.items() for make in changes.changes_of(module, text)]
    random.Random(seed).shuffle(every)
    for module, make in every:
        text = make()
        if (_runs_python if module.endswith(".py") else _compiles)(module, texts[module], text):
            yield trial.compare(module, texts[module], text)


def _runs_python(module: str, before: str, after: str) -> bool:
    """Whether a changed module is another one, and can be imported."""
    try:
        if _is_same(compile(before, module, "exec"), compile(after, module, "exec")):
            return False
    except SyntaxError:
        return False
    command = [sys.executable, "-c", IMPORT, module.removesuffix(".py").replace("/", ".")]
    return _succeeds(command, after)


def _is_same(one: object, other: object) -> bool:
    if not isinstance(one, CodeType) or not isinstance(other, CodeType):
        return type(one) is type(other) and one == other
    ones, others = one.co_consts, other.co_consts
    same = (one.co_code, one.co_names, len(ones)) == (other.co_code, other.co_names, len(others))
    return same and all(map(_is_same, ones, others))


def _compiles(module: str, before: str, after: str) -> bool:
    """Whether a changed module is compiled to something else."""
    with tempfile.TemporaryDirectory() as directory:
        objects = [Path(directory, name) for name in ("before", "after")]
        for text, built in zip((before, after), objects, strict=True):
            include = ["-Inative", f"-I{Path(module).parent}", "-xc", "-c", "-", "-o", str(built)]
            command = [os.environ.get("CC", "cc"), *trial.FLAGS, *include]
            if not _succeeds(command, text):
                return False
        return objects[0].read_bytes() != objects[1].read_bytes()


def _succeeds(command: Sequence[str], text: str) -> bool:
    return not subprocess.run(
        command, check=False, input=text, text=True, capture_output=True, cwd=REPOSITORY
    ).returncode


def survivors(path: Path) -> set[trial.Key]:
    """What survived the last time."""
    return {key_of(entry) for entry in json.loads(path.read_text()) if entry["result"] == SURVIVED}


def key_of(entry: Mapping[str, str]) -> trial.Key:
    """Of a change in build/mutate-<seed>.json."""
    return entry["module"], entry["within"], entry["old"], entry["new"]


def summary(results: Sequence[tuple[Change, Outcome]], tests: Mapping[str, Sequence[str]]) -> str:
    """A line for each survivor, a score for each module, and one for all."""
    by_module = defaultdict(list)
    lines = []
    for change, outcome in sorted(results, key=lambda result: (result[0].module, result[0].line)):
        by_module[change.module].append(outcome)
        if outcome.result == SURVIVED:
            lines.append(f"{change}  ({', '.join(tests[change.module])})")
    lines += ["", *(f"{trial.score(outcomes):>20}  {module}" for module, outcomes in by_module.items())]
    return "\n".join([*lines, f"{trial.score([outcome for _, outcome in results]):>20}  noticed of all"])


def report(equivalent: Container[trial.Key]) -> None:
    """Write the page's table of scores, from what is in build/ and what was judged equivalent since."""
    lines = ["| date | seed | changes | equivalent | noticed | score |", "|---|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("mutate-*[0-9].json")):
        entries = json.loads(path.read_text())
        same = sum(key_of(entry) in equivalent for entry in entries)
        noticed = sum(entry["result"] == NOTICED for entry in entries if key_of(entry) not in equivalent)
        date = time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
        seed, share = path.stem.rpartition("-")[2], 100 * noticed / (len(entries) - same)
        lines.append(f"| {date} | {seed} | {len(entries)} | {same} | {noticed} | {share:.0f} % |")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    sys.exit(main())
