"""The shared store, on real servers."""
