"""What a machine says of itself, as shells on different systems print it, and what follows from it."""

import os
from dataclasses import replace

import pytest

from hook.cli.probe.survey import FASTEST, MOST_JOBS, Survey, kvm_script, parse_survey, survey_here
from hook.errors import MachineError

DASH = """\
Welcome to the builder
cores = 8
memory-kib = 16303424
system = x86_64-linux
extra-platforms = i686-linux x86_64-v1-linux
system-features = benchmark big-parallel nixos-test
task
0m0.000000s 0m0.000000s
0m0.260000s 0m0.020000s
task
0m0.010000s 0m0.000000s
1m0.240000s 0m0.020000s
"""
BASH_ON_DARWIN = """\
cores = 10
memory-kib =
experimental-features = ca-derivations nix-command
extra-platforms = x86_64-darwin
system = aarch64-darwin
system-features =
task
0m0.001s 0m0.002s
0m0.120s 0m0.020s
"""


def survey(cores: int = 4, memory_gib: int = 0, task_s: float = 1.0) -> Survey:
    return Survey(("x86_64-linux",), frozenset(), cores, memory_gib << 20, task_s)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            DASH,
            Survey(
                ("x86_64-linux", "i686-linux", "x86_64-v1-linux"),
                frozenset({"benchmark", "big-parallel", "nixos-test"}),
                8,
                16303424,
                0.26,
            ),
        ),
        (BASH_ON_DARWIN, Survey(("aarch64-darwin", "x86_64-darwin"), frozenset({"ca-derivations"}), 10, 0, 0.12)),
    ],
    ids=["dash", "bash"],
)
def test_what_shells_print_is_understood(text: str, expected: Survey) -> None:
    """The system comes first, the best time counts, and only that of Nix."""
    assert parse_survey(text) == expected


@pytest.mark.parametrize("text", ["", "cores = 4\nmemory-kib = 1\n", DASH.partition("task")[0]])
def test_a_machine_without_nix_says_so(text: str) -> None:
    with pytest.raises(MachineError, match="is 'nix' in PATH"):
        parse_survey(text)


@pytest.mark.parametrize("name", ["kvm;ssh-ng://evil", "kvm#", "@/etc/passwd", 'x";throw"', "kvm,big", "\x1b[2J"])
@pytest.mark.parametrize("setting", ["system", "extra-platforms", "system-features"])
def test_a_name_that_would_be_more_than_one_is_refused(setting: str, name: str) -> None:
    """It is to stand in a machines file, where `;` begins another machine, and in a Nix expression."""
    lines = [f"{setting} = {name}" if line.startswith(f"{setting} =") else line for line in DASH.splitlines()]
    with pytest.raises(MachineError, match="it names a system or feature that cannot be one: "):
        parse_survey("\n".join(lines))


@pytest.mark.parametrize(("cores", "memory_gib", "jobs"), [(8, 64, 8), (8, 8, 4), (8, 1, 1), (8, 0, 8), (1, 64, 1)])
def test_each_job_needs_a_core_and_memory(cores: int, memory_gib: int, jobs: int) -> None:
    """Memory that is not told of limits nothing."""
    assert survey(cores, memory_gib).max_jobs == jobs


@pytest.mark.parametrize(
    ("there_s", "speed"), [(1.0, 1.0), (0.5, 1.7), (3.0, 0.35), (1000.0, 0.1), (1e-9, 100.0), (0.0, 1.0)]
)
def test_the_speed_factor_is_about_the_ratio_of_times(there_s: float, speed: float) -> None:
    """Never zero, which Nix would take for one; a clock that is too coarse tells nothing."""
    assert survey(task_s=there_s).speed_against(survey(task_s=1.0)) == speed


@pytest.mark.parametrize("number", ["4000000000", str(1 << 63), "9" * 400, "9" * 5000], ids=len)
def test_no_number_of_a_machine_is_believed_without_a_bound(number: str) -> None:
    """Each job of its line is a lock file here."""
    text = DASH.replace("cores = 8", f"cores = {number}").replace("memory-kib = 16303424", f"memory-kib = {number}")
    found = parse_survey(text)
    assert found.max_jobs in (1, MOST_JOBS)
    assert found.memory_kib < 1 << 64
    slow = parse_survey(text.replace("0m0.260000s", f"{number}m{number}.{number}s"))
    assert slow.speed_against(found) >= 0.1
    fast = replace(found, task_s=1e-9)
    assert fast.speed_against(found) == FASTEST


@pytest.mark.parametrize("speed", [1.0, 1.7, 2.9, 0.59, 0.35])
def test_equal_machines_are_equal(speed: float) -> None:
    """Measurements of one machine differ by a quarter, and a speed factor decides where a build goes."""
    measured = {survey(task_s=noise / speed).speed_against(survey(task_s=1.0)) for noise in (0.8, 0.9, 1.0, 1.1, 1.25)}
    assert measured == {speed}


def test_this_host_answers_the_same_script() -> None:
    here = survey_here(os.environ)
    assert here.systems[0].endswith("-linux")
    assert here.cores == os.sysconf("SC_NPROCESSORS_ONLN")
    assert here.memory_kib * 1024 == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert here.task_s > 0


def test_each_question_about_kvm_is_a_new_build() -> None:
    """Or a machine that could use it once would be believed for ever."""
    assert kvm_script("x86_64-linux") != kvm_script("x86_64-linux")
    assert 'system = "x86_64-linux"' in kvm_script("x86_64-linux")
