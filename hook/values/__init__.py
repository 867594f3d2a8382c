"""Nix's nouns as values: paths, derivations, settings, addresses, releases; text in, text out, nothing touched."""
