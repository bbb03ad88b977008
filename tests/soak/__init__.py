"""A soak: three dispatchers in one process, a server with every fault switched on, and a ledger of each job.

`python -m tests.soak --jobs 10000 --seed 7 --mode shared`, or `--minutes 60`, prints what happened and what
should not have, and exits with 1 if there is such a thing.

Workers come to an end all the time, by a refused subscription, by a planned drain or by a rude close, and the
next dispatcher takes over their jobs from records. Callers are cancelled at random moments. A person answers
the moderation messages of paused accounts. A landlord lowers and raises caps, takes accounts away and gives
them back, and the balancers learn of it when they read the map again.

`server` is the service; `worker`, `landlord` and `whole` make the trouble; `ledger`, `weight` and `audit`
judge; `report` tells.
"""
