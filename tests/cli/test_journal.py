"""The journal: durable, owned by one run at a time, and honest about damage."""

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.cli import submit_journal as room
from pika_balancer.cli.exit_codes import JournalError, JournalInUse
from pika_balancer.cli.submit_journal import Entry, Journal
from tests.depth import examples

HEADER = '{"journal": 1, "file": "jobs.csv", "digest": "d"}\n'


def start(path: Path, file: str = "jobs.csv", digest: str = "d") -> Journal:
    return Journal(path, file=file, digest=digest)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_facts_add_up_and_outlive_the_run(path: Path) -> None:
    with start(path) as journal:
        assert journal["a"] == Entry()
        facts = {"line": 3, "id": None, "verb": "create", "ref": "r", "channel": "1"}
        journal.note("a", "sending", **facts, jobid=None, error=None)
        assert journal["a"].in_flight
        journal.note("a", "accepted", jobid="job:1", channel="2")
        journal.note("b", "refused", error="no \x1b[2J such thing")
        seen = journal["a"], journal["b"]
    assert seen[0].record == {
        "version": 1,
        "verb": "create",
        "reply_ref": "r",
        "jobid": "job:1",
        "channel": "2",
        "status": "unknown",
    }
    assert path.read_bytes().isascii()
    assert "\x1b" not in path.read_text()
    with start(path) as journal:
        assert (journal["a"], journal["b"], len(journal), journal.changed) == (*seen, 2, False)
        journal.note("a", "ended", status="completed", urls=("u",))
        journal.note("a", "saved", files=("f",))
        ended = journal["a"]
    assert (ended.in_flight, ended.urls, ended.files, ended.jobid) == (False, ("u",), ("f",), "job:1")
    with start(path) as journal:
        assert journal["a"] == ended
        assert journal.count_others(["a"]) == 1
    assert len(rows(path)) == 6


def test_only_its_owner_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        start(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_that_others_could_read_is_narrowed_before_anything_is_added(path: Path) -> None:
    start(path).close()
    path.chmod(0o644)
    start(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_of_another_user_that_others_can_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fchmod(_fd: int, _mode: int) -> None:
        raise PermissionError

    path.touch()
    path.chmod(0o666)
    monkeypatch.setattr(os, "fchmod", fchmod)
    with pytest.raises(JournalError, match="belongs to another user"):
        start(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_is_not_followed(path: Path, *, dangling: bool) -> None:
    target = path.with_name("target")
    if not dangling:
        target.touch()
    path.symlink_to(target)
    with pytest.raises(JournalError, match="cannot be used"):
        start(path)
    assert not target.exists() or target.read_bytes() == b""


def test_every_line_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.fsync
    synced: list[int] = []

    def fsync(fd: int) -> None:
        synced.append(path.stat().st_size)
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with start(path) as journal:
        journal.note("a", "sending")
        assert synced[-1] == path.stat().st_size
    assert len(synced) == 3, "the directory, the header and the line"


def test_changed_job_file_is_noticed_once(path: Path) -> None:
    with start(path) as journal:
        assert not journal.changed
    start(path).close()
    with start(path, digest="other") as journal:
        assert journal.changed
    with start(path, digest="other") as journal:
        assert not journal.changed
    assert [row["digest"] for row in rows(path)] == ["d", "other"]


def test_journal_of_another_job_file_is_refused(path: Path) -> None:
    start(path).close()
    with pytest.raises(JournalError, match=r"belongs to jobs\.csv; choose another --output for other\.csv"):
        start(path, file="other.csv")
    start(path).close()


def test_one_run_at_a_time(path: Path) -> None:
    in_use = pytest.raises(JournalInUse, match=r"another run keeps the journal .*journal\.jsonl now")
    with start(path), in_use:
        start(path)
    start(path).close()


def test_journal_in_memory_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Journal(None) as journal:
        journal.note("a", "accepted", jobid="j")
        assert journal["a"].jobid == "j"
        journal.discard()
    assert list(tmp_path.iterdir()) == []


def test_discarded_journal_is_gone_and_a_new_one_can_be_had(path: Path) -> None:
    with start(path) as journal:
        journal.note("a", "accepted")
        journal.discard()
        assert not path.exists()
        journal.discard()
    with start(path) as journal:
        assert len(journal) == 0


def test_journal_that_was_discarded_while_it_was_opened_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = fcntl.flock
    first = start(path)
    looks: list[int] = []

    def lock(fd: int, operation: int) -> None:
        if not looks:
            first.discard()
        looks.append(fd)
        if len(looks) == 2:
            path.rename(path.with_name("moved"))
            path.touch()
        really(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    with start(path) as journal:
        journal.note("a", "accepted")
    assert len(looks) == 3
    assert len(rows(path)) == 2


@pytest.mark.parametrize(
    "tail", ["{", '{"job": "a", "state": "acc', '{"job": "a", "state": "accepted"}', "\0\0"]
)
def test_half_written_last_line_is_dropped(path: Path, tail: str) -> None:
    path.write_text(HEADER + '{"job": "a", "state": "sending"}\n' + tail)
    with start(path) as journal:
        assert journal["a"].state == "sending"
        journal.note("a", "accepted")
    with start(path) as journal:
        assert journal["a"].state == "accepted"


@pytest.mark.parametrize("content", ["", "{", HEADER[:-1]])
def test_journal_killed_in_its_first_line_is_a_new_one(path: Path, content: str) -> None:
    path.write_text(content)
    with start(path) as journal:
        assert len(journal) == 0
    assert path.read_text() == HEADER


DAMAGE = [
    (HEADER + "\n", 2),
    (HEADER + "nonsense\n", 2),
    (HEADER + '{"job": "a", "state": "sen\n{"job": "a", "state": "sending"}\n', 2),
    (HEADER + "[]\n", 2),
    (HEADER + "[" * 100_000 + "\n", 2),
    (HEADER + '{"job": "a", "state": "sending"}\n{"job": "a"}\n', 3),
    (HEADER + '{"job": "a", "state": "gone"}\n', 2),
    (HEADER + '{"job": "a", "state": []}\n', 2),
    (HEADER + '{"job": 7, "state": "sending"}\n', 2),
    (HEADER + '{"job": "a", "state": "sending", "ref": 7}\n', 2),
    (HEADER + '{"job": "a", "state": "sending", "line": "7"}\n', 2),
    (HEADER + '{"job": "a", "state": "ended", "urls": "u"}\n', 2),
    (HEADER + '{"job": "a", "state": "ended", "urls": [7]}\n', 2),
    (HEADER + '{"job": "a", "state": "sending", "colour": "red"}\n', 2),
    (HEADER + '{"job": "a", "state": "sending"}\n' + HEADER.replace("1", "2"), 3),
    ('{"job": "a", "state": "sending"}\n', 1),
    ('{"journal": 1}\n', 1),
    (HEADER.replace("1", "2"), 1),
    (HEADER.replace('"d"', "7"), 1),
    ("prompt,id\n", 1),
    ("\xff\n", 1),
]


@pytest.mark.parametrize(("content", "line"), DAMAGE)
def test_any_other_damage_is_named_and_left_as_it_is(path: Path, content: str, line: int) -> None:
    path.write_text(content, encoding="latin-1")
    with pytest.raises(JournalError, match=rf"line {line} of the journal .* is damaged; mend or move it"):
        start(path)
    assert path.read_text(encoding="latin-1") == content


@pytest.mark.parametrize("kind", ["directory", "missing", "unreadable"])
def test_journal_that_cannot_be_used_is_told(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "directory":
        path.mkdir()
    if kind == "unreadable":  # root may open everything
        monkeypatch.setattr(
            os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
        )
    where = path / "nowhere" / "x" if kind == "missing" else path
    with pytest.raises(JournalError, match=r"the journal .* cannot be used: "):
        start(where)


def test_full_disk_ends_it_for_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.write
    room_left = [40]

    def write(fd: int, data: bytes) -> int:
        if room_left[0] == 0:
            raise OSError(28, "No space left on device")
        some = really(fd, bytes(data)[: room_left[0]])
        room_left[0] -= some
        return some

    with start(path) as journal:
        journal.note("a", "sending")
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(JournalError, match="cannot be written: No space left on device"):
            journal.note("a", "accepted", jobid="a job whose id does not fit")
        assert journal["a"].state == "sending"
        room_left[0] = 1000
        with pytest.raises(JournalError, match="No space left"):
            journal.note("b", "sending")
        journal.remember("a", "accepted", jobid="job:1")
        assert journal["a"].jobid == "job:1"
    with start(path) as journal:
        assert (len(journal), journal["a"].state) == (1, "sending")


def test_short_writes_are_gone_on_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: really(fd, bytes(data)[:3]))
    with start(path) as journal:
        journal.note("a", "sending", ref="r")
    assert rows(path)[1] == {"job": "a", "state": "sending", "ref": "r"}


NOTES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(sorted(get_args(room.State))),
        st.fixed_dictionaries(
            {},
            optional={
                "jobid": st.none() | st.text(max_size=5),
                "line": st.integers(1, 9),
                "urls": st.lists(st.text(max_size=5), max_size=2).map(tuple),
            },
        ),
    ),
    max_size=12,
)


@pytest.mark.deep
@examples(25, 300)
@given(NOTES, st.integers(0, 2000))
def test_whatever_was_noted_before_the_kill_is_known_after_it(
    tmp_path_factory: pytest.TempPathFactory, notes: list[tuple[str, room.State, dict[str, Any]]], cut: int
) -> None:
    """Cut the file anywhere: what is left is the notes up to there, and another run can go on."""
    path = tmp_path_factory.mktemp("journal") / "j"
    sizes = [0]
    states: list[dict[str, Entry]] = [{}]
    with start(path) as journal:
        sizes.append(path.stat().st_size)
        states.append({})
        for key, state, facts in notes:
            journal.note(key, state, **facts)
            sizes.append(path.stat().st_size)
            states.append({name: journal[name] for name in "abc"})
    os.truncate(path, min(cut, sizes[-1]))
    known = states[max(index for index, size in enumerate(sizes) if size <= min(cut, sizes[-1]))]
    with start(path) as journal:
        assert {name: journal[name] for name in "abc"} == {name: known.get(name, Entry()) for name in "abc"}
        journal.note("a", "accepted")
    start(path).close()
