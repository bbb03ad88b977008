"""Bad input by the thousand, without a network: what is fed (`corpus`), to what (`targets`), and by whom.

The tests feed the corpus; `python -m tests.fuzz` goes on from there, guided by coverage.
"""
