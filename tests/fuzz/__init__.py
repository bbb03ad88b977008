"""Thousands of bad inputs (`corpus`, `seeds`) for functions without a network (`targets`).

The tests feed the corpus; `python -m tests.fuzz` also feeds inputs found by coverage.
"""
