"""What Nix asks of its hook: a build, and after the accept what that build reads and makes.

Source: docs/protocols/build-hook.md, "Questions and answers", "After the accept".  Tested in test_front.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One `try`: what is to be built, and whether Nix has a free slot of its own."""

    system: str
    drv_path: str
    features: frozenset[str]
    am_willing: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What the parent sends after it heard `# accept`.

    `inputs` is the closure of everything the build reads, a path once; `wanted` names the outputs not yet valid here.
    """

    inputs: tuple[str, ...]
    wanted: frozenset[str]
