"""Callbacks for other libraries' training loops; each library is imported in its own module only.

Modules are named after the library: ``from tracking.integrations.lightning import
LayerscopeCallback``.
"""

from __future__ import annotations

__all__: list[str] = []
