"""A signing key for tests: always the same one, so that two runs leave the same signatures."""

from tests.lab.host import Host

PUBLIC_KEY = "lab-1:mJhO0mrpFQbUy11h7AZIcN/0myhnuCrVEOopBPix7NU="
SECRET_KEY = "lab-1:3kJeOS8y4d0qYGQD3aSjVXp+5VyHQ6lYFY/yFa2cIjOYmE7SaukVBtTLXWHsBkhw3/SbKGe4KtUQ6ikE+LHs1Q=="
"""Made by `nix-store --generate-binary-cache-key`."""

KEY_FILE = "/root/signing-key"


def give_key(host: Host) -> str:
    """Put the secret key into `host`; returns its file."""
    host.write_file(KEY_FILE, SECRET_KEY, 0o600)
    return KEY_FILE


def sign_all(host: Host) -> None:
    """Sign every valid path of `host`."""
    host.run(["nix", "store", "sign", "--all", "--key-file", give_key(host)])
