"""One file per room, and the suites that cut across; see the first line of each."""
