"""Which versions of which packages are installed: every artefact and report says so."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed, by name."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def own_version() -> str:
    """Return the version of ppsr; "unknown" where it runs uninstalled."""
    return installed(["ppsr"]).get("ppsr", "unknown")
