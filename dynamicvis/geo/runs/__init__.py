"""A run over a scene: what identifies it."""
