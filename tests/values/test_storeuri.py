"""Addresses of machines: what they mean to ssh, and the text under which each Nix release knows them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hook.errors import ConfigurationError
from hook.machines.builders import parse_machines
from hook.values.release import Release
from hook.values.storeuri import StoreUri, parse_store_uri
from tests import stockhook
from tests.lab.host import Host

OLD, MIDDLE, NEW = (2, 8), (2, 26), (2, 34)

PLACES = [
    # text, scheme, user, host, port, path
    ("b1", "ssh", None, "b1", None, ""),
    ("u@b1", "ssh", "u", "b1", None, ""),
    ("b1:2222", "ssh", None, "b1", 2222, ""),
    ("ssh://b1", "ssh", None, "b1", None, ""),
    ("ssh-ng://u@h:2222", "ssh-ng", "u", "h", 2222, ""),
    ("ssh-ng://h:", "ssh-ng", None, "h", None, ""),
    ("ssh://h/", "ssh", None, "h", None, "/"),
    ("ssh-ng://fe80::1", "ssh-ng", None, "fe80::1", None, ""),
    ("u@fe80::1", "ssh", "u", "fe80::1", None, ""),
    ("ssh-ng://[::1]", "ssh-ng", None, "::1", None, ""),
    ("ssh-ng://u@[fe80::1]:22", "ssh-ng", "u", "fe80::1", 22, ""),
    ("ssh-ng://fe80::1%eth0", "ssh-ng", None, "fe80::1%eth0", None, ""),
    ("ssh-ng://[fe80::1%eth0]", "ssh-ng", None, "fe80::1%eth0", None, ""),
    ("ssh-ng://[fe80::1%25eth0]", "ssh-ng", None, "fe80::1%eth0", None, ""),
    ("ssh-ng://h%41", "ssh-ng", None, "hA", None, ""),
    ("ssh-ng://a%2Bb@h", "ssh-ng", "a+b", "h", None, ""),
    ("ssh-ng://u:secret@h", "ssh-ng", "u", "h", None, ""),
    ("auto", "auto", None, "", None, ""),
    ("?trusted=true", "auto", None, "", None, ""),
    ("daemon", "daemon", None, "", None, ""),
    ("local?root=/x", "local", None, "", None, ""),
    ("/srv/a/../b//c/", "local", None, "", None, "/srv/b/c"),
    ("srv/b", "local", None, "", None, "/srv/b"),
    ("local:///srv/b%20c", "local", None, "", None, "/srv/b c"),
    ("unix:///run/socket", "unix", None, "", None, "/run/socket"),
    ("unix:/run/socket", "unix", None, "", None, "/run/socket"),
    ("mounted-ssh-ng://h", "mounted-ssh-ng", None, "h", None, ""),
    ("foo://x", "foo", None, "x", None, ""),
]


@pytest.mark.parametrize(("text", "scheme", "user", "host", "port", "path"), PLACES)
def test_an_address_is_taken_apart(
    text: str, scheme: str, user: str | None, host: str, port: int | None, path: str
) -> None:
    """Host and user come out as ssh wants them: decoded, without brackets."""
    uri = parse_store_uri(text)
    assert (uri.scheme, uri.user, uri.host, uri.port, uri.path) == (scheme, user, host, port, path)


LOGINS = [
    # text, then as whom Nix up to 2.30 and later ones log in
    ("ssh://h", None, None),
    ("ssh://u@h:22", "u", "u"),
    ("ssh://user:target@bastion", "user:target", "user"),
    ("user:target@bastion:2222", "user:target", "user"),
    ("ssh-ng://user:target@[fe80::1]", "user:target", "user"),
    ("ssh-ng://user:tar%40get@bastion", "user:tar%40get", "user"),
    ("ssh-ng://user%3Atarget@bastion", "user%3Atarget", "user:target"),
    ("ssh-ng://us%2Ber@bastion", "us%2Ber", "us+er"),
    ("ssh-ng://user:@bastion", "user:", "user"),
]


@pytest.mark.parametrize(("text", "old", "new"), LOGINS)
def test_the_login_is_the_one_of_that_release(text: str, old: str | None, new: str | None) -> None:
    """Some bastions tell by it who goes on to where: half of it leads elsewhere."""
    assert [parse_store_uri(text, release).user for release in ((2, 8), (2, 30), (2, 31))] == [old, old, new]
    assert parse_store_uri(text).user == new


@pytest.mark.lab
@pytest.mark.parametrize("text", [text for text, _, new in LOGINS if new])
def test_stock_logs_in_as_the_same(builder: Host, text: str) -> None:
    """Seen by the ssh that stock runs."""
    address = text if "://" in text else f"ssh://{text}"
    seen = stockhook.ssh_arguments(builder, address)
    assert seen[0].rpartition("@")[0] == parse_store_uri(text, stockhook.release_of_host(builder)).user


def test_a_machine_is_logged_in_to_as_its_release_does() -> None:
    """The release of the Nix that asks."""
    for release, user in (((2, 26), "user:target"), ((2, 34), "user")):
        (machine,), _ = parse_machines("user:target@b1", default_system="x", release=release, read_file=str)
        assert machine.uri.user == user


REFUSED = [
    ("ssh://", "the host name is empty"),
    ("ssh-ng://u@", "the host name is empty"),
    ("ssh-ng://@h", "the user name is empty"),
    ("ssh-ng://-oProxyCommand=x", "host name '-oProxyCommand=x' must not start with '-'"),
    ("ssh-ng://%2DoProxyCommand=x", "host name '-oProxyCommand=x' must not start with '-'"),
    ("-oProxyCommand=x", "host name '-oProxyCommand=x' must not start with '-'"),
    ("ssh-ng://-u@h", "user name '-u' must not start with '-'"),
    ("ssh-ng://h%0Ax", "contains a space or control character"),
    ("ssh-ng://u%20x@h", "contains a space or control character"),
    ("ssh-ng://h:0", "port '0' is invalid"),
    ("ssh-ng://h:65536", "port '65536' is invalid"),
    ("h:x", "port 'x' is invalid"),
    ("ssh-ng://h:٣", "'٣' cannot stand in a URI"),
    ("ssh-ng://[::1", r"'\[::1' is no host"),
    ("ssh-ng://[::1]22", r"'\[::1\]22' is no host"),
    ("ssh-ng://[h]", "'h' is no IPv6 address"),
    ("ssh-ng://1::2::3", "'1::2::3' is no IPv6 address"),
    ("ssh-ng://h/path", "'/path' after the host has no meaning for ssh-ng"),
    ("ssh-ng:/h", "the host name is empty"),
    ("://h", "'' is no URI scheme"),
    ("1ssh://h", "'1ssh' is no URI scheme"),
    ("a_b://h", "'a_b' is no URI scheme"),
    ("h?remote-store=/x", "expected 'ssh://h"),
    ("ssh-ng://h?a=%", "'%' is no percent-encoded character"),
    ("ssh-ng://h?a=%4", "'%4' is no percent-encoded character"),
    ("ssh-ng://h?a=%x1", "'%x1' is no percent-encoded character"),
    ("ssh-ng://h?a=%00", "'%00' is no percent-encoded character"),
    ("ssh-ng://h?a=^", r"'\^' cannot stand in a URI, expected it percent-encoded"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_bad_address_is_refused_with_what_was_expected(text: str, message: str) -> None:
    """What could reach ssh as an option, and what no release can use."""
    with pytest.raises(ConfigurationError, match=message):
        parse_store_uri(text)


RENDERED = [
    # text, then as 2.8, 2.26 and 2.34 know it
    ("b1", "ssh://b1", "ssh://b1", "ssh://b1"),
    ("ssh-ng://u@h:2222", "ssh-ng://u@h:2222", "ssh-ng://u@h:2222", "ssh-ng://u@h:2222"),
    (
        "ssh-ng://h?remote-store=local?root=/x",
        "ssh-ng://h?remote-store=local?root=/x",
        "ssh-ng://h?remote-store=local?root%3D/x",
        "ssh-ng://h?remote-store=local?root%3D/x",
    ),
    ("ssh-ng://h?b=1&a=2", "ssh-ng://h?b=1&a=2", "ssh-ng://h?a=2&b=1", "ssh-ng://h?a=2&b=1"),
    ("ssh-ng://h?a=1&a=2&&c", "ssh-ng://h?a=1&a=2&&c", "ssh-ng://h?a=1", "ssh-ng://h?a=1"),
    ("ssh-ng://h?a=x%20y", "ssh-ng://h?a=x%20y", "ssh-ng://h?a=x%20y", "ssh-ng://h?a=x%20y"),
    ('h?a=(1)"', 'ssh://h?a=(1)"', "ssh://h?a=%281%29%22", "ssh://h?a=%281%29%22"),
    ("ssh-ng://fe80::1", "ssh-ng://fe80::1", "ssh-ng://fe80::1", "ssh-ng://[fe80::1]"),
    ("ssh-ng://u@fe80::1", "ssh-ng://u@fe80::1", "ssh-ng://u@fe80::1", "ssh-ng://u@[fe80::1]"),
    ("ssh://[fe80::1]:22", "ssh://[fe80::1]:22", "ssh://[fe80::1]:22", "ssh://[fe80::1]:22"),
    ("ssh-ng://fe80::1%eth0", "ssh-ng://fe80::1%eth0", "ssh-ng://fe80::1%eth0", "ssh-ng://[fe80::1%25eth0]"),
    ("ssh-ng://h:0022", "ssh-ng://h:0022", "ssh-ng://h:0022", "ssh-ng://h:22"),
    ("ssh-ng://h%41,b", "ssh-ng://h%41,b", "ssh-ng://h%41,b", "ssh-ng://hA%2Cb"),
    ("ssh-ng://u:pw@h", "ssh-ng://u:pw@h", "ssh-ng://u:pw@h", "ssh-ng://u:pw@h"),
    ("ssh-ng://H_x", "ssh-ng://H_x", "ssh-ng://H_x", "ssh-ng://H_x"),
    ("auto", "auto", "auto", "auto"),
    ("?trusted=1", "?trusted=1", "auto?trusted=1", "auto?trusted=1"),
    ("daemon", "daemon", "unix://", "daemon"),
    ("daemon?trusted=1", "daemon?trusted=1", "unix://?trusted=1", "unix://?trusted=1"),
    ("local", "local", "local://", "local"),
    ("local?root=/x", "local?root=/x", "local://?root=/x", "local://?root=/x"),
    ("/r/../x//y/", "/r/../x//y/", "local:///x/y", "local:///x/y"),
    ("local:///r%20t", "local:///r%20t", "local:///r t", "local:///r%20t"),
    ("unix:/p", "unix:/p", "unix:///p", "unix:///p"),
]


@pytest.mark.parametrize(("text", "old", "middle", "new"), RENDERED)
def test_an_address_is_rendered_as_that_release_does(text: str, old: str, middle: str, new: str) -> None:
    """Lock files are shared by this text, and Nix shows it to the user."""
    uri = parse_store_uri(text)
    assert [uri.render(release) for release in (OLD, MIDDLE, NEW)] == [old, middle, new]


def test_a_path_was_not_yet_encoded_in_2_31() -> None:
    """The release that takes the authority apart leaves the path alone."""
    uri = parse_store_uri("local:///a%20b")
    assert [uri.render(release) for release in ((2, 31), (2, 32))] == ["local:///a b", "local:///a%20b"]


def test_a_lock_stem_has_no_slash() -> None:
    """It is the beginning of a file name."""
    assert parse_store_uri("ssh-ng://h?remote-store=/a/b").lock_stem(NEW) == "ssh-ng:__h?remote-store=_a_b"


@pytest.mark.lab
def test_the_stock_hook_makes_the_same_lock_files(builder: Host) -> None:
    """Else two hooks of one host would each use all slots of a machine."""
    release = stockhook.release_of_host(builder)
    texts = [text for text, *_ in RENDERED]
    ours = {parse_store_uri(text).lock_stem(release) for text in texts}
    stockhook.fresh_state(builder)
    assert stockhook.ask(builder, "\n".join(texts)).stems == ours


def test_parameters_are_decoded_and_typed() -> None:
    """The first of a name counts, as in stock."""
    uri = parse_store_uri("ssh-ng://h?remote-program=a%20b&compress=yes&compress=no&ssh-key=/k")
    assert uri.parameter("remote-program", "") == "a b"
    assert uri.parameter("remote-store", "none") == "none"
    assert uri.flag("compress", False) is True
    assert uri.flag("trusted", True) is True


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("yes", True), ("1", True), ("false", False), ("no", False), ("0", False)]
)
def test_a_flag_has_stocks_spellings(value: str, expected: bool) -> None:
    """Nothing else is guessed at."""
    assert parse_store_uri(f"h?compress={value}").flag("compress", not expected) is expected


def test_a_flag_that_is_none_is_an_error_when_asked_for() -> None:
    """At connect time, as in stock: the machine is out, its line is not."""
    uri = parse_store_uri("ssh-ng://h?compress=maybe")
    with pytest.raises(ConfigurationError, match="parameter 'compress' is 'maybe', expected 'true' or 'false'"):
        uri.flag("compress", False)


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("ssh-ng://h?compress=1&compres=1", ("compres",)),
        ("ssh://h?max-connection-age=3&log-fd=4", ("max-connection-age",)),
        ("ssh-ng://h?zz=1&aa=2", ("aa", "zz")),
        ("foo://h?anything=1", ()),
    ],
)
def test_unknown_parameters_are_kept_and_listed(text: str, unknown: tuple[str, ...]) -> None:
    """A typing error deserves a warning; what we do not connect to ourselves is for stock to judge."""
    assert parse_store_uri(text).unknown_parameters == unknown


def test_only_the_bare_name_is_plain_localhost() -> None:
    """Stock runs the program itself for exactly this authority."""
    assert parse_store_uri("ssh-ng://localhost?remote-store=/x").is_plain_localhost
    assert not parse_store_uri("ssh-ng://root@localhost").is_plain_localhost
    assert not parse_store_uri("ssh-ng://localhost:22").is_plain_localhost


names = st.text("abcXYZ019-._~+@% é", min_size=1, max_size=8)
encoded = names.map(lambda text: "".join(f"%{byte:02x}" for byte in text.encode()))
hosts = st.one_of(
    st.text("abcXYZ019._~", min_size=1, max_size=12),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)


@st.composite
def addresses(draw: st.DrawFn) -> str:
    """Well-formed ssh addresses."""
    user = draw(st.none() | st.text("abcXYZ019._", min_size=1, max_size=8))
    port = draw(st.none() | st.integers(1, 65535))
    query = draw(st.lists(st.tuples(encoded, encoded), max_size=3))
    authority = f"{user}@" if user else ""
    authority += draw(hosts) + (f":{port}" if port else "")
    text = f"{draw(st.sampled_from(['ssh', 'ssh-ng']))}://{authority}"
    return text + ("?" + "&".join(f"{name}={value}" for name, value in query) if query else "")


def meaning(uri: StoreUri) -> tuple[object, ...]:
    return uri.scheme, uri.user, uri.host, uri.port, uri.path, uri.parameters


@given(addresses(), st.sampled_from([(2, 8), (2, 23), (2, 30), (2, 31), (2, 34)]))
@example("ssh-ng://fe80::1", (2, 34))
def test_a_rendered_address_means_the_same(text: str, release: Release) -> None:
    """Whatever form a release gives it, it is the same machine, and rendering again changes nothing."""
    uri = parse_store_uri(text)
    again = parse_store_uri(uri.render(release))
    assert meaning(again) == meaning(uri)
    assert again.render(release) == uri.render(release)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """`builders` is written by people."""
    try:
        uri = parse_store_uri(text)
    except ConfigurationError:
        return
    assert all("/" not in uri.lock_stem(release) for release in (OLD, MIDDLE, NEW))
