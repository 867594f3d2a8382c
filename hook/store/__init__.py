"""The store of this host: its database, importing into it, its locks, and trees as NARs."""
