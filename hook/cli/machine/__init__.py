"""`nix-ferry machine`: the machines of `builders`, one added or changed at a time."""
