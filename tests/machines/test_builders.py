"""`builders` as text and as machines: every rule of the grammar, and what a bad line costs."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import printable
from hook.front.request import Request
from hook.machines.builders import Machine, format_machine, parse_machines
from hook.machines.schedule import Host as LocalHost
from hook.machines.schedule import no_machine_message
from hook.values.release import Release
from hook.values.storeuri import parse_store_uri
from tests import stockhook
from tests.lab.host import Host

SYSTEM = "x86_64-linux"
OLD, NEW = (2, 26), (2, 34)
FILES = {
    "/m/one": "b1\n\nb2 aarch64-linux # the second\n",
    "/m/crlf": "b1 - - 2\r\nb2 - - 3\r\n",
    "/m/nested": "b0\n@/m/one\nb3",
    "/m/with space": "b7",
    "/m/bad": "b1\nb2 - - x\nb3",
    "/m/itself": "b1\n@/m/itself\nb2",
    "/m/left": "b1\n@/m/right",
    "/m/right": "b2\n@/m/left",
}


def read_file(path: str) -> str:
    if path == "/m/directory":
        raise IsADirectoryError(21, "Is a directory", path)
    if path == "/m/secret":
        raise PermissionError(13, "Permission denied", path)
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


def parse(text: str, release: Release = NEW) -> tuple[list[Machine], list[str]]:
    return parse_machines(text, default_system=SYSTEM, release=release, read_file=read_file)


def uris(text: str, release: Release = NEW) -> list[str]:
    """The addresses of the machines of a text that deserves no warning."""
    machines, warnings = parse(text, release)
    assert warnings == []
    return [machine.uri.text.removeprefix("ssh://") for machine in machines]


def only(text: str) -> Machine:
    machines, warnings = parse(text)
    assert warnings == []
    (machine,) = machines
    return machine


def meaning(machine: Machine) -> dict[str, object]:
    """Everything but where it was written."""
    return {
        field.name: getattr(machine, field.name)
        for field in dataclasses.fields(machine)
        if field.name not in ("text", "origin", "uri")
    } | {"uri": machine.uri.text}


def test_all_eight_columns_are_read() -> None:
    """Separated by runs of blanks; what follows the last column is ignored."""
    machine = only("ssh-ng://u@b1  i686-linux,x86_64-linux\t/key 4 2.5 kvm,big benchmark QUJD surplus -")
    assert machine.uri == parse_store_uri("ssh-ng://u@b1")
    assert machine.systems == ("i686-linux", "x86_64-linux")
    assert (machine.ssh_key, machine.max_jobs, machine.speed_factor) == ("/key", 4, 2.5)
    assert machine.supported == {"kvm", "big"}
    assert machine.mandatory == {"benchmark"}
    assert machine.public_host_key == "QUJD"


@pytest.mark.parametrize("line", ["b1", "b1 -", "b1 - - - - - - -"])
def test_absence_and_a_dash_mean_the_default(line: str) -> None:
    """One job, speed 1, the parent's own system."""
    machine = only(line)
    assert machine.systems == (SYSTEM,)
    assert (machine.ssh_key, machine.max_jobs, machine.speed_factor) == (None, 1, 1.0)
    assert (machine.supported, machine.mandatory, machine.public_host_key) == (frozenset(), frozenset(), None)


@pytest.mark.parametrize(
    ("line", "systems", "supported"),
    [("b1 ,a,,b, - - - ,x,", ("a", "b"), {"x"}), ("b1 ,", (), set()), ("b1 b,a,b", ("b", "a", "b"), set())],
)
def test_empty_elements_of_a_list_are_dropped(line: str, systems: tuple[str, ...], supported: set[str]) -> None:
    """And a list of nothing else is empty, not the default; the order is that of the line."""
    machine = only(line)
    assert machine.systems == systems
    assert machine.supported == supported


@pytest.mark.parametrize(("jobs", "expected"), [("0", 0), ("7", 7), ("+7", 7), ("007", 7), ("4294967295", 4294967295)])
def test_max_jobs_is_a_whole_number(jobs: str, expected: int) -> None:
    """0 is a machine that is able but never free."""
    assert only(f"b1 - - {jobs}").max_jobs == expected


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        ("1", 1.0),
        ("0", 1.0),
        ("0.0", 1.0),
        ("-0", 1.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("1e3", 1000.0),
        ("2.99999999", 3.0),
        # Not 0, but 0 in the single precision that stock computes with.
        ("1e-60", 1.0),
    ],
)
def test_a_speed_factor_is_a_number_and_0_counts_as_1(speed: str, expected: float) -> None:
    """Also where the release itself knows only whole numbers."""
    assert only(f"b1 - - 1 {speed}").speed_factor == expected
    assert parse(f"b1 - - 1 {speed}", (2, 8))[0][0].speed_factor == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("b1\nb2", ["b1", "b2"]),
        ("b1;b2 ; b3", ["b1", "b2", "b3"]),
        ("\n;;\n b1 ;\n \t\r\n", ["b1"]),
        ("# nobody\n  # indented\nb1 # trailing", ["b1"]),
        ("b1#x\nb2", ["b1", "b2"]),
        ("@/m/one", ["b1", "b2"]),
        ("  @ /m/one  ;b9", ["b1", "b2", "b9"]),
        ("@/m/one # comment", ["b1", "b2"]),
        ("@/m/nested;b4", ["b0", "b1", "b2", "b3", "b4"]),
        ("@/m/one\n@/m/one", ["b1", "b2", "b1", "b2"]),
        ("@/m/crlf", ["b1", "b2"]),
        ("@/m/with space", ["b7"]),
        ("@/m/missing\nb1", ["b1"]),
        ("@/m/missing", []),
    ],
)
@pytest.mark.parametrize("release", [OLD, NEW])
def test_a_text_is_split_into_machines(text: str, names: list[str], release: Release) -> None:
    """Newlines, semicolons, comments and files; indentation is harmless for every release."""
    assert uris(text, release) == names


@pytest.mark.parametrize(
    ("release", "names"), [((2, 8), ["a", "b"]), ((2, 24), ["a", "b"]), ((2, 29), ["a"]), ((2, 34), ["a"])]
)
def test_a_semicolon_in_a_comment_depends_on_the_release(release: Release, names: list[str]) -> None:
    """Older releases split at semicolons before they look for comments."""
    assert uris("a # x; b", release) == names


@pytest.mark.lab
@pytest.mark.parametrize("text", ["a # x; b", "c; d e f", " e\t;f;g -", "h#;i\nj", "@/tmp/machines;k", "@/tmp/none;l"])
def test_the_stock_hook_splits_a_text_alike(builder: Host, text: str) -> None:
    """The same machines from the same setting, on each release."""
    release = stockhook.release_of_host(builder)
    builder.write_file("/tmp/machines", "m1 - - 1\r\n\nm2\n")
    files = {"/tmp/machines": "m1 - - 1\r\n\nm2\n"}

    def read(path: str) -> str:
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    machines, warnings = parse_machines(text, default_system=SYSTEM, release=release, read_file=read)
    assert warnings == []
    ours = {machine.uri.lock_stem(release) for machine in machines if SYSTEM in machine.systems}
    stockhook.fresh_state(builder)
    assert stockhook.ask(builder, text).stems == ours


NINES = "9" * 5000
"""More digits than Python makes a number of."""

BAD = [
    ("b1\0", "there is a NUL in it, which no program takes as an argument"),
    # line, what the warning says after quoting it
    ("-", "column 1 (store URI) is missing, expected for example 'ssh-ng://user@host'"),
    ("- x86_64-linux", "column 1 (store URI) is missing, expected for example 'ssh-ng://user@host'"),
    ("ssh://", "column 1 (store URI) is 'ssh://': the host name is empty"),
    ("-x", "column 1 (store URI) is '-x': host name '-x' must not start with '-'"),
    ("b1 - - x", "column 4 (max jobs) is 'x', expected a whole number from 0 to 4294967295"),
    ("b1 - - -1", "column 4 (max jobs) is '-1', expected a whole number from 0 to 4294967295"),
    ("b1 - - 1.5", "column 4 (max jobs) is '1.5', expected a whole number from 0 to 4294967295"),
    ("b1 - - 4294967296", "column 4 (max jobs) is '4294967296', expected a whole number from 0 to 4294967295"),
    (f"b1 - - {NINES}", f"column 4 (max jobs) is '{NINES}', expected a whole number from 0 to 4294967295"),
    ("b1 - - 1_0", "column 4 (max jobs) is '1_0', expected a whole number from 0 to 4294967295"),
    ("b1 - - ٣", "column 4 (max jobs) is '٣', expected a whole number from 0 to 4294967295"),
    ("b1 - - 1 -2", "column 5 (speed factor) is '-2', expected a number of at least 0, for example '1.5'"),
    ("b1 - - 1 fast", "column 5 (speed factor) is 'fast', expected a number of at least 0, for example '1.5'"),
    ("b1 - - 1 nan", "column 5 (speed factor) is 'nan', expected a number of at least 0, for example '1.5'"),
    ("b1 - - 1 inf", "column 5 (speed factor) is 'inf', expected a number of at least 0, for example '1.5'"),
    ("b1 - - 1 1e39", "column 5 (speed factor) is '1e39', expected a number of at least 0, for example '1.5'"),
    ("b1 - - 1 1e999", "column 5 (speed factor) is '1e999', expected a number of at least 0, for example '1.5'"),
    ("b1 - - 1 1_0", "column 5 (speed factor) is '1_0', expected a number of at least 0, for example '1.5'"),
    ("b1 - - 1 1 - - A_B", "column 8 (host key) is 'A_B', expected base64 of a line like 'ssh-ed25519 AAAA…'"),
    ("b1 - - 1 1 - - =A", "column 8 (host key) is '=A', expected base64 of a line like 'ssh-ed25519 AAAA…'"),
]


@pytest.mark.parametrize(("line", "complaint"), BAD)
def test_a_bad_line_costs_itself_and_one_warning(line: str, complaint: str) -> None:
    """Stock would refuse everybody's builds."""
    machines, warnings = parse(f"b0\n{line} # comment\nb9")
    assert [machine.uri.host for machine in machines] == ["b0", "b9"]
    assert warnings == [f"builders: ignoring '{printable(line)}': {complaint}"]


def test_a_warning_names_the_file_and_line() -> None:
    """Which is where the user has to go."""
    machines, warnings = parse("b0;@/m/bad")
    assert [machine.origin for machine in machines] == ["builders", "/m/bad:1", "/m/bad:3"]
    (warning,) = warnings
    assert warning.startswith("/m/bad:2: ignoring 'b2 - - x': column 4 (max jobs)")


@pytest.mark.parametrize(("path", "reason"), [("/m/directory", "Is a directory"), ("/m/secret", "Permission denied")])
def test_an_unreadable_file_costs_one_warning(path: str, reason: str) -> None:
    """Stock would abort the user's command."""
    machines, warnings = parse(f"b0;@{path};b9")
    assert [machine.uri.host for machine in machines] == ["b0", "b9"]
    assert warnings == [f"builders: ignoring '@{path}': cannot read machines from '{path}': {reason}"]


@pytest.mark.parametrize("hidden", ["\ufeff", "\u00a0", "\u200b", "\x1b"], ids=ascii)
def test_what_nobody_can_see_is_shown(hidden: str) -> None:
    """An editor's mark of byte order, a blank copied from a web page; the line looks right otherwise."""
    for line in (f"{hidden}ssh-ng://b1 - - 1", f"ssh-ng://b1{hidden}- - 1 1", f"b1 - -{hidden}1 1{hidden}x"):
        machines, warnings = parse(line)
        assert machines == []
        shown = line.replace(hidden, hidden.encode("unicode_escape").decode())
        assert len(warnings) == 1
        assert warnings[0].startswith(f"builders: ignoring '{shown}': ")
        assert warnings[0].isprintable()


@pytest.mark.parametrize(
    ("path", "hosts", "origin"), [("/m/itself", ["b1", "b2"], "/m/itself:2"), ("/m/left", ["b1", "b2"], "/m/right:2")]
)
def test_a_file_that_includes_itself_is_read_once(path: str, hosts: list[str], origin: str) -> None:
    """Stock would not come back."""
    machines, warnings = parse(f"@{path}")
    assert [machine.uri.host for machine in machines] == hosts
    assert warnings == [f"{origin}: ignoring '@{path}': cannot read machines from '{path}': this file includes itself"]


def test_equal_lines_are_two_machines() -> None:
    """What is learnt about one must not be filed under the other."""
    first, second = parse("b1\nb1")[0]
    assert first != second
    assert len({first, second}) == 2


def test_a_fractional_speed_is_rounded_up_for_a_release_that_knows_none() -> None:
    """Stock 2.8 would refuse the line, and with it all others."""
    machine = only("b1 - - 1 1.5")
    assert format_machine(machine, (2, 8)) == "ssh://b1 x86_64-linux - 1 2 - - -"
    assert format_machine(machine, (2, 20)) == "ssh://b1 x86_64-linux - 1 1.5 - - -"


@pytest.mark.lab
def test_the_stock_hook_reads_formatted_machines(builder: Host) -> None:
    """One line it refuses would cost all the others; what it read shows in its refusal."""
    release = stockhook.release_of_host(builder)
    lines = [
        "b1",
        "ssh-ng://u@[::1]:22?compress=true&remote-store=/x a-b,c-d,a-b /etc/key 4 2.5 kvm,big q QUJD surplus",
        "/srv/store , - 0 1e3",
        "b3 - - 4294967295 0.1 - a,b QUJ",
        "b4 -, - 1 1 -, -,",
    ]
    found, warnings = parse("\n".join(lines), release)
    assert warnings == []
    asked = Request("nobodys-system", stockhook.DRV_PATH, frozenset(), False)
    stockhook.fresh_state(builder)
    stock = stockhook.ask(builder, "\n".join(format_machine(machine, release) for machine in found), asked)
    here = LocalHost(SYSTEM, frozenset(), frozenset(), 0, release)
    assert stock.answers == ["# decline"]
    assert no_machine_message(asked, here, found) in stock.messages


names = st.text("abcz019._+-", min_size=1, max_size=6)
name_lists = st.lists(names, max_size=3)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Any machine that a line can say."""
    return Machine(
        uri=parse_store_uri(
            draw(st.sampled_from(["ssh://b1", "ssh-ng://u@b2:22?compress=true", "/srv/store", "auto"]))
        ),
        text="",
        origin="",
        systems=tuple(draw(name_lists)),
        ssh_key=draw(st.none() | st.just("/etc/key")),
        max_jobs=draw(st.integers(0, (1 << 32) - 1)),
        speed_factor=draw(st.floats(min_value=2**-149, max_value=math.ldexp(1, 127), width=32)),
        supported=frozenset(draw(name_lists)),
        mandatory=frozenset(draw(name_lists)),
        public_host_key=draw(st.none() | st.sampled_from(["QUJD", "QUI=", "QQ=="])),
    )


@given(st.lists(machines(), max_size=4))
def test_a_formatted_machine_is_read_back(written: list[Machine]) -> None:
    """The stock hook must see what we saw."""
    read, warnings = parse("\n".join(format_machine(machine, NEW) for machine in written))
    assert warnings == []
    assert [meaning(machine) for machine in read] == [meaning(machine) for machine in written]


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t;#@-,")))
def test_any_text_is_machines_and_warnings(text: str) -> None:
    """`builders` is written by people, and nothing in it stops a build that needs none of it."""
    found, warnings = parse(text)
    for machine in found:
        assert machine.max_jobs >= 0
        assert machine.speed_factor > 0
    assert all("ignoring" in warning for warning in warnings)
