"""What the nix-ferry command prints."""

import pytest

from hook.cli.output import print_table


def test_no_cell_drives_a_terminal_or_passes_for_another_row(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine says what it likes, and root reads it."""
    print_table(("MACHINE", "SAYS"), [("b1", "\x1b]0;title\x07 Nix\nb2       fine"), ("b3", "é")])
    assert capsys.readouterr().out.splitlines() == [
        "MACHINE  SAYS",
        r"b1       \x1b]0;title\x07 Nix\nb2       fine",
        "b3       é",
    ]
