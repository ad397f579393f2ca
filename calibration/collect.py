"""Ranges of activations, from pictures run through a backend that shows what flows inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import PpsrError, UsageError
from ppsr.runtime.backend import Backend
from ppsr.runtime.feed import feed_for

from .estimators import Histogram, estimate, require_estimator
from .ranges import Ranges


def collect(
    backend: Backend,
    tensors: Mapping[str, str],
    pictures: Iterable[npt.NDArray[np.uint8]],
    estimator: str,
    graph_sha256: str,
    *,
    on_picture: Callable[[int], object] = lambda _number: None,
) -> Ranges:
    """Return the range of every site, as one of ``ESTIMATORS`` says.

    tensors: site -> name of the tensor, which ``backend.run`` must return. Everything else is as
    in ``observe``. Raises as ``observe`` and ``ranges_of`` do.
    """
    require_estimator(estimator)
    histograms, images = observe(backend, tensors.values(), pictures, on_picture=on_picture)
    return ranges_of(histograms, tensors, estimator, graph_sha256, images)


def observe(
    backend: Backend,
    tensors: Iterable[str],
    pictures: Iterable[npt.NDArray[np.uint8]],
    *,
    on_picture: Callable[[int], object] = lambda _number: None,
) -> tuple[dict[str, Histogram], int]:
    """Count the values of tensors over pictures, in one pass -> by tensor, number of pictures.

    pictures: uint8 H W 3 of any sizes, taken one by one: memory does not grow with their number.
    ``on_picture`` is told how many are done. Raises UsageError where there is no picture, PpsrError
    where the model fails, does not return a tensor, or returns values that are no numbers.
    """
    histograms = {name: Histogram() for name in tensors}
    number = 0
    for number, rgb in enumerate(pictures, 1):
        found = backend.run(feed_for(backend.artefact, rgb))
        for name, histogram in histograms.items():
            if name not in found:
                raise PpsrError(f"expected the model to return the tensor {name}; watch it")
            try:
                histogram.add(found[name])
            except PpsrError as error:
                raise PpsrError(f"tensor {name} on picture {number}: {error}") from error
        on_picture(number)
    if not number:
        raise UsageError("expected at least one picture to take ranges from, got none")
    return histograms, number


def ranges_of(
    histograms: Mapping[str, Histogram],
    tensors: Mapping[str, str],
    estimator: str,
    graph_sha256: str,
    images: int,
) -> Ranges:
    """Return the ranges by site, of histograms by tensor.

    Raises UsageError for an unknown estimator, and where a site has seen no value at all: those
    behind the mask see none of a picture that is pure.
    """
    if unseen := [site for site, name in tensors.items() if not histograms[name].values]:
        raise UsageError(
            f"no value reached {len(unseen)} of {len(tensors)} sites, such as {unseen[0]}: all "
            "pictures are pure, nothing gets past the mask; calibrate with pictures of some detail"
        )
    by_tensor = {name: estimate(histograms[name], estimator) for name in set(tensors.values())}
    amax = {site: by_tensor[name] for site, name in tensors.items()}
    return Ranges(graph_sha256, estimator, images, amax)
