"""Small changes to what matters most, one at a time, and whether tests notice them: `make mutate`."""
