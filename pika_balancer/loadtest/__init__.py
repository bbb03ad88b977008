"""Load test without coordinated omission, as the command `bench` runs it; needs the extra `load`.

generators      start jobs: by a schedule, or a fixed number at a time
driver          sends jobs through a dispatcher and measures them
recorder        measurements of each job, and their totals
latency         histogram of durations
server_process  the local server as a child process
compare         two settings in alternating turns
"""
