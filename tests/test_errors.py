"""One base for all that a user can cause, and one sentence about each."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import dynamicvis
from dynamicvis.errors import DynamicVisError, explanation
from dynamicvis.geo import GeoError
from dynamicvis.mm.errors import ConfigError


def test_what_is_said_about_an_error() -> None:
    assert explanation(GeoError("x.tif is a folder; name a file")) == "x.tif is a folder; name a file"
    assert explanation(ConfigError("no test_dataloader")) == "no test_dataloader"
    assert explanation(PermissionError(13, "Permission denied", "/w/x")) == "/w/x: Permission denied"
    assert explanation(IsADirectoryError(21, "Is a directory", "/w/.draft", None, "/w/x")) == "/w/x: Is a directory"
    assert explanation(OSError(28, "No space left on device")) == "No space left on device"
    assert explanation(OSError("reading failed,\n  twice")) == "reading failed, twice"
    assert explanation(ValueError("a mistake in the code")) is None
    assert explanation(KeyError("x")) is None


def test_every_public_error_of_the_package_has_the_base() -> None:
    found = set()
    for module in pkgutil.walk_packages(dynamicvis.__path__, "dynamicvis."):
        # The reference's names take the places of OpenMMLab's when they are imported.
        if module.name.startswith("dynamicvis.mm.reference"):
            continue
        classes = inspect.getmembers(import_module(module.name), inspect.isclass)
        found |= {kind for _, kind in classes if issubclass(kind, Exception) and kind.__module__ == module.name}
    public = {kind for kind in found if not kind.__name__.startswith("_")}
    # An operator that was not compiled is a fault of an installation; click ends a command by an error of its own.
    others = {kind.__name__ for kind in public if not issubclass(kind, DynamicVisError)}
    assert others == {"Interrupted", "MissingOperatorError"}
    assert {"GeoError", "ModelFileError", "CheckpointError", "ConfigError", "DataError"} <= {k.__name__ for k in public}
