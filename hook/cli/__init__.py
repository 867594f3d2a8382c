"""The nix-ferry command; the only place where an error becomes a line and an exit status."""
