"""The table from errors to exit codes and advice."""

import json

import pytest

from pika_balancer import errors
from pika_balancer.cli import exit_codes
from pika_balancer.cli.exit_codes import EXITS, NotCompleted, Usage, error_document, exit_for, sentence


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("x"), 2),
        (errors.UnknownChannel("x"), 2),
        (Usage("x"), 2),
        (errors.NoCapacity("x"), 3),
        (errors.ChannelFull("x"), 3),
        (errors.RateLimited("x"), 3),
        (errors.Unauthorized("x"), 4),
        (errors.SubscriptionRequired("x"), 4),
        (errors.ConnectFailed("x"), 5),
        (errors.ConnectionLost("x"), 5),
        (errors.RequestTimeout("x"), 5),
        (errors.ServiceError("x"), 5),
        (errors.StoreUnavailable("x"), 5),
        (errors.LostTrack("x"), 5),
        (errors.InvalidResponse("x"), 6),
        (errors.UnexpectedStatus("x"), 6),
        (errors.BadRequest("x"), 1),
        (errors.NotFound("x"), 1),
        (errors.PromptRejected("x"), 1),
        (errors.AccountSuspended("x"), 1),
        (PermissionError(13, "Permission denied", "/a/b"), 1),
        (ZeroDivisionError("x"), 1),
        (exit_codes.Interrupted("x"), 130),
    ],
)
def test_exit_code(error: BaseException, code: int) -> None:
    assert exit_for(error).code == code


def test_class_that_is_not_listed_goes_by_its_nearest_base() -> None:
    class Odd(errors.RateLimited):
        pass

    assert exit_for(Odd()) is EXITS[errors.RateLimited]


def test_sentence_has_message_job_and_advice() -> None:
    advice = "`pika-balancer jobs` lists what runs"
    error = errors.ServiceError("the service failed (HTTP 500).", jobid="job:1")
    assert sentence(error) == f"the service failed (HTTP 500) (job job:1); {advice}"
    error = errors.ServiceError("job:1 failed", jobid="job:1")
    assert sentence(error) == f"job:1 failed; {advice}"


def test_sentence_of_a_system_error_names_no_directories() -> None:
    assert (
        sentence(PermissionError(13, "Permission denied", "/home/me/secret/x.mp4"))
        == "Permission denied: x.mp4"
    )
    assert sentence(OSError()) == "OSError"


def test_document_has_the_known_facts_and_no_others() -> None:
    error = errors.ChannelFull("full", status=429, channel="1", executing_jobs=("a", "b"))
    assert json.loads(json.dumps(error_document(error))) == {
        "error": {
            "type": "ChannelFull",
            "message": "full; `pika-balancer jobs` lists what runs",
            "exit_code": 3,
            "status": 429,
            "channel": "1",
            "executing_jobs": ["a", "b"],
        }
    }


def test_document_lists_faults_and_the_job() -> None:
    fault = errors.Fault("$.maxJobs", "is missing")
    document = error_document(errors.InvalidResponse("bad", faults=(fault,)))
    assert document["error"]["faults"] == [{"path": "$.maxJobs", "problem": "is missing"}]
    document = error_document(NotCompleted("it failed", job={"jobid": "j"}, jobid="j"))
    assert document["error"]["job"] == {"jobid": "j"}
