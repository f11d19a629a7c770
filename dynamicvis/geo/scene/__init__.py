"""A scene: what identifies it, and where its pixels are."""
