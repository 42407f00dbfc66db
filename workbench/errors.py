"""Every exception the workbench raises on purpose.

    WorkbenchError
    ├── MediaError          a picture, sound or video that cannot be used
    ├── PromptError         a question or a setting that cannot be run
    ├── ModelError          a model that cannot be loaded or asked
    │   ├── DoesNotFit      it would not fit in this machine's memory or disk
    │   └── Incompatible    versions, shapes, vocabularies or identities that do not go together
    └── TraceError          a trace or a reading that cannot be read, saved, or used here

Each message says what came, what was expected, and what to do. Passing an argument that a function does not have is
Python's own ``TypeError``, as everywhere.
"""

__all__ = [
    "DoesNotFit",
    "Incompatible",
    "MediaError",
    "ModelError",
    "PromptError",
    "TraceError",
    "WorkbenchError",
]


class WorkbenchError(Exception):
    """The root: ``except workbench.WorkbenchError`` catches everything the workbench raises on purpose."""


class MediaError(WorkbenchError):
    """A picture, sound or video that is missing, broken, too large, or of a kind we do not read."""


class PromptError(WorkbenchError):
    """A question, conversation or sampling setting that cannot be run as given."""


class ModelError(WorkbenchError):
    """A model that is unknown, unfinished, not loaded, or failed while running."""


class DoesNotFit(ModelError):
    """The model needs more memory or disk than this machine has free."""


class Incompatible(ModelError):
    """Two things that do not go together: library versions, vocabularies, hidden sizes, model identities."""


class TraceError(WorkbenchError):
    """A trace file that is broken, hostile or too new, or a reading that the trace cannot answer."""
