"""What an error says of a request: MLflow refuses it, something on the way does, or it may pass."""

from __future__ import annotations

import json
import re

from mlflow.exceptions import MlflowException, RestException

__all__ = ["is_final", "is_of_store", "is_returned"]

# Answers that another attempt will not change, by MLflow's names and by HTTP's numbers.
FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
FINAL_STATUS = {400, 413, 414, 415, 422}

NOT_JSON = re.compile(r"API request to .* failed with error code (\d+) ")
"""How MLflow's client says that an answer is none of MLflow's, which are JSON."""


def is_of_store(error: Exception) -> bool:
    """Whether MLflow, or the way to it, failed, and not this program."""
    return isinstance(error, (MlflowException, OSError))  # the latter of the HTTP client


def is_final(error: Exception) -> bool:
    """Whether MLflow itself refuses the request, and would do so again."""
    if isinstance(error, MlflowException):
        return error.error_code in FINAL and _status(error) is None
    return _status(error) in FINAL_STATUS and _is_mlflows(error)


def is_returned(error: Exception) -> bool:
    """Whether a gateway before MLflow, or a storage of artifacts, refuses just this request.

    Such as one with a large file, which it may take when its limit has been raised.
    """
    return _status(error) in FINAL_STATUS and not is_final(error)


def _status(error: Exception) -> int | None:
    """The HTTP status, where it is all that is known, or an artifact was being sent."""
    if isinstance(error, RestException):
        return None
    if isinstance(error, MlflowException):
        number = NOT_JSON.match(str(error))
        return int(number[1]) if number else None
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_mlflows(error: Exception) -> bool:
    """Whether the answer to an artifact has the form of MLflow's."""
    try:
        answer = json.loads(getattr(getattr(error, "response", None), "text", ""))
    except ValueError:
        return False
    return isinstance(answer, dict) and "error_code" in answer
