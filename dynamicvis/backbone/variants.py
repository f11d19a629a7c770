"""Named sizes of the backbone."""

from __future__ import annotations

from typing import Any

from dynamicvis.backbone.model import DynamicVis

VARIANTS: dict[str, dict[str, Any]] = {
    "test_nano": dict(dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), img_size=64),
    "nano": dict(dims=(32, 64, 128, 256), depths=(2, 2, 4, 2)),
    "small": dict(dims=(64, 128, 256, 512), depths=(2, 2, 6, 2)),
    "base": dict(dims=(96, 192, 384, 768), depths=(2, 4, 16, 4)),
    "large": dict(dims=(128, 256, 512, 1024), depths=(2, 4, 32, 4)),
}


def variant_settings(name: str | None) -> dict[str, Any]:
    """Arguments of `DynamicVis` for a named size; none for None.

    Raises:
        ValueError: an unknown name.
    """
    if name is None:
        return {}
    if name not in VARIANTS:
        raise ValueError(f"no backbone named {name!r}; there are {', '.join(VARIANTS)}")
    return dict(VARIANTS[name])


def create_backbone(name: str | None = None, *, in_channels: int = 3, **overrides: Any) -> DynamicVis:
    """Build a backbone by its name, by its settings, or by a name with some settings changed.

    Args:
        name: ``"nano"``, ``"small"``, ``"base"``, ``"large"``, ``"test_nano"`` (milliseconds, for tests), or None, and
            then at least ``dims`` and ``depths`` are needed.
        in_channels: bands of the input.
        overrides: any argument of `DynamicVis`.

    Raises:
        ValueError: an unknown name or a setting out of range.
        TypeError: an unknown setting, or ``dims`` and ``depths`` missing without a name.
    """
    return DynamicVis(**(variant_settings(name) | overrides), in_channels=in_channels)
