"""Where Nix is used as people use it: in namespaces, in units of systemd and in sessions, beside each other."""
