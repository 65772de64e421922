"""Every error that everlearn raises on purpose.

EverlearnError
 ├─ ConfigError(ValueError)          exit 2: a key, its value, what is allowed
 ├─ InputError(ValueError)           exit 2: bad argument or bad file
 │   └─ ReleaseBusy                  exit 3: another release of this task runs
 ├─ NotEnoughEvidence(LookupError)   exit 3: too few rows, scores or units to say anything
 ├─ TrainingBusy(RuntimeError)       exit 3: a training of this task is under way
 ├─ NotFound(LookupError)            exit 2: no such task, version, snapshot or release
 ├─ CaptureError(OSError)            exit 4: the WAL refused or lost an append
 ├─ LakeError(OSError)               exit 4: the lake could not be attached, read or committed
 ├─ StateError(OSError)              exit 4: the state store could not be opened, read or written
 ├─ GraderError(RuntimeError)        a grader raised, timed out or answered out of range: unscored
 ├─ CheckpointError(OSError)         exit 4: what a training keeps could not be written
 ├─ RegistryError(OSError)           exit 4: MLflow refused or did not answer
 ├─ TrainingError(RuntimeError)      training could not produce a version; the reason is recorded
 │   └─ NothingLearned               the adapter answers as its parent does
 └─ ServingError(RuntimeError)       an adapter did not load or verify: it gets no traffic
     └─ ServingAway(OSError)         exit 4: a model server could not be asked

An error is attributed to the border it crossed and recorded once; unknown errors propagate. The
others exit with 1: done, and the answer is no. Exit 4 is worth another try later.
"""


class EverlearnError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(EverlearnError, ValueError):
    """Config or task file is wrong; the text has one line per problem."""

    exit_code = 2


class InputError(EverlearnError, ValueError):
    """An argument or an input file is wrong."""

    exit_code = 2


class ReleaseBusy(InputError):
    """A release of the task runs, and does not give way to a newer version."""

    exit_code = 3


class NotFound(EverlearnError, LookupError):
    """The named task, version, snapshot or release does not exist."""

    exit_code = 2


class NotEnoughEvidence(EverlearnError, LookupError):
    """Too little data to decide; nothing was changed."""

    exit_code = 3


class TrainingBusy(EverlearnError, RuntimeError):
    """Another training of the task holds the lock."""

    exit_code = 3


class CheckpointError(EverlearnError, OSError):
    """Something that the training needs to go on later could not be written."""

    exit_code = 4


class CaptureError(EverlearnError, OSError):
    """The write-ahead log refused or lost an append."""

    exit_code = 4


class LakeError(EverlearnError, OSError):
    """The lake could not be attached, read or committed."""

    exit_code = 4


class StateError(EverlearnError, OSError):
    """The state store could not be opened, read or written."""

    exit_code = 4


class GraderError(EverlearnError, RuntimeError):
    """A grader raised, timed out or answered out of range; the score stays unscored."""


class RegistryError(EverlearnError, OSError):
    """MLflow refused or did not answer."""

    exit_code = 4


class TrainingError(EverlearnError, RuntimeError):
    """Training produced no version; the text is the recorded reason."""


class NothingLearned(TrainingError):
    """What was trained is, or answers as, the version that it should be better than."""


class ServingError(EverlearnError, RuntimeError):
    """An adapter did not load or did not verify on a replica."""


class ServingAway(ServingError, OSError):
    """A model server did not answer; that says nothing about a version."""

    exit_code = 4
