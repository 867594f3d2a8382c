"""Typed access to settings that may be missing or wrong."""

import pytest

from hook.errors import ConfigurationError
from hook.values.settings import Settings

SETTINGS = Settings({"max-jobs": "4", "substitute": "true", "extra-platforms": "a-b  c-d", "bad": "maybe"})


def test_values_are_read_by_type() -> None:
    """As the parent writes them: canonical text."""
    assert SETTINGS.number("max-jobs", 1) == 4
    assert SETTINGS.flag("substitute", False) is True
    assert SETTINGS.words("extra-platforms") == ["a-b", "c-d"]


def test_a_missing_setting_has_its_default() -> None:
    """Every release knows other settings."""
    assert SETTINGS.number("cores", 7) == 7
    assert SETTINGS.flag("fallback", True) is True
    assert SETTINGS.text("store", "auto") == "auto"


@pytest.mark.parametrize("read", [lambda: SETTINGS.number("bad", 0), lambda: SETTINGS.flag("bad", False)])
def test_a_wrong_value_names_setting_and_value(read) -> None:  # type: ignore[no-untyped-def]
    """Nobody should have to guess which line of nix.conf is meant."""
    with pytest.raises(ConfigurationError, match="setting 'bad' is 'maybe'"):
        read()


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.5", "٣", "18446744073709551616", "9" * 5000])
def test_a_number_fits_into_a_word(text: str) -> None:
    """It goes to machines; another one would be an error in the middle of a build."""
    with pytest.raises(ConfigurationError, match="expected a number"):
        Settings({"timeout": text}).number("timeout", 0)


def test_changed_copies_leave_the_original() -> None:
    """The stock hook is given other `builders` than we were."""
    assert SETTINGS.replace(max_jobs="0").number("max-jobs", 1) == 0
    assert SETTINGS.number("max-jobs", 1) == 4
