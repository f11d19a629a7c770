"""The unfinished work on one set of outputs: what was asked, what is done, and who does the rest.

Next to the outputs, ``.dynamicvis/NAME/`` holds the plan, a journal entry for each finished band, and the bands' files.
Every file is written elsewhere, brought to the disk and renamed, so that what has a journal entry is whole, whenever
the process or the machine stopped. What stays after a run is ``.dynamicvis/NAME.json``, the record of a finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.leases import Leases
from dynamicvis.geo.publish import move_all

FOLDER = ".dynamicvis"
_PLAN = "plan.json"
_FINISH = "finish"
_POLL = 0.2  # seconds between two looks at what another process does


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        options: everything the bytes of the outputs depend on, JSON values by the name that a user knows.
        choices: what may differ from machine to machine and is settled by the first process, such as a batch size
            that fits its memory.
    """

    options: Mapping[str, Any]
    choices: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Hexadecimal digest of the options."""
        return hashlib.sha256(json.dumps(self.options, sort_keys=True).encode()).hexdigest()


class Work:
    """A folder of unfinished work, shared by all processes with the same plan.

    Attributes:
        folder: where the parts lie.
        choices: those of the plan that was here first.
        result: what the record of a finished run of the same plan says, None while there is work to do.
    """

    def __init__(self, place: WorkPlace, plan: Plan, leases: Leases, found: _Entered, *, reuse: bool) -> None:
        self._place, self._plan, self._leases, self._reuse = place, plan, leases, reuse
        self.folder = place.folder
        self.choices, self.result = found.choices, found.result

    def claim(self, unit: str) -> bool:
        """Take a unit of work that is neither done nor in somebody's hands."""
        if self.entry(unit) is not None or not self._leases.acquire(unit):
            return False
        if self.entry(unit) is not None:
            self._leases.release(unit)
            return False
        return True

    def release(self, unit: str) -> None:
        """Give a unit back, done or not."""
        self._leases.release(unit)

    def draft(self, name: str) -> Path:
        """A path for a file in the making; nobody else writes there."""
        return self.folder / f".{self._leases.token}-{name}"

    def finish(self, unit: str, entry: Mapping[str, Any], drafts: Mapping[str, Path]) -> None:
        """Move the drafts of a unit, already on the disk, to their names, then write its journal entry."""
        for name, draft in drafts.items():
            draft.replace(self.folder / name)
        sync_folder(self.folder)
        write_json(self.folder / f"{unit}.json", entry)
        self.release(unit)

    def entry(self, unit: str) -> dict[str, Any] | None:
        """The journal entry of a unit, None while it is not done."""
        try:
            return json.loads((self.folder / f"{unit}.json").read_text())
        except FileNotFoundError:
            return None

    def finished(self) -> set[str]:
        """The units that have a journal entry; all that it takes is a look at the folder."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return set()
        return {name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")}

    @property
    def gone(self) -> bool:
        """Whether another process has finished the work and removed the folder."""
        return not (self.folder / "plan.json").exists()

    def abandon(self) -> None:
        """Throw the work away: it cannot come to an end."""
        self._place.discard()

    def conclude(self, make_outputs: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        """Make the outputs of work whose units are all done, in one of the processes, and wait for it in the others.

        Args:
            make_outputs: writes every output, under its name, into the folder that it is given, and returns what the
                record shall hold.

        Returns:
            What the record holds, whoever made the outputs; nothing when another process did and no record is kept.
        """
        while not self.gone:
            if self._leases.acquire(_FINISH):
                staging = self.draft("outputs")
                staging.mkdir()
                try:
                    self.result = dict(make_outputs(staging))
                    self._place.publish(self._plan, staging, self.result, keep_record=self._reuse)
                    return self.result
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
                    self._leases.release(_FINISH)
            time.sleep(_POLL)
        result = self._place.record(self._plan) if self._reuse else {}
        if result is None:
            raise GeoError(f"{self._place.out_dir}: another process finished this run, but its outputs are not there")
        return result


@dataclass(frozen=True)
class _Entered:
    choices: Mapping[str, Any]
    result: dict[str, Any] | None = None


class WorkPlace:
    """Where the work on a set of outputs is kept.

    Args:
        out_dir: folder of the outputs.
        name: of this set of outputs.
        outputs: names of the files in ``out_dir``.
    """

    def __init__(self, out_dir: Path, name: str, outputs: Sequence[str]) -> None:
        self.out_dir, self.outputs = out_dir, tuple(outputs)
        self.root = out_dir / FOLDER
        self.folder = self.root / name
        self._record = self.root / f"{name}.json"

    def record(self, plan: Plan) -> dict[str, Any] | None:
        """The record of a finished run of this very plan, None when there is none or its outputs were changed since."""
        try:
            record = json.loads(self._record.read_text())
            same = record["plan"] == plan.hash and all(
                (self.out_dir / name).stat().st_size == record["outputs"][name] for name in self.outputs
            )
        except (OSError, ValueError, KeyError):
            return None
        return record["result"] if same else None

    @contextmanager
    def open(self, plan: Plan, *, resume: bool, overwrite: bool, reuse: bool) -> Iterator[Work]:
        """Begin the work, or join or resume what others began with the same plan.

        Finished bands are kept whatever happens in the block; when there is none, nothing is left behind.

        Args:
            plan: what is asked for.
            resume: go on with what an interrupted run has done; otherwise it is thrown away.
            overwrite: replace outputs of an earlier run, and throw away an interrupted one with another plan.
            reuse: keep a record of a finished run, and take its outputs for the result when the same is asked again,
                unless they are to be replaced.

        Raises:
            GeoError: an output exists, the folder cannot be written to, another run is at work here, or an interrupted
                one had other options.
        """
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        leases = Leases(self.folder)
        try:
            self._make_root()
            with self._guard():
                found = self._enter(plan, leases, resume=resume, overwrite=overwrite, reuse=reuse)
                if found.result is None:
                    # Held until the end, so that others see that somebody is here even between two bands.
                    leases.acquire(f"worker-{leases.token}")
            yield Work(self, plan, leases, found, reuse=reuse)
        finally:
            leases.close()
            if self.folder.exists() and not any(self.folder.glob("band-*.json")) and not leases.others():
                self.discard()
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()

    def publish(self, plan: Plan, staging: Path, result: Mapping[str, Any], *, keep_record: bool) -> None:
        """Move all outputs into place, or none, and remove the work, with or without leaving a record."""
        sizes = {name: (staging / name).stat().st_size for name in self.outputs}
        for name in self.outputs:
            _sync_file(staging / name)
        with self._guard():
            move_all(staging, self.out_dir, self.outputs)
            if keep_record:
                write_json(self._record, {"plan": plan.hash, "outputs": sizes, "result": result})
            else:
                self._record.unlink(missing_ok=True)
            self.discard()

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "it is a file" if self.out_dir.is_file() else error.strerror or error
            raise GeoError(f"cannot write to folder {self.out_dir} ({reason}); choose another output") from error

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One process at a time begins, joins or ends the work of this name."""
        leases = Leases(self.root)
        try:
            with leases.waiting_for(self.folder.name):
                yield
        finally:
            leases.close()

    def discard(self) -> None:
        """Remove all parts."""
        # The plan goes first: without it the folder is nobody's.
        (self.folder / _PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _enter(self, plan: Plan, leases: Leases, *, resume: bool, overwrite: bool, reuse: bool) -> _Entered:
        path = self.folder / _PLAN
        found = json.loads(path.read_text()) if path.exists() else None
        if found is not None and found["hash"] == plan.hash and resume:
            return _Entered(found["choices"])
        if found is not None and leases.others():
            other = "" if found["hash"] == plan.hash else f" with {_difference(found['options'], plan.options)}"
            raise GeoError(
                f"another run{other} is at work on {self.outputs[0]} in {self.out_dir}; wait for it, "
                "or choose another output"
            )
        if found is not None and resume and not overwrite:
            raise GeoError(
                f"{self.out_dir} holds an interrupted run for {self.outputs[0]} with "
                f"{_difference(found['options'], plan.options)}; give the same options to go on with it, or "
                "--no-resume to begin anew"
            )
        finished = self.record(plan) if reuse and resume and not overwrite else None
        if finished is not None:
            return _Entered({}, finished)
        self._check_outputs(overwrite)
        if self.folder.exists():
            self.discard()
        self.folder.mkdir()
        write_json(path, {"hash": plan.hash, "options": plan.options, "choices": plan.choices})
        return _Entered(plan.choices)

    def _check_outputs(self, overwrite: bool) -> None:
        for path in (self.out_dir / name for name in self.outputs):
            if path.is_dir():
                raise GeoError(f"{path} is a folder where a file is to be written; choose another output")
            if path.exists() and not overwrite:
                raise GeoError(f"{path} exists already; add --overwrite to replace it, or choose another output")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole or absent, and on the disk when this returns."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with draft.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first option that two plans do not share, in words."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            old, new = (json.dumps(options.get(name)) for options in (before, now))
            if max(len(old), len(new)) > 60:
                return f"another {name}"
            return f"{name} {old} where this one has {new}"
    return "other options"
