"""Someone else's exception in a few words, to be quoted in a message of ours."""

from __future__ import annotations

import re

__all__ = ["first_line", "masked", "one_line", "reason"]

LONGEST = 300

PASSWORD = re.compile(r"(://[^/\s:@]*):[^\s]*@")

HTTP_ERROR = re.compile(r"\(Caused by ResponseError\('too many (\d+) error responses'\)\)")
"""How urllib3 says so, after the first one too."""


def masked(text: str) -> str:
    """A URI, or a text that holds some, without the passwords in it."""
    return PASSWORD.sub(r"\1:***@", text)


def first_line(error: BaseException) -> str:
    """What an error says, cut to its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """Type and message of an exception on one line, cut to 300 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def reason(error: BaseException) -> str:
    """Why a store cannot be used: what the operating system said where it said something.

    HTTP libraries wrap "Connection refused" into several layers of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, ConnectionError):
            return first_line(cause)
        cause = cause.__cause__ or cause.__context__
    text = masked(first_line(error))
    answer = HTTP_ERROR.search(text)
    return f"HTTP error {answer[1]}" if answer else text
