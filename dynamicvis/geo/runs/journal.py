"""The unfinished work on one set of outputs: what was asked, what is done, and who does the rest.

Next to the outputs, ``.dynamicvis/NAME/`` holds a folder with the plan, a journal entry for each finished row of
tiles, and the rows' files. It has a name of its own that never comes again, so a process that comes back to it late,
when others have finished the work and begun another one, finds nothing and harms nothing. Every file is written
elsewhere, brought to the disk and renamed, so that what has a journal entry is whole, whenever the process or the
machine stopped. What stays after a run is ``.dynamicvis/NAME/record.json``, the record of a finished one.

What is removed is ours: a folder of work is marked by the plan in it, which is its first file and its last, and of
what lies in it, only files with the names that a run gives are removed. Whatever else there is stays, and its folder
with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicvis.files import occupy_standard_streams, replacing, safe_name, sync_file, sync_folder
from dynamicvis.geo.errors import GeoError, full_disk
from dynamicvis.geo.output.publish import BEFORE, give_back, move_all
from dynamicvis.geo.runs.leases import Leases

FOLDER = ".dynamicvis"
_PLAN = "plan.json"
_FINISH = "finish"
JOURNAL = 2  # version of the names and contents of the files of unfinished work
_LONGEST = 60  # bytes of a folder's name
_POLL = 0.2  # seconds between two looks at what another process does
STAGED = "result"  # stem of outputs, and of files made on the way to them, until they are published
_WORK = re.compile("[0-9a-f]{12}")  # name of a folder of work
_DRAFT = re.compile(r"\.[0-9a-f]{32}([-.].*)?")  # name of a file or folder in the making
_OURS = re.compile(
    rf"(row|band)-\d+\.(json|raw|npz)|publishing\.json|.*\.(lease|eviction)|{STAGED}[-.].*|{_DRAFT.pattern}"
)


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        options: everything the bytes of the outputs depend on, JSON values by the name that a user knows.
        choices: what may differ from machine to machine and is settled by the first process, such as a batch size
            that fits its memory.
        unknown: what the outputs depend on and cannot be compared with another process's, in words: such a plan is
            the same as no other one.
    """

    options: Mapping[str, Any]
    choices: Mapping[str, Any]
    unknown: str | None = None

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
        campaign: name of the call that this process makes with others.
    """

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        folder: Path,
        choices: Mapping[str, Any],
        result: dict[str, Any] | None,
        *,
        overwrite: bool,
        campaign: str | None,
    ) -> None:
        self._workspace, self._plan, self._overwrite = workspace, plan, overwrite
        self.campaign = campaign
        self._leases = Leases(folder)
        self.folder, self.choices, self.result = folder, choices, result

    def claim(self, unit: str) -> bool:
        """Take a unit of work that is neither done nor claimed by another process."""
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
        """Move the drafts of a unit, already on the disk, to their names, then write its journal entry.

        A unit that another process has finished meanwhile, because this one was stopped for long, stays as it is.
        """
        if self.entry(unit) is not None:
            for draft in drafts.values():
                draft.unlink(missing_ok=True)
            self.release(unit)
            return
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
        return not (self.folder / _PLAN).exists()

    def conclude(self, make_outputs: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        """Make the outputs of work whose units are all done, in one of the processes, and wait for it in the others.

        Args:
            make_outputs: writes every output, under its name, into the folder that it is given, and returns what the
                record shall hold; raises `NothingToWrite` where there is nothing to make.

        Returns:
            What the record holds, whoever made the outputs.

        Raises:
            GeoError: there is nothing to make outputs of, or an output came to be there meanwhile.
        """
        while not self.gone:
            if not self._leases.acquire(_FINISH):
                time.sleep(_POLL)
                continue
            try:
                self._make(make_outputs)
            except NothingToWrite:
                raise
            except Exception:
                # A process that took this one for gone has finished the work and removed the folder.
                if not self.gone:
                    raise
            finally:
                self._leases.release(_FINISH)
        if self.result is None:
            self.result = self._workspace.record(self._plan)
        if self.result is None:
            raise GeoError(
                f"another process at work on {self._workspace.outputs[0]} in {self._workspace.out_dir} ended without "
                "outputs; its message says why"
            )
        return self.result

    def leave(self) -> None:
        """Give all leases back, and remove the folder if nothing was done in it and nobody else is at work."""
        self._leases.close()
        if self.folder.exists() and not any(self.folder.glob("row-*.json")):
            with suppress(OSError), self._workspace.guard():
                if not any(self.folder.glob("row-*.json")) and not self._leases.others():
                    self._workspace.discard(self.folder)

    def stay(self) -> None:
        """Show other processes that this one is at work, also between two units, until `leave`."""
        self._leases.acquire(f"worker-{self._leases.token}")

    def _make(self, make_outputs: Callable[[Path], Mapping[str, Any]]) -> None:
        staging = self.draft("outputs")
        staging.mkdir()
        try:
            result = dict(make_outputs(staging))
            self._workspace.publish(self, staging, result, overwrite=self._overwrite)
            self.result = result
        except NothingToWrite:
            with self._workspace.guard():
                self._workspace.discard(self.folder)
            raise
        except GeoError as error:
            raise GeoError(self._workspace.in_own_names(str(error))) from error
        except OSError as error:
            raise full_disk(error, self._workspace.out_dir) or error from error
        finally:
            self._workspace.discard_staging(staging)

    @property
    def plan_hash(self) -> str:
        """Of the plan."""
        return self._plan.hash


class NothingToWrite(GeoError):
    """What is done so far cannot be made into outputs, however often the run is started again."""


class Workspace:
    """Where the work on a set of outputs is kept.

    Args:
        out_dir: folder of the outputs.
        name: of this set of outputs.
        outputs: names of the files in ``out_dir``.
        staged: their names while they are made; the same ones if not given.
    """

    def __init__(self, out_dir: Path, name: str, outputs: Sequence[str], staged: Sequence[str] | None = None) -> None:
        self.out_dir, self.outputs = out_dir, tuple(outputs)
        self._staged = dict(zip(outputs, staged or outputs, strict=True))
        # Absolute: GDAL would take a relative path such as "s3:out" for an address.
        self.root = out_dir.absolute() / FOLDER / _folder_name(name)
        self._record = self.root / "record.json"

    def record(self, plan: Plan) -> dict[str, Any] | None:
        """The record of a finished run of this very plan, None when there is none or its outputs were changed since."""
        try:
            record = json.loads(self._record.read_text())
            same = (
                record["plan"] == plan.hash
                and plan.unknown is None
                and all((self.out_dir / name).stat().st_size == record["outputs"][name] for name in self.outputs)
            )
            result = record["result"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # damaged, or not ours
            return None
        return result if same and isinstance(result, dict) else None

    def _is_of(self, campaign: str | None) -> bool:
        """Whether the record was written by a process of this campaign."""
        try:
            return campaign is not None and json.loads(self._record.read_text())["campaign"] == campaign
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    @contextmanager
    def open(self, plan: Plan, *, resume: bool, overwrite: bool, campaign: str | None = None) -> Iterator[Work]:
        """Begin the work, join others who do the same, resume what they began, or find it done.

        Finished rows of tiles are kept whatever happens in the block; when there is none, nothing is left behind. Of a
        finished run a record is kept, by which its outputs are the result when the same is asked again, unless they are
        to be replaced. It is written with the outputs, so that it is there when the process dies right after that.

        Args:
            plan: what is asked for.
            resume: go on with what an interrupted run has done; otherwise it is thrown away.
            overwrite: replace outputs of an earlier run, and throw away an interrupted one with another plan.
            campaign: name of a call that several processes make: outputs of another one of them are never replaced.

        Raises:
            GeoError: an output exists, the folder cannot be written to, a link or a file stands where the work is kept,
                another run is at work here, or an interrupted one had other options.
        """
        occupy_standard_streams()
        self._check_folders()
        made = [folder for folder in (self.out_dir, *self.out_dir.parents) if not folder.exists()]
        try:
            try:
                with self.guard():
                    work = self._enter(plan, resume=resume, overwrite=overwrite, campaign=campaign)
            except OSError as error:
                reason = error.strerror or error
                raise GeoError(f"cannot write to folder {self.out_dir} ({reason}); choose another output") from error
            try:
                yield work
            finally:
                work.leave()
        finally:
            # Whatever is empty now; a process that is about to enter makes it again.
            for folder in (self.root, self.root.parent, *made):
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """One process at a time begins, joins or ends the work of this name."""
        leases = Leases(self.root)
        try:
            with leases.waiting_for("guard"):
                yield
        finally:
            leases.close()

    def publish(self, work: Work, staging: Path, result: Mapping[str, Any], *, overwrite: bool) -> None:
        """Move all outputs into place, or none, and remove the work; what is left of it is its record."""
        sizes = {name: (staging / made).stat().st_size for name, made in self._staged.items()}
        for made in self._staged.values():
            sync_file(staging / made)
        begun = work.folder / "publishing.json"
        with self.guard():
            if work.gone:
                return
            try:
                # An output is there already when the process that moved it was killed before it had moved all.
                if not begun.exists():
                    self._check_outputs(overwrite)
                    write_json(begun, {})
                self._record.unlink(missing_ok=True)
                move_all(staging, self.out_dir, self._staged)
                sync_folder(self.out_dir)
                record = {"plan": work.plan_hash, "outputs": sizes, "result": result, "campaign": work.campaign}
                write_json(self._record, record)
            except OSError as error:
                raise GeoError(
                    f"{self.outputs[0]} cannot be put into {self.out_dir} ({error.strerror or error}); what is done is "
                    "kept: mend that and start again"
                ) from error
            self.discard(work.folder)

    def in_own_names(self, message: str) -> str:
        """A message about files in the making, with the names that they are to have."""
        for name, made in self._staged.items():
            message = message.replace(made, name)
        return message

    def discard(self, folder: Path) -> None:
        """Remove a folder of work; it is gone for all processes at one moment."""
        removed = folder.with_name(f".{folder.name}")
        with suppress(FileNotFoundError):
            folder.rename(removed)
        self._remove(removed)

    def discard_staging(self, staging: Path) -> None:
        """Remove a folder of outputs in the making, once what they were to replace is back in its place."""
        with suppress(FileNotFoundError):
            give_back(staging / BEFORE, self.out_dir)
        shutil.rmtree(staging, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        """Remove a folder if it is one of work; what is not of a run stays in it."""
        with suppress(OSError):
            if (folder / _PLAN).is_file() and not folder.is_symlink():
                for path in folder.iterdir():
                    if _OURS.fullmatch(path.name) is None:
                        continue
                    if path.is_dir() and not path.is_symlink():
                        self.discard_staging(path)
                    else:
                        path.unlink(missing_ok=True)
                (folder / _PLAN).unlink(missing_ok=True)
            folder.rmdir()

    def _enter(self, plan: Plan, *, resume: bool, overwrite: bool, campaign: str | None) -> Work:
        def work(folder: Path, choices: Mapping[str, Any], result: dict[str, Any] | None = None) -> Work:
            return Work(self, plan, folder, choices, result, overwrite=overwrite, campaign=campaign)

        begun = self._begun()
        if begun is not None:
            folder, found = begun
            same, live = found["hash"] == plan.hash and plan.unknown is None, Leases(folder).others()
            if same and (resume or live):
                joined = work(folder, found["choices"])
                joined.stay()
                return joined
            other = _difference(found["options"], plan)
            if live:
                raise GeoError(
                    f"another run with {other} is at work on {self.outputs[0]} in {self.out_dir}; wait for it, "
                    "or choose another output"
                )
            if resume and not overwrite and found["hash"] == plan.hash:
                raise GeoError(
                    f"{self.out_dir} holds an interrupted run for {self.outputs[0]}, perhaps of the same function: "
                    f"{plan.unknown} cannot be compared; give --no-resume (resume=False) to begin anew, and for the "
                    "next time the function or model a text attribute 'digest' that names its state"
                )
            if resume and not overwrite:
                raise GeoError(
                    f"{self.out_dir} holds an interrupted run for {self.outputs[0]} with {other}; give the same "
                    "options to go on with it, or --no-resume to begin anew"
                )
        wanted = (resume and not overwrite) or self._is_of(campaign)
        finished = self.record(plan) if wanted else None
        if finished is not None:
            return work(self.root / "finished", {}, finished)
        self._check_outputs(overwrite)
        if begun is not None:
            self.discard(begun[0])
        folder = self.root / uuid.uuid4().hex[:12]
        making = folder.with_name(f".{folder.name}")
        making.mkdir()
        # First of all the mark of the folder, and its own name when the mark is whole.
        (making / _PLAN).write_text(
            json.dumps({"hash": plan.hash, "options": plan.options, "choices": plan.choices}), encoding="utf-8"
        )
        sync_file(making / _PLAN)
        making.rename(folder)
        sync_folder(self.root)
        new = work(folder, plan.choices)
        new.stay()
        return new

    def _begun(self) -> tuple[Path, dict[str, Any]] | None:
        """The folder of unfinished work, with its plan; what killed processes left half-made is removed."""
        found = None
        for path in list(self.root.iterdir()):
            if path.is_symlink():
                continue
            if path.is_dir():
                if _WORK.fullmatch(path.name):
                    plan = _read_plan(path / _PLAN)
                    found = found if plan is None else (path, plan)
                elif path.name[0] == "." and _WORK.fullmatch(path.name[1:]):
                    self._remove(path)
            elif _DRAFT.fullmatch(path.name):
                # If a process that waits for the guard made it, that process makes another one.
                path.unlink(missing_ok=True)
        return found

    def _check_folders(self) -> None:
        """Refuse to work through a link: it may lead to another disk, or to files of somebody else."""
        for folder in (self.root.parent, self.root):
            if folder.is_symlink():
                raise GeoError(
                    f"{folder} is a link, where unfinished work is to be kept beside the outputs; remove the link, or "
                    "choose another output"
                )
            if folder.exists() and not folder.is_dir():
                raise GeoError(
                    f"{folder} is a file, where a folder for unfinished work is to be; move it away, or choose another "
                    "output"
                )
        if self._record.is_dir():
            raise GeoError(
                f"{self._record} is a folder, where the record of a finished run is to be; move it away, or choose "
                "another output"
            )
        for folder in (self.out_dir, *self.out_dir.absolute().parents):
            if folder.is_symlink() and not folder.exists():
                raise GeoError(f"{folder} is a link to nothing; choose another output")
            if folder.exists() and not folder.is_dir():
                raise GeoError(f"cannot write to folder {self.out_dir} ({folder} is a file); choose another output")

    def _check_outputs(self, overwrite: bool) -> None:
        for path in (self.out_dir / name for name in self.outputs):
            if path.is_dir():
                raise GeoError(f"{path} is a folder where a file is to be written; choose another output")
            if os.path.lexists(path) and not overwrite:
                raise GeoError(f"{path} exists already; add --overwrite to replace it, or choose another output")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole or absent, and on the disk when this returns."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(content))


def _read_plan(path: Path) -> dict[str, Any] | None:
    """The plan that marks a folder of work; None for any other file."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(plan, dict) and all(
        isinstance(plan.get(name), kind) for name, kind in (("hash", str), ("options", dict), ("choices", dict))
    )
    return plan if is_ours else None


def _folder_name(name: str) -> str:
    """A name for a folder, short enough for what is put into it, of that of an output."""
    safe = safe_name(name)
    if safe == name and len(os.fsencode(name)) <= _LONGEST:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f"{safe.encode()[: _LONGEST - 17].decode(errors='ignore')}-{digest}"


def _difference(before: Mapping[str, Any], plan: Plan) -> str:
    """The first option that two plans do not share, in words."""
    now = json.loads(json.dumps(plan.options))
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            part = min(part for part in {*old, *new} if old.get(part) != new.get(part))
            return f"another {name} (by its {part})"
        old, new = json.dumps(old), json.dumps(new)
        return f"another {name}" if max(len(old), len(new)) > 60 else f"{name} {old} where this one has {new}"
    return f"a function that cannot be compared ({plan.unknown})" if plan.unknown else "other options"
