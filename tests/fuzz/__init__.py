"""Fuzzing of what reads the bytes of others, in Python; that in C is in tests/native."""
