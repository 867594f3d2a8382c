"""What tests of the machines that Nix knows share."""

import pytest

MACHINES = "/etc/nix/machines"
OTHER_HOST_KEY = (
    "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUhuQlNOd1RwWktEd1V4a1ZoR1o3clFlVElrQ1hwS0pyNmlNNFd6NG1WOXk="
)
"""One that no machine here has."""

newest = pytest.mark.parametrize("client", ["sid"], indirect=True)
"""For what is the same on every release."""
