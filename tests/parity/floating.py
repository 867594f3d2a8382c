"""Scenarios of content-addressed derivations (tests/lab/graphs/floating.nix), with `ca-derivations` on both sides."""

from collections.abc import Callable, Sequence

from tests.lab.host import Host, Output
from tests.lab.lab import GRAPHS
from tests.lab.signing import give_key
from tests.parity.scenarios import Scenario

FEATURE = "ca-derivations"

JSON = ("--log-format", "internal-json")
CHROOT = ("--store", "/root/chroot")


def floating_build(*attributes: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that builds attributes of floating.nix, elsewhere only, and prints their outputs."""
    chosen = [word for attribute in attributes for word in ("-A", attribute)]
    command = ["nix-build", f"{GRAPHS}/floating.nix", *chosen, "--argstr", "seed", "parity"]
    return [*command, "-j0", "--no-out-link", *options]


def _build(*attributes: str, options: Sequence[str] = ()) -> Callable[[Host, Host], Sequence[Output]]:
    def act(client: Host, _builder: Host) -> Sequence[Output]:
        return [client.run(floating_build(*attributes, options=options), check=False)]

    return act


def _build_what_the_builder_has(client: Host, builder: Host) -> Sequence[Output]:
    """Nothing is built the second time, and the results say where everything is all the same."""
    first = _build("top")(client, builder)
    client.reset_store()
    return [*first, *_build("top")(client, builder)]


def _build_one_missing_output(client: Host, builder: Host) -> Sequence[Output]:
    """The realisations of the others stay the ones they are."""
    first = _build("pair.dev")(client, builder)
    client.run(["nix-store", "--delete", first[0].stdout.strip()])
    return [*first, *_build("pair.dev")(client, builder)]


def _build_what_is_signed_there(client: Host, builder: Host) -> Sequence[Output]:
    """Paths and realisations arrive with the builder's signatures."""
    builder.configure(experimental_features=f"nix-command {FEATURE}", secret_key_files=give_key(builder))
    return _build("top")(client, builder)


SCENARIOS = (
    Scenario("floating graph", _build("top"), features=FEATURE),
    Scenario("floating graph, as JSON", _build("top", options=JSON), features=FEATURE),
    Scenario("floating graph, single user", _build("top"), daemon=False, features=FEATURE),
    Scenario(
        "floating graph, chroot store",
        _build("top", options=CHROOT),
        daemon=False,
        features=FEATURE,
        store="/root/chroot/nix",
    ),
    Scenario("floating graph, ssh", _build("top"), prefix="ssh://", features=FEATURE),
    Scenario("floating graph, ssh, as JSON", _build("top", options=JSON), prefix="ssh://", features=FEATURE),
    Scenario("floating graph, signed by the builder", _build_what_is_signed_there, features=FEATURE),
    Scenario("floating graph, the builder has all", _build_what_the_builder_has, features=FEATURE),
    Scenario("floating graph, one output is missing", _build_one_missing_output, features=FEATURE),
    Scenario("floating, failing", _build("failing"), status=1, features=FEATURE),
    Scenario("floating, failing, ssh", _build("failing"), status=1, prefix="ssh://", features=FEATURE),
    Scenario("fixed, with the feature", _build("fixed"), features=FEATURE),
    Scenario("floating, untrusted", _build("leaf"), prefix="ssh-ng://visitor@", features=FEATURE),
    Scenario("floating, untrusted, ssh", _build("leaf"), prefix="ssh://visitor@", features=FEATURE),
    Scenario("fixed, untrusted", _build("fixed"), prefix="ssh-ng://visitor@", features=FEATURE),
    Scenario("fixed, untrusted, ssh", _build("fixed"), prefix="ssh://visitor@", features=FEATURE),
)
