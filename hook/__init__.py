"""nix-ferry: a drop-in replacement for Nix's build hook."""

__version__ = "0.1.0"
