"""Nix's protocols: bytes to values and back.  Nothing here opens a socket or decides anything."""
