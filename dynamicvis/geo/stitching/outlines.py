"""Compiled kernels: regions of equal class, and their outlines along the edges of pixels.

Directions of edges are 0 east, 1 south, 2 west, 3 north. An outline has its region on the right hand, which goes
clockwise around it on the screen, and stays with its own pixel where two pixels of a class meet at a corner alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.compiled import compiled

_ROWS = np.array([0, 1, 0, -1])
_COLUMNS = np.array([1, 0, -1, 0])


class Outlines(NamedTuple):
    """Pieces of outlines of a chunk: rings, and chains that go on in another chunk.

    Attributes:
        points: (M, 2) column and row of the corners, of all pieces; a chain begins with its start, corner or not, and
            its end is left out.
        offsets: (P + 1,) of the pieces in ``points``.
        labels: (P,) region of each piece.
        directions: (P, 2) of the first and last edge of each piece.
        ends: (P, 3) column and row where a chain ends, and the direction in which the next one begins; -1 for a ring.
        pinched: (P,) the piece passes a point where two pixels of its class meet at a corner alone.
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    directions: NDArray[np.int64]
    ends: NDArray[np.int64]
    pinched: NDArray[np.bool_]


def label_regions(padded: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Number the regions of equal class, pixels being neighbours when they share an edge.

    Args:
        padded: (height + 2, width + 2) classes, negative for none, with one pixel around that is not labelled.

    Returns:
        (height, width) numbers from 0 in the order of the regions' first pixels, -1 for none; and how many there are.
    """
    labels, count = _label(padded)
    return labels, int(count)


def trace_outlines(padded: NDArray[np.int32], labels: NDArray[np.int32]) -> Outlines:
    """Outlines of the regions of a chunk, ended where a region goes on in the pixels around it.

    Args:
        padded: (height + 2, width + 2) classes, negative for none.
        labels: (height, width) from `label_regions`.
    """
    edges = _boundary_edges(padded)
    return Outlines(*_trace(padded, labels, edges, int(np.bitwise_count(edges).sum())))


@compiled
def _find(parent: Any, index: Any) -> Any:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


@compiled
def _label(padded: Any) -> Any:
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    labels = np.full((height, width), -1, np.int32)
    parent = np.empty(height * width // 2 + 2, np.int32)  # enough but for rasters with hardly two equal neighbours
    used = 0
    for row in range(height):
        for column in range(width):
            value = padded[row + 1, column + 1]
            if value < 0:
                continue
            above = row > 0 and padded[row, column + 1] == value
            before = column > 0 and padded[row + 1, column] == value
            if before:
                number = labels[row, column - 1]
                if above and labels[row - 1, column] != number:
                    one, other = _find(parent, number), _find(parent, labels[row - 1, column])
                    number = min(one, other)
                    parent[max(one, other)] = number
            elif above:
                number = labels[row - 1, column]
            else:
                if used == len(parent):
                    larger = np.empty(2 * used, np.int32)
                    larger[:used] = parent
                    parent = larger
                number = used
                parent[used] = used
                used += 1
            labels[row, column] = number
    final = np.empty(used, np.int32)
    count = 0
    for number in range(used):
        root = _find(parent, number)
        if root == number:
            final[number] = count
            count += 1
        else:
            final[number] = final[root]
    for row in range(height):
        for column in range(width):
            if labels[row, column] >= 0:
                labels[row, column] = final[labels[row, column]]
    return labels, count


@compiled
def _boundary_edges(padded: Any) -> Any:
    """Bits of the edges of each pixel that part its class from another, by direction."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    edges = np.zeros((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            value = padded[row + 1, column + 1]
            if value < 0:
                continue
            bits = 0
            if padded[row, column + 1] != value:
                bits |= 1
            if padded[row + 1, column + 2] != value:
                bits |= 2
            if padded[row + 2, column + 1] != value:
                bits |= 4
            if padded[row + 1, column] != value:
                bits |= 8
            edges[row, column] = bits
    return edges


@compiled
def _starts_chain(padded: Any, row: Any, column: Any, direction: Any) -> Any:
    """Whether the edge before this one belongs to a pixel outside of the chunk."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    value = padded[row + 1, column + 1]
    row_behind, column_behind = row - _ROWS[direction], column - _COLUMNS[direction]
    if padded[row_behind + 1, column_behind + 1] != value:
        return False
    left = (direction + 3) % 4
    row_left, column_left = row_behind + _ROWS[left], column_behind + _COLUMNS[left]
    if padded[row_left + 1, column_left + 1] == value:
        row_behind, column_behind = row_left, column_left
    return not (0 <= row_behind < height and 0 <= column_behind < width)


@compiled
def _trace(padded: Any, labels: Any, edges: Any, total: Any) -> Any:
    height, width = labels.shape
    points = np.empty((total, 2), np.int32)
    offsets = np.zeros(total + 1, np.int64)
    owners = np.empty(total, np.int64)
    directions = np.empty((total, 2), np.int64)
    ends = np.full((total, 3), -1, np.int64)
    pinched = np.zeros(total, np.bool_)
    used, pieces = 0, 0
    for chains in (True, False):
        for row in range(height):
            for column in range(width):
                # Only pixels at the border of the chunk start a chain.
                if chains and 0 < row < height - 1 and 0 < column < width - 1:
                    continue
                if edges[row, column] == 0:
                    continue
                for first in range(4):
                    if not edges[row, column] >> first & 1:
                        continue
                    if chains and not _starts_chain(padded, row, column, first):
                        continue
                    value = padded[row + 1, column + 1]
                    y, x, direction = row, column, first
                    before = -1 if chains else first
                    closed = False
                    pinch = False
                    while True:
                        edges[y, x] ^= np.uint8(1 << direction)
                        # The start of the edge is a corner where the direction changes.
                        if direction != before:
                            points[used, 0] = x + (direction == 1 or direction == 2)
                            points[used, 1] = y + (direction == 2 or direction == 3)
                            used += 1
                        before = direction
                        left = (direction + 3) % 4
                        y_ahead, x_ahead = y + _ROWS[direction], x + _COLUMNS[direction]
                        y_left, x_left = y_ahead + _ROWS[left], x_ahead + _COLUMNS[left]
                        if padded[y_ahead + 1, x_ahead + 1] != value:
                            pinch = pinch or padded[y_left + 1, x_left + 1] == value
                            direction = (direction + 1) % 4
                        elif padded[y_left + 1, x_left + 1] != value:
                            y, x = y_ahead, x_ahead
                        else:
                            y, x, direction = y_left, x_left, left
                        if not (0 <= y < height and 0 <= x < width):
                            break
                        if y == row and x == column and direction == first:
                            closed = True
                            break
                    if closed:
                        if direction != before:
                            points[used, 0] = x + (direction == 1 or direction == 2)
                            points[used, 1] = y + (direction == 2 or direction == 3)
                            used += 1
                    else:
                        ends[pieces, 0] = x + (direction == 1 or direction == 2)
                        ends[pieces, 1] = y + (direction == 2 or direction == 3)
                        ends[pieces, 2] = direction
                    owners[pieces] = labels[row, column]
                    directions[pieces, 0] = first
                    directions[pieces, 1] = before
                    pinched[pieces] = pinch
                    pieces += 1
                    offsets[pieces] = used
    return (
        points[:used].copy(),
        offsets[: pieces + 1].copy(),
        owners[:pieces].copy(),
        directions[:pieces].copy(),
        ends[:pieces].copy(),
        pinched[:pieces].copy(),
    )


@compiled
def simple_rings(vertices: NDArray[np.int64]) -> Any:
    """Cut a ring that passes points more than once into rings that do not.

    Args:
        vertices: (M,) numbers of the points from 0, equal for equal points.

    Returns:
        order: (M,) indices into ``vertices``, ring by ring.
        offsets: (rings + 1,) into ``order``.
    """
    size = len(vertices)
    place = np.full(size, -1, np.int64)  # of a point on the stack
    stack = np.empty(size, np.int64)
    order = np.empty(size, np.int64)
    offsets = np.zeros(size + 1, np.int64)
    depth, used, rings = 0, 0, 0
    for index in range(size):
        vertex = vertices[index]
        if place[vertex] >= 0:
            base = place[vertex]
            for level in range(base, depth):
                order[used] = stack[level]
                place[vertices[stack[level]]] = -1
                used += 1
            depth = base
            rings += 1
            offsets[rings] = used
        place[vertex] = depth
        stack[depth] = index
        depth += 1
    for level in range(depth):
        order[used] = stack[level]
        used += 1
    rings += 1
    offsets[rings] = used
    return order, offsets[: rings + 1].copy()
