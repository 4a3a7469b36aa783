"""Names that MLflow's model registry takes; nothing heavy is imported for them."""

from __future__ import annotations

from tracking.errors import BadOption

__all__ = ["check_model_name"]

LONGEST = 256
REFUSED = "/:?"
"""The first two by MLflow itself; after a question mark, models:/NAME/VERSION would end."""


def check_model_name(name: str) -> None:
    """Whether a model can be registered, and loaded again, under ``name``.

    Raises BadOption: it is empty, too long, or has characters that are not allowed.
    """
    usable = name.strip() and len(name) <= LONGEST and name.isprintable()
    path_like = name == "." or name.startswith("..")
    if not usable or path_like or any(character in name for character in REFUSED):
        shown = name if len(name) <= LONGEST else f"{name[:40]}…"
        raise BadOption(
            f"model name {shown!r} is not one for MLflow's model registry; allowed: 1 to {LONGEST} "
            f"printable characters other than {' '.join(REFUSED)}, with no .. at the beginning"
        )
