"""Settings of a run, compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Settings that a resumed run may have otherwise than it began; it is said.
DEVICE = "problem.device"


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Returns eight hexadecimal digits that tell settings apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


def settings_difference(settings: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Returns in words how settings were and are now, the device aside; empty for no difference."""
    before, now = flatten(settings), flatten(others)
    parts = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and key != DEVICE and not key.endswith(f".{DEVICE}")
    ]
    return ", ".join(parts)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as one mapping, by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
