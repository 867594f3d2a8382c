"""The local store: values that describe it, its database, and importing into it."""
