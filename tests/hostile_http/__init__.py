"""Malformed HTTP: servers that answer badly and clients that ask badly, by name and at random."""
