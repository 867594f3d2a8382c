"""What a derivation asks of the machine that builds it, as Nix reads its attributes before it runs a hook.

The rules are Nix's own.  Tested in values/test_requirements.py, and with real derivations in lab/test_command.py.
"""

import json
from typing import Any

from hook.errors import StoreError
from hook.values.derivation import Derivation

STRUCTURED = b"__json"
"""With structured attributes, this variable of the derivation holds all others."""


def required_features(derivation: Derivation) -> frozenset[str]:
    """What must be among the features of a machine, or of this host's `system-features`."""
    value = _attribute(derivation, "requiredSystemFeatures", "")
    words = map(str, value) if isinstance(value, list) else str(value).split()
    # Outputs whose paths are not known before the build are a feature of their own.
    unknown = ("ca-derivations",) if derivation.unknown_outputs else ()
    return frozenset((*words, *unknown))


def prefers_local_build(derivation: Derivation) -> bool:
    """Whether Nix builds it on this host, if it may, without asking a build hook."""
    return _attribute(derivation, "preferLocalBuild", "") in ("1", True)


def _attribute(derivation: Derivation, name: str, default: Any) -> Any:
    env = dict(derivation.env)
    if STRUCTURED not in env:
        value = env.get(name.encode())
        return default if value is None else value.decode(errors="replace")
    try:
        return json.loads(env[STRUCTURED]).get(name, default)
    except (ValueError, AttributeError):
        raise StoreError("its structured attributes are no JSON object") from None
