"""What is made of each input, and where: planned before anything runs, and never onto an input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppsr.models.errors import UsageError
from ppsr.runtime.files import check_target

from .inputs import Inputs, Source
from .names import Naming, format_or_none, is_folder, require_place


@dataclass(frozen=True)
class Job:
    """One picture, and what is made of it."""

    source: Source
    output: Path | None
    """None: standard output."""
    format: str | None
    """One of ``FORMATS``, None: that of the input."""
    mask: Path | None = None
    compare: Path | None = None
    skip: str | None = None
    """Why there is nothing to do."""

    @property
    def targets(self) -> list[Path]:
        """All files that are made."""
        return [path for path in (self.output, self.mask, self.compare) if path is not None]


def plan(
    inputs: Inputs, naming: Naming, *, scale: int, model: str, skip_existing: bool = False
) -> list[Job]:
    """Say what is made of each input.

    With ``skip_existing`` a picture is skipped where all that is made of it exists, and where it is
    itself the output of another: so a folder that holds both can be taken up again. Raises
    UsageError where a file cannot be written, would be written twice, or is an input.
    """
    naming.require(inputs)
    jobs = [_job(source, inputs, naming, scale, model) for source in inputs.sources]
    _require_distinct(jobs)
    results = _outputs_among_inputs(jobs, skip_existing)
    folders: set[Path] = set()
    planned = []
    for job in jobs:
        reason = results.get(job.source)
        if reason is None and skip_existing and job.output is not None:
            reason = "exists" if all(path.is_file() for path in job.targets) else None
        if reason is None:
            for path in job.targets:
                if path.parent not in folders:
                    require_place(path.parent)
                    folders.add(path.parent)
                if path.parent.is_dir():
                    check_target(path)
        planned.append(Job(job.source, job.output, job.format, job.mask, job.compare, reason))
    return planned


def _job(source: Source, inputs: Inputs, naming: Naming, scale: int, model: str) -> Job:
    if naming.to_stream:
        output, kind = None, naming.format
    else:
        output = _place(naming.output, source, inputs, naming, scale, model)
        kind = format_or_none(output) or naming.format
    mask, compare = (
        None if where is None else _place(where, source, inputs, naming, scale, model)
        for where in (naming.mask, naming.compare)
    )
    return Job(source, output, kind, mask, compare)


def _place(
    where: str | None, source: Source, inputs: Inputs, naming: Naming, scale: int, model: str
) -> Path:
    if where is not None and inputs.single and not is_folder(where):
        return Path(where)
    name = naming.file_name(source, scale, model)
    if where is not None:
        return Path(where, source.below.parent, name)
    assert source.path is not None
    return source.path.with_name(name)


def _require_distinct(jobs: list[Job]) -> None:
    taken: dict[str, Source] = {}
    for job in jobs:
        for path in job.targets:
            place = os.path.normcase(os.path.join(os.path.realpath(path.parent), path.name))
            other = taken.setdefault(place, job.source)
            if other is not job.source:
                raise UsageError(
                    f"{other.name} and {job.source.name} would both be written to {path}; "
                    "choose another --name, --format or --output"
                )
        if len({os.path.realpath(path) for path in job.targets}) < len(job.targets):
            raise UsageError("--output, --mask and --compare need places of their own")


def _outputs_among_inputs(jobs: list[Job], skip_existing: bool) -> dict[Source, str]:
    """Find the inputs that are outputs of others, by any name -> why each is skipped."""
    sources = {key: job.source for job in jobs for key in _identity(job.source.path)}
    skipped: dict[Source, str] = {}
    for job in jobs:
        for path in job.targets:
            for key in _identity(path):
                found = sources.get(key)
                if found is job.source:
                    raise UsageError(f"{path} is the input; choose another name with --output")
                if found is None:
                    continue
                if not (skip_existing and path == job.output):
                    raise UsageError(
                        f"{path}, to be made of {job.source.name}, is itself an input; choose a "
                        "folder with --output, or --skip-existing to leave what is made already"
                    )
                skipped[found] = f"is itself made of {job.source.name}"
    return skipped


def _identity(path: Path | None) -> Iterator[tuple[int, int]]:
    """Yield what is the same for all names of a file, nothing where there is none."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return
    if status is not None:
        yield status.st_dev, status.st_ino
