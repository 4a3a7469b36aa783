"""Diagnosis: what is wrong with a training, why, and what to do about it.

Rules (``rules/``, one family a file) look at stretches of what recorders leave, live while a run
trains (``live.py``) or afterwards in its files (``folders.py``); ``engine.py`` keeps what they find
and puts it in order.
"""

from __future__ import annotations

__all__: list[str] = []
