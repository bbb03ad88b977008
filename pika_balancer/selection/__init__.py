"""Which account gets the next job: plain and synchronous, without clock or I/O."""
