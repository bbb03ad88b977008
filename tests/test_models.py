"""Accounts, jobs, leases and secrets: the values that they refuse, and the tokens that they never show."""

import copy
import json
import pickle

import attrs
import pytest

from pika_balancer.errors import Fault, InvalidArgument, InvalidResponse, NoCapacity, PikaError
from pika_balancer.models import Account, Job, JobStatus, Secret
from pika_balancer.selection.selector import Selector

CANARY = "MTA1NzQw.canary.t0ken"


def test_a_secret_shows_only_in_reveal() -> None:
    account = Account("1", discord=Secret(CANARY))
    shown = [
        repr(account),
        str(account.discord),
        f"{account.discord}",
        f"{account.discord!r:>40}",
        repr(attrs.asdict(account)),
        repr(attrs.astuple(account)),
        repr(vars(Secret)),
        pickle.dumps(account).decode("latin-1"),
        repr(pickle.loads(pickle.dumps(account))),
        json.dumps(attrs.asdict(account), default=str),
    ]
    assert not [text for text in shown if CANARY in text]
    assert account.discord is not None
    assert account.discord.reveal() == CANARY


def test_a_pickled_secret_has_no_value_and_says_so() -> None:
    travelled = pickle.loads(pickle.dumps(Account("1", 3, Secret(CANARY))))
    assert (travelled.channel, travelled.max_jobs) == ("1", 3)
    with pytest.raises(PikaError, match="has no value"):
        travelled.discord.reveal()
    assert travelled.discord == pickle.loads(pickle.dumps(Secret("other")))


def test_copies_within_the_process_keep_the_secret() -> None:
    account = Account("1", discord=Secret(CANARY))
    for clone in (copy.copy(account), copy.deepcopy(account)):
        assert clone == account
        assert clone.discord is not None
        assert clone.discord.reveal() == CANARY


def test_secrets_compare_by_value_and_never_equal_a_string() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("a") != pickle.loads(pickle.dumps(Secret("a")))


@pytest.mark.parametrize("max_jobs", [0, -1, True, 2.0, "3", None])
def test_an_invalid_cap_is_refused_by_name(max_jobs: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Account("1", max_jobs)
    assert caught.value.field == "max_jobs"


@pytest.mark.parametrize("discord", [CANARY.encode(), 12345678901234567890])
def test_a_discord_token_of_a_wrong_type_is_refused_and_not_shown(discord: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Account("1", discord=discord)
    assert caught.value.field == "discord"
    assert "canary" not in str(caught.value)
    assert "1234567" not in str(caught.value)


def test_a_secret_with_a_surrogate_compares_without_showing_itself() -> None:
    assert Secret("\ud800" + CANARY) != Secret(CANARY)


@pytest.mark.parametrize("channel", ["", 123, None])
def test_an_invalid_channel_is_refused_by_name(channel: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Account(channel)
    assert caught.value.field == "channel"


def test_a_plain_discord_token_becomes_a_secret() -> None:
    assert Account("1", discord=CANARY).discord == Secret(CANARY)


@pytest.mark.parametrize(
    ("word", "ended"),
    [
        ("created", False),
        ("started", False),
        ("progress", False),
        ("completed", True),
        ("moderated", True),
        ("failed", True),
        ("cancelled", True),
        ("queued-on-mars", False),
    ],
)
def test_a_job_has_ended_only_by_the_words_that_say_so(word: str, ended: bool) -> None:  # noqa: FBT001 - a table
    assert Job("j", status=word).ended is ended
    if word in list(JobStatus):
        assert JobStatus(word).ended is ended


def test_errors_keep_their_facts_through_pickle_and_copy() -> None:
    errors = [
        PikaError("m", status=429, code=7, channel="1", retry_after=2.5, executing_jobs=("a", "b")),
        NoCapacity("m", reason="cooling_down", until=4.0, channel="1"),
        InvalidArgument("m", field="prompt"),
        InvalidResponse("m", faults=(Fault("$", "x"),), jobid="j", status=200),
    ]
    for error in errors:
        for clone in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(clone) is type(error)
            assert vars(clone) == vars(error)
            assert str(clone) == "m"


def test_a_lease_cannot_be_pickled_or_copied() -> None:
    lease = Selector([Account("1")]).try_acquire()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="belongs to the process"):
            attempt(lease)
    assert repr(lease) == "<Lease 1 on '1', held>"
