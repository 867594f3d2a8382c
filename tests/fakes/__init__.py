"""Scripted stand-ins for the other ends of our pipes."""
