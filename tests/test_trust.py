"""Advice for those whom a machine does not trust."""

import pytest

from hook.errors import ConnectionLost, MachineError, NotTrusted
from hook.trust import with_advice

PATH = "/nix/store/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-input"


@pytest.mark.parametrize(
    "text",
    [
        f"it refused an input: cannot add path '{PATH}' because it lacks a signature by a trusted key",
        f"it refused an input: cannot add path '{PATH}' because it lacks a valid signature",
    ],
)
def test_a_missing_signature_can_be_mended_in_two_ways(text: str) -> None:
    error = with_advice(MachineError(text))
    assert isinstance(error, NotTrusted)
    assert str(error).startswith(text)
    assert "`trusted-users`" in str(error)
    assert "`trusted-public-keys`" in str(error)


def test_signatures_are_no_advice_where_they_do_not_help() -> None:
    """Older daemons build input-addressed derivations for trusted users only, whatever is signed."""
    lost = ConnectionLost("unexpected end of file: error: you are not privileged\nto build input-addressed derivations")
    text = str(with_advice(lost))
    assert "`trusted-users`" in text
    assert "sign" not in text
    assert "\n" not in text


def test_other_errors_stay_what_they_are() -> None:
    error = ConnectionLost("unexpected end of file")
    assert with_advice(error) is error
