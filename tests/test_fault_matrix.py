"""Every fault of the network with every call of the client: its outcome, and what the server saw.

`tests.fault_matrix` explains the cells. Only a GET is retried, here twice, and only within its deadline.
"""

import asyncio
import gc

import pytest

from pika_balancer.testing import wait_until
from tests.depth import sized
from tests.fault_matrix import CALLS, ROWS, grid, matrix, open_files, public_calls

pytestmark = pytest.mark.no_cover  # hundreds of repetitions of what other tests run once

EXPECTED = """
fault                              | GET        | delete_account  | put_account     | submit
none                               | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
connection refused                 | Failed! 0  | Failed! 0       | Failed! 0       | Failed! 0
connection reset                   | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
connection never answered          | Timeout? 0 | Timeout? 0      | Timeout? 0      | Timeout? 0
connections reordered              | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
kept: closed while idle            | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
kept: reset while idle             | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
kept: closed unnoticed while idle  | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
request delayed                    | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
request drips                      | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
request drips too slowly           | Timeout? 0 | Timeout? 0      | Timeout? 0      | Timeout? 0
request dropped                    | Timeout? 0 | Timeout? 0      | Timeout? 0      | Timeout? 0
request cut at start               | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
request half-closed at start       | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
request stalls at start            | Timeout? 0 | Timeout? 0      | Timeout? 0      | Timeout? 0
request cut in head                | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
request half-closed in head        | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
request stalls in head             | Timeout? 0 | Timeout? 0      | Timeout? 0      | Timeout? 0
request cut at last byte           | Lost? 0    | Lost? 0         | Lost? 1         | Lost? 1
request half-closed at last byte   | Lost? 0    | Lost? 0         | Lost? 1         | Lost? 1
request stalls at last byte        | Timeout? 0 | Timeout? 0      | Timeout? 1      | Timeout? 1
request cut at end                 | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
request half-closed at end         | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
request reset at start             | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
request reset at last byte         | Lost? 0    | Lost? 0         | Lost? 1         | Lost? 1
kept: request dropped              | Timeout? 0 | Timeout? 0      | Timeout? 0      | Timeout? 0
kept: request cut at start         | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
kept: request cut at last byte     | Lost? 0    | Lost? 0         | Lost? 1         | Lost? 1
kept: request reset at start       | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
kept: request half-closed at start | Lost? 0    | Lost? 0         | Lost? 0         | Lost? 0
reply delayed                      | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
reply drips                        | ok 1       | ok 1 done       | ok 1 done       | ok 1 done
reply drips too slowly             | Timeout? 1 | Timeout? 1 done | Timeout? 1 done | Timeout? 1 done
reply dropped                      | Timeout? 1 | Timeout? 1 done | Timeout? 1 done | Timeout? 1 done
reply cut at start                 | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
reply half-closed at start         | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
reply stalls at start              | Timeout? 1 | Timeout? 1 done | Timeout? 1 done | Timeout? 1 done
reply cut in head                  | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
reply half-closed in head          | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
reply stalls in head               | Timeout? 1 | Timeout? 1 done | Timeout? 1 done | Timeout? 1 done
reply cut at last byte             | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done id
reply half-closed at last byte     | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done id
reply stalls at last byte          | Timeout? 1 | Timeout? 1 done | Timeout? 1 done | Timeout? 1 done id
reply reset at start               | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
reply reset at last byte           | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done id
kept: reply dropped                | Timeout? 1 | Timeout? 1 done | Timeout? 1 done | Timeout? 1 done
kept: reply cut at start           | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
kept: reply cut at last byte       | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done id
kept: reply reset at start         | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
kept: reply half-closed at start   | Lost? 3    | Lost? 1 done    | Lost? 1 done    | Lost? 1 done
"""

SHORT = {
    "none",
    "connection refused",
    "connection never answered",
    "kept: closed unnoticed while idle",
    "request cut at last byte",
    "request stalls in head",
    "reply cut at start",
    "reply stalls at last byte",
    "kept: request reset at start",
    "kept: reply cut at last byte",
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(" | ")]


def test_every_call_of_the_client_is_in_the_matrix() -> None:
    assert set(CALLS) == public_calls()


@pytest.mark.deep
async def test_each_call_ends_under_each_fault_as_it_should_and_leaves_nothing() -> None:
    gc.collect()
    tasks, files = asyncio.all_tasks(), open_files()
    rows = sized([row for row in ROWS if row.name in SHORT], ROWS)
    expected = [cells(line) for line in EXPECTED.strip().splitlines()]
    names = {"fault", *(row.name for row in rows)}
    told = grid(await matrix(rows, CALLS))
    assert [cells(line) for line in told] == [row for row in expected if row[0] in names]
    assert asyncio.all_tasks() == tasks
    await wait_until(lambda: open_files() <= files)
