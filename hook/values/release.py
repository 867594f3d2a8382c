"""Tell the parent's Nix release from the names of the settings it sent.

No process is started and no file is opened: the settings preamble holds every setting that the parent knows, and most
releases added one.  The answer is exact to the minor release, with these exceptions:

* 2.25 to 2.29 added no setting that is always sent, and are all reported as 2.29;
* 2.9, 2.13, 2.18 and 2.33 have no setting of their own and are reported as their predecessors; 2.8 also stands for
  anything older.  Nothing that a build hook depends on changed in between;
* patch releases are not told apart.  Two matter: 2.24.15 and 2.28.2 read `builders` as 2.29 does (builders.py).  The
  former is taken for an older 2.24, the latter is among those reported as 2.29 anyway;
* a parent that is not Nix itself but linked to its libraries may lack the evaluator's settings, so for almost every
  release the table has one of the store library's.

Tested in test_release.py with recorded preambles of 2.8, 2.26 and 2.34.
"""

from collections.abc import Collection

Release = tuple[int, int]
"""A Nix release as major and minor number."""

OLDEST: Release = (2, 8)

FIRST_SEEN: tuple[tuple[str, Release], ...] = (
    # Found in the sources of the first tag that declares the setting; release notes are named where they mention it.
    ("filetransfer-retry-attempts", (2, 35)),  # src/libstore filetransfer.hh; rl-2.35
    ("narinfo-cache-meta-ttl", (2, 34)),  # src/libstore globals.hh; rl-2.34
    ("eval-attrset-update-layer-rhs-threshold", (2, 32)),  # src/libexpr eval-settings.hh; rl-2.32
    ("external-builders", (2, 32)),  # src/libstore globals.hh
    ("warn-short-path-literals", (2, 31)),  # src/libexpr eval-settings.hh; rl-2.31
    ("json-log-path", (2, 30)),  # src/libutil logging.hh; rl-2.30
    ("fsync-store-paths", (2, 29)),  # since 2.25: src/libstore globals.hh; rl-2.25
    ("nix-shell-always-looks-for-shell-nix", (2, 24)),  # src/libcmd compatibility-settings.hh; rl-2.24
    ("warn-large-path-threshold", (2, 23)),  # src/libstore globals.hh; rl-2.23
    ("build-dir", (2, 22)),  # src/libstore globals.hh
    ("debugger-on-trace", (2, 21)),  # src/libexpr eval-settings.hh; rl-2.21
    ("max-call-depth", (2, 20)),  # src/libexpr eval-settings.hh; rl-2.20
    ("always-allow-substitutes", (2, 19)),  # src/libstore globals.hh; rl-2.19
    ("require-drop-supplementary-groups", (2, 17)),  # src/libstore globals.hh, Linux only
    ("max-substitution-jobs", (2, 16)),  # src/libstore globals.hh; rl-2.16
    ("ssl-cert-file", (2, 15)),  # src/libstore globals.hh
    ("use-xdg-base-directories", (2, 14)),  # src/libstore globals.hh
    ("id-count", (2, 12)),  # src/libstore globals.hh
    ("download-speed", (2, 11)),  # src/libstore filetransfer.hh
    ("trace-verbose", (2, 10)),  # src/libexpr eval.hh; rl-2.10
)
"""Setting and the release that its presence stands for, newest first."""


def release_of(names: Collection[str]) -> Release:
    """The newest release one of whose settings is among `names`; (2, 8) if there is none."""
    return next((release for name, release in FIRST_SEEN if name in names), OLDEST)
