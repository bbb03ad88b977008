"""Load on a service, and what it measures, as the command `bench` does it; needs the extra `load`.

arrivals    when jobs are to start          latency     durations as a histogram
tally       what is measured of each job, and what it adds up to
offer       starting jobs at their moments, or so many at a time
stretch     jobs through a real dispatcher, measured
served      the local server in a process of its own, and the handle of that process
compare     two settings against each other, in turns
picture     all of it as a picture; needs the extra `plot`
"""
