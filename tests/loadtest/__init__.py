"""Tests of the load and its measures."""
