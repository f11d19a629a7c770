"""From tiles to one result: rows of tiles, rasters, detections across tiles, outlines of regions."""
