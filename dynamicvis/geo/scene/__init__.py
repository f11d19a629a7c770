"""A scene: what identifies it."""
