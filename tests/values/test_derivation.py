"""Derivations: any value survives its text, real files survive their value, anything else is refused."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import StockOnly, StoreError
from hook.values.derivation import (
    Derivation,
    DerivationOutput,
    OutputKind,
    format_derivation,
    parse_derivation,
    resolved_hash,
)
from tests.nixstore import NixStore

raw = st.binary(max_size=30) | st.lists(st.sampled_from([b"\\", b'"', b"\n", b"\r", b"\t", b"n", b","])).map(b"".join)
text = raw.map(lambda value: value.decode("utf-8", "surrogateescape"))
outputs = st.dictionaries(text, st.builds(DerivationOutput, text, text, text), max_size=3)
derivations = st.builds(
    Derivation,
    outputs=outputs.map(lambda values: tuple(sorted(values.items()))),
    input_drvs=st.dictionaries(text, st.sets(text, max_size=3).map(lambda names: tuple(sorted(names))), max_size=3).map(
        lambda values: tuple(sorted(values.items()))
    ),
    input_srcs=st.sets(text, max_size=3).map(lambda values: tuple(sorted(values))),
    system=text,
    builder=raw,
    args=st.lists(raw, max_size=3).map(tuple),
    env=st.dictionaries(raw, raw, max_size=3).map(lambda values: tuple(sorted(values.items()))),
)

MINIMAL = b'Derive([("out","/nix/store/x-y","","")],[],[],"x86_64-linux","/bin/sh",[],[("name","y")])'


@given(derivations)
def test_any_value_survives_its_text(derivation: Derivation) -> None:
    """Environments hold arbitrary bytes; one changed byte makes another derivation of it."""
    assert parse_derivation(format_derivation(derivation)) == derivation


@given(st.binary(max_size=40))
def test_a_string_reads_back_as_its_escapes_say(value: bytes) -> None:
    """The unescaping by replacement agrees with reading one character after the other."""
    source = value.replace(b'"', b"") + (b"\\" if value.endswith(b"\\") else b"")
    source = source if _ends_outside_an_escape(source) else source + b"\\"
    expected = bytearray()
    position = 0
    while position < len(source):
        if source[position : position + 1] == b"\\":
            position += 1
            escaped = source[position : position + 1]
            expected += {b"n": b"\n", b"r": b"\r", b"t": b"\t"}.get(escaped, escaped)
        else:
            expected += source[position : position + 1]
        position += 1
    assert parse_derivation(MINIMAL.replace(b'"y")])', b'"%s")])' % source)).env == ((b"name", bytes(expected)),)


def _ends_outside_an_escape(source: bytes) -> bool:
    return (len(source) - len(source.rstrip(b"\\"))) % 2 == 0


@given(st.data())
def test_a_damaged_derivation_is_an_error_and_never_a_crash(data: st.DataObject) -> None:
    """A file cut short or with one byte changed either parses or is refused by name."""
    position = data.draw(st.integers(0, len(MINIMAL) - 1))
    byte = data.draw(st.binary(max_size=1))
    damaged = MINIMAL[:position] + byte + MINIMAL[position + 1 :]
    try:
        parsed = parse_derivation(damaged)
    except (StoreError, StockOnly):
        return
    assert parse_derivation(format_derivation(parsed)) == parsed


@pytest.mark.parametrize("end", range(len(MINIMAL)))
def test_a_truncated_derivation_is_refused(end: int) -> None:
    """A half-written file must not pass for a whole one."""
    with pytest.raises(StoreError, match="offset"):
        parse_derivation(MINIMAL[:end])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected 'Derive\\(' at offset 0"),
        (MINIMAL + b"\n", f"expected end of file at offset {len(MINIMAL)}"),
        (MINIMAL.replace(b'"/bin/sh"', b"/bin/sh"), "expected a string at offset"),
        (MINIMAL.replace(b'("name","y")', b'("name","y"),("name","z")'), "environment variable twice"),
        (MINIMAL.replace(b'("name","y")', b'("name","y"),'), r"expected '\(' at offset"),
        (MINIMAL.replace(b'"")],', b'""),("out","/nix/store/x-z","","")],'), "output twice"),
    ],
)
def test_what_is_malformed_is_named(data: bytes, message: str) -> None:
    """The offset leads to the place in a file of one line and 100 kB."""
    with pytest.raises(StoreError, match=message):
        parse_derivation(data)


def test_dynamic_derivations_are_left_to_stock() -> None:
    """Their experimental format is not spoken here, which is no fault of the file."""
    with pytest.raises(StockOnly, match="dynamic"):
        parse_derivation(b'DrvWithVersion("xp-dyn-drv",[],[],[],"","",[],[])')


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (DerivationOutput("/nix/store/x-y"), OutputKind.INPUT_ADDRESSED),
        (DerivationOutput("/nix/store/x-y", "r:sha256", "00"), OutputKind.FIXED),
        (DerivationOutput("", "r:sha256"), OutputKind.FLOATING),
        (DerivationOutput(""), OutputKind.DEFERRED),
        (DerivationOutput("", "r:sha256", "impure"), OutputKind.IMPURE),
    ],
)
def test_the_kind_follows_from_which_fields_are_set(output: DerivationOutput, kind: OutputKind) -> None:
    """What is sent to a machine, and whether stock must do it, depends on the kind."""
    assert _with_outputs(out=output).kind is kind


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"out": DerivationOutput("", "r:sha256", "00")},
        {"out": DerivationOutput("", "", "00")},
        {"out": DerivationOutput("/nix/store/x-y", "r:sha256")},
        {"out": DerivationOutput("/nix/store/x-y", "", "00")},
        {"dev": DerivationOutput("/nix/store/x-z"), "out": DerivationOutput("")},
        {"dev": DerivationOutput("/nix/store/x-z", "sha256", "00")},
        {n: DerivationOutput(f"/nix/store/x-{n}", "sha256", "00") for n in ("dev", "out")},
    ],
)
def test_impossible_outputs_are_refused(outputs: dict[str, DerivationOutput]) -> None:
    """Nix writes no such derivation."""
    with pytest.raises(StoreError):
        _ = _with_outputs(**outputs).kind


def _with_outputs(**outputs: DerivationOutput) -> Derivation:
    return Derivation(tuple(sorted(outputs.items())), (), (), "x86_64-linux", b"/bin/sh", (), ())


def test_an_unterminated_string_is_refused_in_one_pass() -> None:
    """A megabyte of escapes without an end takes milliseconds, not minutes."""
    with pytest.raises(StoreError, match="expected a string at offset"):
        parse_derivation(b'Derive([("' + b'\\"x' * 500_000)


@pytest.mark.lab
def test_files_of_nix_survive_their_value(tmp_path: Path) -> None:
    """Quotes, tabs, several outputs, fixed outputs: what Nix wrote is written back byte for byte."""
    store = NixStore(tmp_path)
    store.build()
    files = list(store.real_store_dir.glob("*.drv"))
    assert len(files) == 6
    for file in files:
        assert format_derivation(parse_derivation(file.read_bytes())) == file.read_bytes()


@pytest.mark.lab
def test_output_ids_are_those_nix_registers(tmp_path: Path) -> None:
    """After a floating build the realisation is stored under the id computed here."""
    store = NixStore(tmp_path)
    expression = """derivation { name = "floating"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c"
      "echo $out > $out" ]; outputs = [ "out" "dev" ]; outputHashMode = "recursive"; outputHashAlgo = "sha256";
      __contentAddressed = true; }""".replace('"echo $out > $out"', '"echo $out > $out; echo dev > $dev"')
    store.run("nix-build", "--no-out-link", "--expr", expression)
    (file,) = store.real_store_dir.glob("*.drv")
    digest = resolved_hash(parse_derivation(file.read_bytes()))
    assert store.rows("select drvPath, outputName from Realisations order by outputName") == [
        (f"sha256:{digest.hex()}", "dev"),
        (f"sha256:{digest.hex()}", "out"),
    ]


def test_output_ids_need_a_resolved_derivation() -> None:
    """With input derivations the id depends on theirs, which are not at hand."""
    derivation = parse_derivation(MINIMAL.replace(b"[],[],", b'[("/nix/store/x-z.drv",["out"])],[],', 1))
    with pytest.raises(StoreError, match="input derivations"):
        resolved_hash(derivation)
    assert resolved_hash(parse_derivation(MINIMAL)) == hashlib.sha256(MINIMAL.replace(b"/nix/store/x-y", b"")).digest()
