"""One conversation with Nix, and what it leaves to the next; the only room that knows all services."""
