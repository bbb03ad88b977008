"""Files of jobs: what they may hold, every fault by its line, and how a job is known again."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.cli.exit_codes import BadJobFile, Usage
from pika_balancer.cli.job_file import JobLine, Source, one_line, read_lines, read_source
from tests.depth import examples, sized


def source(text: str | bytes, name: str = "jobs.jsonl", directory: Path = Path()) -> Source:
    return Source(directory / name, text.encode() if isinstance(text, str) else text)


def lines(text: str | bytes, name: str = "jobs.jsonl", directory: Path = Path()) -> list[JobLine]:
    return read_lines(source(text, name, directory))


def faults(text: str | bytes, name: str = "jobs.jsonl", directory: Path = Path()) -> list[str]:
    with pytest.raises(BadJobFile) as caught:
        lines(text, name, directory)
    return [str(fault) for fault in caught.value.faults]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_all_five_verbs(picture: Path) -> None:
    text = """
{"prompt": "a cat"}
{"verb": "create", "prompt": "a cat", "image": "cat.png", "channel": "123", "id": "with a picture"}
{"verb": "animate", "image": "cat.png"}
{"verb": "encrypt_text", "message": "hello", "prompt": "a cat", "font": "RETRO", "id": 7}
{"verb": "encrypt_image", "message": "cat.png", "prompt": "a cat"}
{"verb": "button", "jobid": "job:1"}
"""
    read = lines(text, directory=picture)
    image = picture / "cat.png"
    assert [(line.number, line.verb, line.id, line.channel, line.values) for line in read] == [
        (2, "create", None, None, {"prompt": "a cat"}),
        (3, "create", "with a picture", "123", {"prompt": "a cat", "image": image}),
        (4, "animate", None, None, {"image": image}),
        (5, "encrypt_text", "7", None, {"message": "hello", "prompt": "a cat", "font": "RETRO"}),
        (6, "encrypt_image", None, None, {"message": image, "prompt": "a cat"}),
        (7, "button", None, None, {"jobid": "job:1"}),
    ]
    assert [line.name for line in read[:2]] == ["line 2", "line 3 (with a picture)"]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_and_csv_mean_the_same(bom: str, end: str) -> None:
    rows = [
        '{"prompt": "a cat", "id": "x"}',
        "",
        '{"prompt": "naïve, \\"quoted\\"", "id": "y", "font": null}',
        "",
    ]
    as_json = lines(bom + end.join(rows))
    table = ["id,prompt,channel", "x,a cat,", "", ",,", 'y,"naïve, ""quoted""",', ""]
    as_csv = lines(bom + end.join(table), "jobs.csv")
    assert [(line.key, line.values) for line in as_json] == [(line.key, line.values) for line in as_csv]
    assert [line.number for line in as_json] == [1, 3]
    assert [line.number for line in as_csv] == [2, 5]


def test_csv_cells_may_hold_lines_and_keep_their_number() -> None:
    read = lines('prompt,id\n"a\ncat",x\n\na dog,y\n', "jobs.csv")
    assert [(line.number, line.values["prompt"]) for line in read] == [(2, "a\ncat"), (5, "a dog")]


def test_json_strings_may_hold_line_separators() -> None:
    assert lines('{"prompt": "a\u2028b\x85c"}')[0].values["prompt"] == "a\u2028b\x85c"


def test_format_is_seen_by_the_content() -> None:
    assert lines('{"prompt": "a cat"}', "-")[0].key == lines("prompt\na cat", "-")[0].key
    assert lines('\n {"prompt": "a cat"}', "jobs.txt")[0].number == 2


WRONG: list[tuple[str | bytes, list[str]]] = [
    ("[]\n", ["line 1: must be an object, not a list"]),
    ("null", ["line 1: must be an object, not null"]),
    ('{"prompt": "a"', ["line 1: is not JSON at character 15: Expecting ',' delimiter"]),
    ("[" * 100_000, ["line 1: is not JSON that can be read"]),
    ('{"prompt": ' + "1" * 5000 + "}", ["line 1: is not JSON that can be read"]),
    ('{"prompt": "a", "prompt": "b"}', ["line 1: a name appears more than once"]),
    (b'{"prompt": "a"}\n\n{"prompt": "\xff"}', ["line 3: is not UTF-8; save the file as UTF-8"]),
    ('{"prompt": 7}', ["line 1: prompt must be a string, not a whole number"]),
    (
        '{"prompt": NaN, "id": true}',
        [
            "line 1: prompt must be a string, not a number with a point",
            "line 1: id must be a string, not true",
        ],
    ),
    ('{"verb": ["create"], "prompt": "a"}', ["line 1: verb must be a string, not a list"]),
    ('{"prompt": ""}', ["line 1: prompt must be a non-empty string"]),
    ('{"prompt": "a", "id": ""}', ["line 1: id must not be empty; leave it out"]),
    ("{}", ["line 1: create needs prompt"]),
    ('{"verb": "animate", "prompt": "a"}', ["line 1: animate needs image"]),
    (
        '{"verb": "destroy"}',
        ["line 1: verb must be one of create, animate, encrypt_text, encrypt_image, button"],
    ),
    ('{"prompt": "a", "font": "RETRO"}', ["line 1: create takes no font"]),
    (
        '{"verb": "encrypt_text", "prompt": "a", "message": "' + "x" * 21 + '"}',
        ["line 1: message has 21 characters; 20 are allowed"],
    ),
    (
        '{"prompt": "a", "discord": "t"}',
        [
            (
                "line 1: unknown name 'discord'; "
                "known are id, verb, prompt, image, message, font, jobid, button, channel"
            )
        ],
    ),
    ('{"prompt": "\\ud800"}', ["line 1: prompt has a lone surrogate and cannot be sent as UTF-8"]),
    ('{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', ["line 2: id 'x' is also that of line 1"]),
    (
        '{"prompt": "a", "image": "no.png", "font": "X"}\n\n{}',
        [
            "line 1: image: there is no file 'no.png'",
            "line 1: create takes no font",
            "line 3: create needs prompt",
        ],
    ),
]


@pytest.mark.parametrize(("text", "problems"), WRONG)
def test_every_fault_of_a_json_file_is_told_with_its_line(text: str | bytes, problems: list[str]) -> None:
    assert faults(text) == problems


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("prompt,size\na,1", ["line 1: unknown columns 'size'; known are"]),
        ("prompt;image\na;b", ["line 1: unknown columns 'prompt;image'; known are"]),
        ("\nprompt,prompt\na,b", ["line 2: the header names a column twice"]),
        (
            "id,prompt\nx\ny,a,b\nz,",
            [
                "line 2: has 1 cells, but the header 2",
                "line 3: has 3 cells, but the header 2",
                "line 4: create needs prompt",
            ],
        ),
        ('prompt\na\n"b', ["line 3: is not CSV: unexpected end of data"]),
        ('prompt\n"a"b\nc', ["line 2: is not CSV: ',' expected after '\"'"]),
        ("prompt\n" + "x" * 200_000, ["line 2: is not CSV: field larger than field limit (131072)"]),
        (b"prompt\na\n\xe4", ["line 3: is not UTF-8; save the file as UTF-8"]),
        ("\x1b[2J\na", ["line 1: unknown columns '\\\\x1b[2J'; known are"]),
    ],
)
def test_every_fault_of_a_csv_file_is_told_with_its_line(text: str | bytes, problems: list[str]) -> None:
    found = faults(text, "jobs.csv")
    assert len(found) == len(problems)
    assert all(one.startswith(other) for one, other in zip(found, problems, strict=True))


def test_files_must_be_there_and_hold_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "locked.png").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "locked.png")  # root may read all
    names = ["empty.png", "locked.png", ".", "a\0b", "\x1b", "x" * 300]
    text = "\n".join(json.dumps({"verb": "animate", "image": name}) for name in names)
    found = faults(text, directory=tmp_path)
    assert found[5].endswith(" cannot be read: File name too long")
    assert [one.split(": ", 2)[2].replace(str(tmp_path), "") for one in found] == [
        "'/empty.png' is empty",
        "'/locked.png' cannot be read",
        "there is no file ''",
        "there is no file '/a\\\\x00b'",
        "there is no file '/\\\\x1b'",
        found[5].split(": ", 2)[2].replace(str(tmp_path), ""),
    ]


def test_summary_of_faults_counts_them() -> None:
    with pytest.raises(BadJobFile, match=r"jobs\.jsonl has 2 faults, and nothing was sent"):
        lines("{}\n{}")
    with pytest.raises(BadJobFile, match=r"jobs\.jsonl has 1 fault, and"):
        lines("{}")


@pytest.mark.parametrize("text", ["", "\n \r\n", "\ufeff"])
def test_file_without_a_job_is_refused(text: str) -> None:
    with pytest.raises(Usage, match=r"there is no job in jobs\.jsonl"):
        lines(text)


def test_job_is_known_again_by_what_it_asks_for() -> None:
    def keys(*rows: dict[str, Any]) -> list[str]:
        return [line.key for line in lines("\n".join(map(json.dumps, rows)))]

    cat: dict[str, Any] = {"prompt": "cat"}
    dog: dict[str, Any] = {"prompt": "dog", "id": "d"}
    first = keys(cat, dog, cat)
    assert len(set(first)) == 3
    # Lines that are moved, added or spelled out are the same jobs; a second equal one is another.
    again = keys(dog, {"prompt": "bird"}, {"verb": "create", **cat}, cat, cat)
    assert again[0] == first[1]
    assert again[2:4] == [first[0], first[2]]
    assert again[4] not in first
    changed = keys({**cat, "channel": "1"}, {**dog, "prompt": "big dog"}, {**dog, "id": "e"})
    assert not set(changed) & set(first)


ROW = st.fixed_dictionaries(
    {"prompt": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)},
    optional={"channel": st.sampled_from(["1", "2"])},
).filter(lambda row: row["prompt"].strip())


@pytest.mark.deep
@examples(30, 400)
@given(st.lists(ROW, min_size=1, max_size=8))
def test_what_is_written_is_what_is_read(rows: list[dict[str, str]]) -> None:
    read = lines("\n".join(map(json.dumps, rows)))
    assert [line.values["prompt"] for line in read] == [row["prompt"] for row in rows]
    assert [line.channel for line in read] == [row.get("channel") for row in rows]
    assert len({line.key for line in read}) == len(rows)


@pytest.mark.deep
@examples(60, 1000)
@given(st.binary(max_size=200), st.sampled_from(["jobs.csv", "jobs.jsonl", "-"]))
def test_rubbish_is_told_and_never_crashes(content: bytes, name: str) -> None:
    with contextlib.suppress(Usage):
        assert lines(content, name)


@pytest.mark.deep
@pytest.mark.no_cover  # the same line again and again
def test_many_lines_are_no_burden() -> None:
    number = sized(10_000, 100_000)
    assert len(lines("\n".join(f'{{"prompt": "cat {index}"}}' for index in range(number)))) == number


def test_source_is_read_from_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text("prompt\ncat\n")
    read = read_source(file)
    assert (read.name, read.directory, len(read.digest)) == ("jobs.csv", tmp_path, 64)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"prompt\ncat\n")))
    piped = read_source(Path("-"))
    assert (piped.name, piped.directory, piped.digest) == ("-", Path(), read.digest)
    with pytest.raises(Usage, match="--jobs-file: 'nowhere' cannot be read: No such file"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(Usage, match="cannot be read: Is a directory"):
        read_source(tmp_path)
    with pytest.raises(Usage, match=r"--jobs-file: '\.' cannot be read: Is a directory"):
        read_source(Path())


def test_one_job_from_a_command_line(picture: Path) -> None:
    line = one_line({"prompt": "a cat", "verb": None, "image": str(picture / "cat.png"), "channel": "1"})
    assert (line.verb, line.channel) == ("create", "1")
    assert line.values == {"prompt": "a cat", "image": picture / "cat.png"}
    with pytest.raises(Usage, match="create takes no font"):
        one_line({"prompt": "a cat", "font": "RETRO"})
