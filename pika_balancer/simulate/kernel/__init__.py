"""The fast engine: the event loop of a simulation, compiled by Numba."""
