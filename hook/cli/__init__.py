"""The nix-ferry command: what a user asks and tells the hook; main.py lists it."""
