"""The Nix that started us: what it asks, what it is answered, and what its user sees."""
