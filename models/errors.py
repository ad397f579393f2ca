"""The errors a user can cause, each with the exit code its command ends with.

PpsrError                 1  something failed at run time
+-- UsageError            2  an option or an argument is wrong
|   +-- PictureError      2  the picture is not one this tool can upscale
|   +-- CheckpointError   2  the weights are not what they should be
|   +-- ArtefactError     2  the model file is not one this tool can run
+-- PrecisionError        1  FP16 cannot hold what the weights ask for
+-- ParityError           3  an export does not do what the network does, or not in FP16
+-- BackendUnavailable    4  a package or a device is missing, or is not the one it must be
+-- BatchError            5  some of many pictures failed, the others did not
"""

from __future__ import annotations

NO_MEMORY = "not enough memory; use smaller tiles, or a smaller picture"
"""What is said wherever memory runs out."""


class PpsrError(Exception):
    """Message: what was expected, what came, what to do. Raised for run-time failures."""

    exit_code = 1


class UsageError(PpsrError):
    """An option or an argument is wrong, or two of them contradict each other."""

    exit_code = 2


class PictureError(UsageError):
    """A picture cannot be read, written, or upscaled without losing something."""


class CheckpointError(UsageError):
    """A weights file is missing, damaged, hostile, or of another network or scale."""


class ArtefactError(UsageError):
    """A model file is missing, damaged, or was not made by this project."""


class PrecisionError(PpsrError):
    """A constant of the network does not fit into the precision that was asked for."""


class ParityError(PpsrError):
    """An exported graph was run and its output is too far from the network's."""

    exit_code = 3


class BackendUnavailable(PpsrError):
    """A package, provider or device that the request needs is not there, or does not fit."""

    exit_code = 4


class BatchError(PpsrError):
    """Some of many pictures failed; those that did not are done."""

    exit_code = 5
