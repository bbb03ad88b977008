"""Run jobs on several capped accounts: never above a cap, never twice, fairly."""

__version__ = "0.1.0"
