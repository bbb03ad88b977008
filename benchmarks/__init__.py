"""Benchmarks of the package, its dependencies and its alternatives: `python -m benchmarks`."""
