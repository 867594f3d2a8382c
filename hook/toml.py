"""TOML to values, with the line and the column of a mistake in its syntax.

A module of its own, since both parsers take milliseconds to load and most users have no ferry.toml.  Tested in
cli/test_config.py.
"""

from hook.errors import ConfigurationError

try:
    import tomli as parser
except ImportError:
    # A Python that somebody else installed may lack it.  Its own parser is the same code; up to 3.13 that tells a place
    # only as part of the message, and none at the end of the file.
    import tomllib as parser  # type: ignore[no-redef]


def parse_toml(text: str) -> dict[str, object]:
    """The values in `text`; ConfigurationError, with the place, if it is not TOML.

    ValueError or RecursionError if a number is too long, or something too deep, for Python.
    """
    try:
        return parser.loads(text)
    except parser.TOMLDecodeError as error:
        raise ConfigurationError(_described(error)) from None


def _described(error: parser.TOMLDecodeError) -> str:
    if not hasattr(error, "lineno"):
        return str(error)
    return f"line {error.lineno}, column {error.colno}: {error.msg}"
