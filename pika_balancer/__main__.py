"""`python -m pika_balancer` is the command `pika-balancer`."""

from pika_balancer.cli import entry

if __name__ == "__main__":
    entry()
