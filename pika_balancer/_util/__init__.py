"""Helpers that know nothing of accounts, jobs or services."""
