"""Kinds of stores that a machine's address can name: ours, those of the stock hook, and those that no Nix knows.

Pure; tested in test_storekinds.py.
"""

import difflib

from hook.machines.identity import LOCAL_SCHEMES, REMOTE_PROGRAMS
from hook.values.storeuri import StoreUri

OURS = (*REMOTE_PROGRAMS, *LOCAL_SCHEMES)
STOCK = ("dummy", "file", "ftp", "gs", "http", "https", "local-binary-cache", "local-overlay", "mounted-ssh-ng", "s3")
"""What a Nix of some release opens, and we do not."""


def is_for_stock(uri: StoreUri) -> bool:
    """Whether builds there are left to the stock hook."""
    return uri.scheme in STOCK


def unknown(uri: StoreUri) -> str:
    """What is wrong with the kind of an address, in words; empty if some Nix knows it."""
    if uri.scheme in (*OURS, *STOCK):
        return ""
    close = difflib.get_close_matches(uri.scheme.lower(), (*OURS, *STOCK), n=1)
    guess = f": did you mean '{close[0]}'?" if close else ""
    return f"no Nix knows stores of the kind '{uri.scheme}'{guess}"
