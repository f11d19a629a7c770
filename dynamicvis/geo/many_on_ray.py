"""Many scenes on many machines: the same function as for one process, in actors of a Ray cluster.

All actors and the outputs share a folder, where leases say who computes which band; Ray only starts the actors, hands
scenes to them, and starts those again that were lost. So the files are, byte for byte, those of one process.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamicvis.errors import DynamicVisError, explanation
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.many import Outcome, check_scenes
from dynamicvis.geo.prediction import PredictResult, Request, lazy_model, run
from dynamicvis.geo.scene.finding import SceneRef
from dynamicvis.geo.scene.reading import is_remote

_MOST_LOSSES = 5  # of actors in a row, without anything done between them
_INSTALL = "--engine ray needs the package Ray; install it with `pip install dynamicvis[ray]`"


def run_scenes_on_ray(scenes: Sequence[SceneRef], request: Request, *, workers: int = 2) -> Iterator[Outcome]:
    """Do for each scene what a request asks for, in the actors of a Ray cluster; see `dynamicvis.geo.run_scenes`.

    The cluster is the one that the program has joined, else that of ``RAY_ADDRESS``, else a local one for this call.
    Scenes and outputs are on disks that all its machines reach by the same paths.

    Args:
        scenes: from `dynamicvis.geo.find_scenes`.
        request: what to do.
        workers: number of actors, a processor each; with a ``device`` of CUDA there is one actor for each GPU of the
            cluster instead.

    Yields:
        An outcome for each scene, as soon as it is known.

    Raises:
        GeoError: there is no scene, files of several would take each other's place or that of a scene, Ray is not
            installed or cannot start, the cluster is too small, or its actors are lost again and again.
        ModelFileError: the model cannot be used.
    """
    check_scenes(scenes, request)
    # Others of this call may be late: what one of them has finished is not to be replaced again.
    settings = replace(request.settings, campaign=uuid.uuid4().hex)
    request = replace(request, out=_absolute(request.out), settings=settings)
    if isinstance(request.model, str | Path) and Path(request.model).is_file():
        request = replace(request, model=_absolute(str(request.model)))
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        _start(ray, workers)
    try:
        yield from _Drive(ray, scenes, request, workers).outcomes()
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """What runs in an actor."""

    def __init__(self, request: Request) -> None:
        self._request = replace(request, model=lazy_model(request))

    def run(self, scene: SceneRef) -> tuple[PredictResult | None, str | None]:
        """The result for a scene, or why there is none."""
        try:
            return run(self._request, [scene.path], scene.name), None
        except (DynamicVisError, OSError) as error:
            return None, explanation(error)


class _Drive:
    """Keeps all actors at work until every scene has an outcome."""

    def __init__(self, ray: Any, scenes: Sequence[SceneRef], request: Request, workers: int) -> None:
        self._ray, self._scenes = ray, scenes
        options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        resources = ray.cluster_resources()
        if request.device.startswith("cuda"):
            self._count = int(resources.get("GPU", 0))
            if self._count == 0:
                raise GeoError(
                    f"device {request.device} is asked for, but the Ray cluster has no GPU; use --device cpu"
                )
            options["num_gpus"] = 1
            request = replace(request, device="cuda")  # Ray shows an actor its own GPU alone.
        else:
            self._count = workers
            processors = int(resources.get("CPU", 0))
            if workers > processors:
                raise GeoError(
                    f"{workers} workers are asked for, but the Ray cluster has {processors} processors; "
                    "give fewer --workers"
                )
        # `ray.remote` of a class that is used as it is, too.
        self._actor, self._request = ray.remote(**options)(_Worker), request
        self._running: dict[Any, tuple[Any, int]] = {}
        self._open = {index for index, scene in enumerate(scenes) if scene.problem is None}
        self._losses = 0

    def outcomes(self) -> Iterator[Outcome]:
        for scene in self._scenes:
            if scene.problem is not None:
                yield Outcome(scene, None, scene.problem)
        for _ in range(self._count if self._open else 0):
            self._send(self._new())
        while self._running:
            done, _ = self._ray.wait(list(self._running), num_returns=1)
            yield from self._take(done[0])

    def _take(self, future: Any) -> Iterator[Outcome]:
        actor, index = self._running.pop(future)
        try:
            result, error = self._ray.get(future)
        except self._ray.exceptions.RayActorError as lost:
            self._losses += 1
            if index in self._open and self._losses >= _MOST_LOSSES:
                raise GeoError(
                    f"{self._losses} Ray actors were lost in a row, the last one at work on "
                    f"{self._scenes[index].path}; they may be short of memory, give a smaller --batch-size"
                ) from lost
            actor = self._new() if self._open else None
        except self._ray.exceptions.RayError as failed:
            raise GeoError(
                f"a Ray actor failed at {self._scenes[index].path}: {str(failed).strip().splitlines()[-1]}"
            ) from failed
        else:
            self._losses = 0
            if index in self._open:
                self._open.discard(index)
                yield Outcome(self._scenes[index], result, error)
        if actor is not None:
            self._send(actor)

    def _new(self) -> Any:
        return self._actor.remote(self._request)

    def _send(self, actor: Any) -> None:
        """Give an actor a scene that nobody works on, or the one with the fewest at work."""
        if not self._open:
            return
        busy = [index for _, index in self._running.values()]
        index = min(self._open, key=lambda index: (busy.count(index), index))
        scene = self._scenes[index]
        path = scene.path if is_remote(scene.path) else _absolute(scene.path)
        self._running[actor.run.remote(replace(scene, path=path))] = actor, index


def _absolute(path: str) -> str:
    """The same path for a process that was started elsewhere; a / at the end stays."""
    return str(Path(path).absolute()) + ("/" if path.endswith("/") else "")


def _import_ray() -> Any:
    # Before the import: Ray reports nothing of the user to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise GeoError(_INSTALL) from error
    return ray


def _start(ray: Any, workers: int) -> None:
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" not in os.environ:
        options["num_cpus"] = max(workers, os.cpu_count() or 1)
    else:
        del options["include_dashboard"]
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise GeoError(f"no Ray cluster can be reached or started ({error}); check RAY_ADDRESS") from error
