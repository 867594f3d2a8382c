"""Nix's settings as the parent sends them: names and canonical text.

The preamble may lack any setting and may hold names unknown here, so every accessor takes the default that Nix
documents.  Values are never interpreted before somebody asks.

Source: docs/protocols/build-hook.md, "The settings preamble".  Tested in test_front.py and test_builders.py.
"""

from collections.abc import Iterator, Mapping

from hook.errors import ConfigurationError

MAX_NUMBER = (1 << 64) - 1


def parse_number(text: str, most: int) -> int | None:
    """The whole number from 0 to `most` that `text` is in ASCII digits; None for anything else, of any length."""
    # Python has an error of its own for thousands of digits.
    digits = text.lstrip("0") or text[:1]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(most))):
        return None
    return int(digits) if int(digits) <= most else None


class Settings(Mapping[str, str]):
    """An immutable view of the parent's settings with typed access."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def text(self, name: str, default: str = "") -> str:
        """The value as sent."""
        return self._values.get(name, default)

    def words(self, name: str, default: str = "") -> list[str]:
        """A list or set: words separated by white space."""
        return self._values.get(name, default).split()

    def flag(self, name: str, default: bool) -> bool:
        """A boolean, written `true` or `false`."""
        value = self._values.get(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise ConfigurationError(f"setting '{name}' is '{value}', expected 'true' or 'false'")
        return value == "true"

    def number(self, name: str, default: int) -> int:
        """A whole number, which goes into a word of the protocols."""
        value = self._values.get(name)
        if value is None:
            return default
        number = parse_number(value, MAX_NUMBER)
        if number is None:
            raise ConfigurationError(f"setting '{name}' is '{value}', expected a number")
        return number

    def replace(self, **changes: str) -> "Settings":
        """A copy with some values changed; underscores in the keywords stand for dashes."""
        return Settings(self._values | {name.replace("_", "-"): value for name, value in changes.items()})
