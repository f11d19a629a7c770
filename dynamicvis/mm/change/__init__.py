"""Change detection: a siamese segmentor, its decoder and head, pairs of images as data."""
