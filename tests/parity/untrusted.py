"""Scenarios with a builder that does not trust the user, for derivations whose outputs it therefore computes itself.

Only successes: what users read of a refusal is better than stock's, see tests/lab/test_untrusted.py.
"""

from collections.abc import Callable, Sequence

from tests.lab.host import Host, Output
from tests.lab.offload import nix_build
from tests.lab.roots import SUITES
from tests.lab.signing import PUBLIC_KEY, sign_all
from tests.parity.scenarios import Scenario

VISITOR = "ssh-ng://visitor@"
JSON = ("--log-format", "internal-json")


def _build_from_signed(*options: str) -> Callable[[Host, Host], Sequence[Output]]:
    """Build something whose input was built here and signed by hand."""

    def act(client: Host, builder: Host) -> Sequence[Output]:
        builder.configure(trusted_public_keys=PUBLIC_KEY)
        here = client.run(nix_build("from-source", seed="parity", options=["-j1", "--builders", ""]))
        sign_all(client)
        return [here, client.run(nix_build("shapes", seed="parity", options=options), check=False)]

    return act


def _build_from_sources(client: Host, _builder: Host) -> Sequence[Output]:
    """Sources need no signature: their names follow from their content."""
    return [client.run(nix_build("from-source", seed="parity"), check=False)]


# Older daemons do not say whether they trust their user, and older hooks do not ask.
NEWER = SUITES[1:]

SCENARIOS = (
    Scenario("untrusted, sources", _build_from_sources, prefix=VISITOR, suites=NEWER),
    Scenario("untrusted, signed inputs", _build_from_signed(), prefix=VISITOR, suites=NEWER),
    Scenario("untrusted, signed inputs, as JSON", _build_from_signed(*JSON), prefix=VISITOR, suites=NEWER),
)
