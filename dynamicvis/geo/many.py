"""Many scenes, one after the other; what is wrong with one does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from dynamicvis.errors import DynamicVisError, explanation
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.file_names import check_apart, is_file_name
from dynamicvis.geo.prediction import Estimate, PredictResult, Request, estimate, lazy_model, planned_outputs, run
from dynamicvis.geo.runs.engine import Progress
from dynamicvis.geo.scene.finding import SceneRef


@dataclass(frozen=True)
class Outcome:
    """What became of a scene.

    Attributes:
        scene: which one.
        result: what was written, or would be; None when it failed.
        error: why it failed, one sentence; None when it did not.
    """

    scene: SceneRef
    result: PredictResult | Estimate | None
    error: str | None


def run_scenes(
    scenes: Sequence[SceneRef], request: Request, progress: Callable[[SceneRef], Progress] | None = None
) -> Iterator[Outcome]:
    """Do for each scene what a request asks for, with one model.

    Args:
        scenes: from `dynamicvis.geo.find_scenes`.
        request: what to do; not ``"change"``, which takes two scenes at once.
        progress: gives the function that is called while a scene is worked on.

    Yields:
        An outcome for each scene, as soon as it is known.

    Raises:
        GeoError: there is no scene, or files of several would take each other's place, or that of a scene.
        ModelFileError: the model cannot be used.
    """

    def do(one: Request, scene: SceneRef) -> PredictResult:
        return run(one, [scene.path], scene.name, None if progress is None else progress(scene))

    yield from _for_each(scenes, request, do)


def estimate_scenes(scenes: Sequence[SceneRef], request: Request) -> Iterator[Outcome]:
    """Say for each scene what `run_scenes` would take; see there. Nothing is written."""
    yield from _for_each(scenes, request, lambda one, scene: estimate(one, [scene.path], scene.name))


def _for_each(
    scenes: Sequence[SceneRef], request: Request, do: Callable[[Request, SceneRef], PredictResult | Estimate]
) -> Iterator[Outcome]:
    request = replace(request, model=lazy_model(request))
    check_scenes(scenes, request)
    for scene in scenes:
        if scene.problem is not None:
            yield Outcome(scene, None, scene.problem)
            continue
        try:
            result = do(request, scene)
        except (DynamicVisError, OSError) as error:
            yield Outcome(scene, None, explanation(error))
        else:
            yield Outcome(scene, result, None)


def check_scenes(scenes: Sequence[SceneRef], request: Request) -> None:
    """Refuse what cannot be done for all scenes together.

    Raises:
        GeoError: there is no scene, or files of several would take each other's place, or that of a scene.
        ModelFileError: the model cannot be used.
    """
    if not scenes:
        raise GeoError("there is no scene to work on; name a raster, a folder, a pattern, a list or a STAC item")
    if len(scenes) > 1 and is_file_name(request.out):
        raise GeoError(f"{request.out} is one file, but there are {len(scenes)} scenes; give a folder as output")
    possible = [scene for scene in scenes if scene.problem is None]
    card = lazy_model(request).card
    planned = {}
    for scene in possible:
        # A name that is too long concerns its scene alone, and is told when its turn comes.
        with suppress(GeoError):
            planned[scene.path] = planned_outputs(request, scene.name, card)
    check_apart(planned, [scene.path for scene in possible])
