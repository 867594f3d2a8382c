"""`nix-ferry doctor`: a check for each thing that a build elsewhere needs."""
