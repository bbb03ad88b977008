"""A soak: three dispatchers in one process, a server with every fault switched on, and a ledger of each job.

`python -m tests.soak --jobs 10000 --seed 7 --mode shared`, or `--minutes 60`, prints what happened and what
should not have, and exits with 1 if there is such a thing.

Each worker's dispatcher ends by a refused subscription, a planned drain or a close without drain, and the
next one takes over its jobs from records. Callers are cancelled at random moments. Paused accounts are
resumed after a while. Caps change, accounts are removed and come back, and the balancers learn of it at their
next refresh.

`server` is the service; `worker`, `account_churn` and `whole` cause the trouble; `ledger`, `weight` and
`audit` check; `report` prints.
"""
