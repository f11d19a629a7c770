"""Arrays of a model's answer that no later call of the model can change."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.tile_model import TileObjects, TileOutputs


def taken(answer: list[TileOutputs]) -> TileOutputs:
    """The answer of a model, to be kept while the model works on the next batch.

    Models may answer with the same buffer each time, as sessions of ONNX Runtime and CUDA graphs do. An array that
    anybody else can still reach, or whose memory is not an array's, is copied; one that was made for this answer is
    not.

    Args:
        answer: a list of nothing but the answer, which is taken out of it, so that the caller does not hold it.
    """
    outputs = answer.pop()
    names, maps = list(outputs.maps), [outputs.maps[name] for name in outputs.maps]
    vectors, embedding = [outputs.vectors], [outputs.embedding]
    objects = None if outputs.objects is None else list(outputs.objects)
    del outputs  # Of what nobody else holds, the lists here are now the only holders.
    maps.reverse()
    kept = None
    if objects is not None:
        objects.reverse()
        kept = []
        while objects:
            found = objects.pop()
            masks, most = [found.masks], found.most
            small = np.array(found.boxes), np.array(found.scores), np.array(found.labels)
            del found
            kept.append(TileObjects(*small, _own(masks), most))
    return TileOutputs({name: _own(maps) for name in names}, kept, _own(vectors), _own(embedding))


def _own(holder: list[Any]) -> Any:
    """The last array of a list, out of the list; a copy unless it and its memory belong to nobody else."""
    values = holder.pop()
    return values if values is None or _references(values) <= _ALONE else np.array(values)


def _references(values: Any) -> int:
    """How many hold an array, or its memory; many where that cannot be seen."""
    base = getattr(values, "base", None)
    memory = values if base is None else base
    if type(values) is not np.ndarray or type(memory) is not np.ndarray or not memory.flags.owndata:
        return sys.maxsize
    if base is None:
        return sys.getrefcount(values) - 1  # less the second name for it here
    del memory
    return max(sys.getrefcount(values), sys.getrefcount(base))


def _of_one() -> int:
    """What `_references` counts for an array that has one holder, which differs between versions of Python."""

    def count(holder: list[NDArray[Any]]) -> int:
        values = holder.pop()
        return _references(values)

    return max(count([np.empty(1)]), count([np.empty(2)[1:]]))


_ALONE = _of_one()
