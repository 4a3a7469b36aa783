"""Other people's exceptions in a few words, without passwords."""

from __future__ import annotations

import pytest

from tracking.reasons import first_line, masked, reason

__all__: list[str] = []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("http://:secret@host:5000", "http://:***@host:5000"),
        ("http://me:se@cr/et@host", "http://me:***@host"),
        ("GET http://me:secret@host/x failed", "GET http://me:***@host/x failed"),
        ("http://host:5000/me@work", "http://host:***@work"),
        ("http://host:5000", "http://host:5000"),
        ("http://me@host", "http://me@host"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)
def test_passwords_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("one\ntwo"), "one"), (KeyboardInterrupt(), "KeyboardInterrupt")],
)
def test_first_line(error: BaseException, expected: str) -> None:
    assert first_line(error) == expected


def wrapped(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as inner:
            raise ValueError("http://me:secret@host: it failed\nfor reasons") from inner
    except ValueError as outer:
        return outer


def test_an_http_error_is_its_number() -> None:
    said = (
        "API request to http://me:secret@host/x failed with exception HTTPConnectionPool(host='h', "
        "port=1): Max retries exceeded with url: /x (Caused by ResponseError('too many 503 error "
        "responses'))"
    )
    assert reason(ValueError(said)) == "HTTP error 503"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError("timed out"), "no answer in time"),
        (ConnectionResetError("Remote end closed"), "Remote end closed"),
        (KeyError("x"), "http://me:***@host: it failed"),
        (OSError("without a number"), "http://me:***@host: it failed"),
    ],
)
def test_reason_is_what_the_system_said(error: Exception, expected: str) -> None:
    assert reason(wrapped(error)) == expected
