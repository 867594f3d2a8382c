"""`nix-ferry install` and `uninstall`: where Nix is told of the hook, and where the hook lies."""
