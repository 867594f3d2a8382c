"""nix-ferry's executables; the only place where an error becomes a line and an exit code."""
