"""Many pictures: one is decoded ahead of the model, one is encoded behind it.

Three threads, and little between them: pictures as ``open_picture`` holds them (large ones on the
disc) and ``PENDING`` bands of rows. So memory does not grow with the number of
pictures, nor with the size of the outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal, TypeVar

from ppsr.models.errors import NO_MEMORY, PpsrError
from ppsr.runtime.files import sweep
from ppsr.runtime.stream import Stream
from ppsr.runtime.upscaler import Upscaler

from .jobs import Job
from .loading import Loaded, Options, load
from .outputs import Outputs

PENDING = 2
"""Steps that may wait for the encoder: bands of rows, or to publish a picture."""

T = TypeVar("T")
Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one picture. Sizes are H, W; what was not reached is None."""

    job: Job
    status: Status
    error: PpsrError | None = None
    input_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    pure: float | None = None
    kept: tuple[float, ...] | None = None
    milliseconds: float | None = None
    """As in ``upscaler.Result``."""
    tiles: int | None = None
    notes: tuple[str, ...] = ()
    """What happened on the way that the picture does not show, or why it was skipped."""


Progress = Callable[[Job, float], None]
"""Called with the share of a picture that is through the model, from 0 to 1."""


def run_batch(
    jobs: Sequence[Job],
    upscaler: Upscaler,
    options: Options | None = None,
    progress: Progress = lambda job, share: None,
) -> Generator[Outcome, None, None]:
    """Make pictures larger, and yield what became of each, in their order, once it is on the disk.

    A failed picture is an outcome, too; without ``options.keep_going`` it is the last one. Leaving
    early, by ``close`` or by an exception, leaves no half file. What killed runs left in the
    folders of the outputs is swept before.
    """
    streamed = {Path(gettempdir())} if any(job.output is None for job in jobs) else set()
    for folder in streamed | {path.parent for job in jobs for path in job.targets}:
        sweep(folder)
    line = _Line(upscaler, options or Options(), progress)
    try:
        yield from line.run(jobs)
    finally:
        line.stop()


class _Line:
    """The threads, and what is on its way through them."""

    def __init__(self, upscaler: Upscaler, options: Options, progress: Progress) -> None:
        self._upscaler, self._options, self._progress = upscaler, options, progress
        self._decoder = ThreadPoolExecutor(1, "decode")
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._ahead: Future[Loaded] | None = None
        self._steps: deque[Future[Any]] = deque()
        self._outcomes: deque[Future[Outcome]] = deque()
        self._current: Outputs | None = None
        self._failed = False

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        todo = iter([job for job in jobs if job.skip is None])
        self._fetch(next(todo, None))
        for job in jobs:
            if job.skip is not None:
                self._conclude(Outcome(job, "skipped", notes=(job.skip,)))
            else:
                assert self._ahead is not None
                loaded = error = None
                try:
                    loaded = self._ahead.result()
                except PpsrError as reason:
                    error = reason
                self._fetch(next(todo, None))
                if loaded is None:
                    self._conclude(Outcome(job, "failed", error))
                else:
                    self._upscale(job, loaded)
            yield from self._ready(wait=False)
            if self._is_over():
                break
        yield from self._ready(wait=True)

    def stop(self) -> None:
        """End the threads; remove what is half done."""
        if self._current is not None:
            self._encoder.submit(self._current.discard, None)
        self._decoder.shutdown(cancel_futures=True)
        self._encoder.shutdown()
        if self._ahead is not None and not self._ahead.cancelled():
            with suppress(Exception):
                self._ahead.result().close()

    def _fetch(self, job: Job | None) -> None:
        """Begin to decode the next picture."""
        self._ahead = None
        if job is not None:
            self._ahead = self._decoder.submit(load, job, self._options, self._upscaler.scale)

    def _encode(self, step: Callable[..., T], *arguments: Any) -> Future[T]:
        """Let the encoder do a step; wait while too many do."""
        while len(self._steps) >= PENDING:
            self._steps.popleft().result()
        future = self._encoder.submit(step, *arguments)
        self._steps.append(future)
        return future

    def _upscale(self, job: Job, loaded: Loaded) -> None:
        """Run the model on one picture; the encoder gets the rows, and concludes."""
        upscaler, error, stream = self._upscaler, None, None
        outputs = Outputs(job, loaded, upscaler.scale)
        self._current = outputs
        done = 0
        self._progress(job, 0)
        try:
            stream = upscaler.stream(loaded.pixels, loaded.encoding.dtype, self._options.tiling)
            for band in stream:
                self._encode(outputs.write, band)
                done += len(band)
                self._progress(job, done / outputs.shape[0])
                if outputs.error is not None or self._is_over():
                    break
        except PpsrError as reason:
            error = reason
        except MemoryError:
            error = PpsrError(NO_MEMORY)
        if error is None and done < outputs.shape[0] and outputs.error is None:
            self._encode(outputs.discard, None)  # Another picture ends the batch.
        else:
            self._outcomes.append(self._encode(_finish, job, loaded, outputs, stream, error))
        self._current = None

    def _is_over(self) -> bool:
        """Whether a picture is known to have failed, and that is the end."""
        if self._options.keep_going:
            return False
        known = (future.result().status for future in self._outcomes if future.done())
        return self._failed or "failed" in known

    def _conclude(self, outcome: Outcome) -> None:
        future: Future[Outcome] = Future()
        future.set_result(outcome)
        self._outcomes.append(future)

    def _ready(self, wait: bool) -> Iterator[Outcome]:
        """Yield outcomes in the order of the pictures, up to the one that ends the batch."""
        while self._outcomes and not self._failed and (wait or self._outcomes[0].done()):
            outcome = self._outcomes.popleft().result()
            self._failed = outcome.status == "failed" and not self._options.keep_going
            yield outcome


def _finish(
    job: Job, loaded: Loaded, outputs: Outputs, stream: Stream | None, error: PpsrError | None
) -> Outcome:
    """Publish what is complete, remove what is not, and tell."""
    if error is None:
        outputs.publish(stream.skipped if stream else None)
    else:
        outputs.discard(error)
    height, width, _ = loaded.pixels.shape
    size = height, width
    if outputs.error is not None or stream is None:
        return Outcome(job, "failed", outputs.error, input_size=size, notes=loaded.notes)
    return Outcome(
        job,
        "done",
        input_size=size,
        output_size=(outputs.shape[0], outputs.shape[1]),
        pure=stream.pure,
        kept=stream.kept,
        milliseconds=stream.milliseconds,
        tiles=stream.tiles,
        notes=(*loaded.notes, *stream.notes),
    )
