"""All that is made of one picture: the larger one, the mask, the comparison; each whole or not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ppsr.models.errors import NO_MEMORY, PpsrError
from ppsr.runtime.pictures.encode import PictureWriter, choose_encoding
from ppsr.runtime.pictures.formats import format_of
from ppsr.runtime.pictures.metadata import Metadata
from ppsr.runtime.pixels import Array, ArrayPixels
from ppsr.runtime.routing import Skipped

from .jobs import Job
from .loading import Loaded
from .overlay import Beside, tinted


class Outputs:
    """Writes the files of one picture. All but ``error`` is for one thread, the encoder's.

    No method raises what is the picture's or the disk's fault: it is kept in ``error``, what was
    begun is removed, and from then on nothing is done.
    """

    def __init__(self, job: Job, loaded: Loaded, scale: int) -> None:
        self.error: PpsrError | None = None
        self._job, self._loaded, self._scale = job, loaded, scale
        height, width, channels = loaded.pixels.shape
        self.shape = (scale * height, scale * width, channels)
        self._stack = ExitStack()
        self._picture: PictureWriter | None = None
        self._beside: tuple[Beside, PictureWriter] | None = None

    def write(self, rows: Array) -> None:
        """Write the next rows of the larger picture."""
        self._guard(lambda: self._write(rows))

    def publish(self, skipped: Skipped | None) -> None:
        """Show what was skipped, if asked, and let all files appear, the larger picture last."""
        self._guard(lambda: self._publish(skipped))
        self._loaded.close()

    def discard(self, error: PpsrError | None) -> None:
        """Remove what was begun."""
        self.error = self.error or error or PpsrError("stopped")
        self._remove()
        self._loaded.close()

    def _guard(self, step: Callable[[], None]) -> None:
        if self.error is not None:
            return
        target = self._job.output or "standard output"
        try:
            step()
        except PpsrError as error:
            self.error = error
        except MemoryError:
            self.error = PpsrError(NO_MEMORY)
        except OSError as error:
            self.error = PpsrError(f"cannot write {target}: {error.strerror or error}")
        except BaseException:
            self.error = PpsrError(f"cannot write {target}")
            raise
        finally:
            if self.error is not None:
                self._remove()

    def _remove(self) -> None:
        """Leave the writers as after an exception: they publish nothing."""
        stack, self._stack = self._stack.pop_all(), ExitStack()
        stopped = self.error or PpsrError("stopped")
        try:
            with stack:
                raise stopped
        except (PpsrError, OSError):
            pass

    def _write(self, rows: Array) -> None:
        if self._picture is None:
            self._open()
            assert self._picture is not None
        self._picture.write(rows)
        if self._beside is not None:
            beside, writer = self._beside
            writer.write(beside.next(rows))

    def _open(self) -> None:
        target: Path | BinaryIO = sys.stdout.buffer
        if self._job.output is not None:
            target = self._job.output
            target.parent.mkdir(parents=True, exist_ok=True)
        # The first to be opened is the last to be left: the picture appears when all else is there.
        self._picture = self._stack.enter_context(
            PictureWriter(target, self.shape, self._loaded.encoding, self._loaded.metadata)
        )
        if self._job.compare is not None:
            beside = Beside(self._loaded.pixels, self._scale)
            self._beside = beside, self._overlay(self._job.compare, beside.shape)

    def _publish(self, skipped: Skipped | None) -> None:
        if self._job.mask is not None and skipped is not None:
            picture = self._loaded.pixels
            height, width, _ = picture.shape
            writer = self._overlay(self._job.mask, (height, width, 3))
            for rows in tinted(picture, skipped):
                writer.write(rows)
        with self._stack.pop_all():
            pass

    def _overlay(self, path: Path, shape: tuple[int, int, int]) -> PictureWriter:
        """Open a writer for an overlay, 8-bit RGB, in the format of its name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = ArrayPixels(np.broadcast_to(np.uint8(0), shape))
        encoding = choose_encoding(format_of(path), plain, scale=1, depth=None, quality=None)
        writer = PictureWriter(path, shape, encoding, Metadata(icc=self._loaded.metadata.icc))
        return self._stack.enter_context(writer)
