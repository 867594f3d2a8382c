"""Realisations: which path an output of a content-addressed derivation turned out to have.

Pure: the JSON that daemons exchange, in the full form and in the short one that newer daemons send to older clients.
Tested in values/test_realisation.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hook.errors import StoreError
from hook.values.path import check_store_path

QUOTED = 200
"""How much of a malformed text is shown."""


class OutputId(NamedTuple):
    """An output of a derivation, independent of how its inputs are named: `drv_hash` is `sha256:<hex>`."""

    drv_hash: str
    output_name: str


@dataclass(frozen=True, slots=True)
class Realisation:
    """An output and its path; `dependencies` maps output ids to paths and is empty for resolved derivations.

    The `signatures` are of `id`, as up to Nix 2.34, or with `signs_drv_path` of the derivation's path and the output's
    name.  Neither kind can be verified as the other.
    """

    id: OutputId
    out_path: str
    signatures: tuple[str, ...] = ()
    dependencies: Mapping[OutputId, str] = field(default_factory=dict)
    signs_drv_path: bool = False


def parse_output_id(text: str) -> OutputId:
    """Parse `sha256:<64 hex digits>!<output name>`."""
    drv_hash, _, output_name = text.partition("!")
    algorithm, _, digits = drv_hash.partition(":")
    try:
        size = len(bytes.fromhex(digits))
    except ValueError:
        size = 0
    if algorithm != "sha256" or size != 32 or not output_name or "!" in output_name:
        raise StoreError(f"'{text}' is not an output id")
    return OutputId(drv_hash, output_name)


def format_output_id(output_id: OutputId) -> str:
    """The inverse of `parse_output_id`."""
    return f"{output_id.drv_hash}!{output_id.output_name}"


def parse_realisation(text: str | bytes, store_dir: str) -> Realisation:
    """Parse the JSON of a realisation; StoreError if it is malformed.

    Daemons of Nix 2.35 send an all-zero `drv_hash` to older clients, so that only the output's name can be relied upon.
    """
    # Loaded on first use: only content-addressed derivations come here.
    import json

    try:
        values = json.loads(text)
        return Realisation(
            id=parse_output_id(values["id"]),
            out_path=_full_path(values["outPath"], store_dir),
            signatures=tuple(sorted(_text(signature) for signature in values.get("signatures", []))),
            dependencies={
                parse_output_id(output_id): _full_path(path, store_dir)
                for output_id, path in values.get("dependentRealisations", {}).items()
            },
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise StoreError(f"{text[:QUOTED]!r} is not a realisation") from None


def _full_path(name: str, store_dir: str) -> str:
    return check_store_path(f"{store_dir}/{_text(name)}", store_dir)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
