"""Recognise that a machine refuses what only trusted users may do, and say what its owner can change.

Nix says it in words only, so this goes by the words of its releases.  Pure; tested in test_trust.py.
"""

from hook.errors import MachineError, NotTrusted

TRUST_THE_USER = "add the user that logs in there to `trusted-users` in nix.conf of that machine"

NOT_PRIVILEGED = "you are not privileged to build"
"""What older daemons say, and all of them over ssh, to whoever asks for an input-addressed derivation."""

ADVICE = (
    ("lacks a signature by a trusted key", f"{TRUST_THE_USER}, or sign the path with one of its `trusted-public-keys`"),
    ("lacks a valid signature", f"{TRUST_THE_USER}, or sign the path with one of its `trusted-public-keys`"),
    (NOT_PRIVILEGED, TRUST_THE_USER),
)
"""What daemons say, and what helps."""


def with_advice(error: MachineError) -> MachineError:
    """`error`, as NotTrusted and with advice if that is what it is about."""
    text = error.one_line
    advice = next((advice for words, advice in ADVICE if words in text), None)
    return error if advice is None else NotTrusted(text, error.trouble, advice)
