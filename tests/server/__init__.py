"""Tests of the local server: real sockets, time moved by hand."""
