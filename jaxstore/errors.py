"""The exceptions, as a tree of what a caller would do about them.

Owned here: every exception type that jaxstore raises by itself. Errors of the operating system
(a full disk, a missing permission) pass through as they are.

    JaxstoreError
    ├── ExistsError        choose another path or group        (also FileExistsError)
    ├── MissingError       correct the path or the name        (also FileNotFoundError)
    ├── FormatError        this is not what it should be       (also ValueError)
    ├── MismatchError      what is given differs from what is there (also ValueError)
    ├── TooManyDrawsError  declare a larger number             (also ValueError)
    ├── TooLargeError      index a part of it                  (also MemoryError)
    ├── BusyError          close or finish something first     (also RuntimeError)
    └── LostDrawsError     the program dropped callbacks       (also RuntimeError)
"""


class JaxstoreError(Exception):
    """Base of all errors that jaxstore raises by itself."""

    __str__ = Exception.__str__  # that of OSError would print errno and filename, not the text


class ExistsError(JaxstoreError, FileExistsError):
    """Something is there that this run did not write."""


class MissingError(JaxstoreError, FileNotFoundError):
    """Nothing is there under this path or name."""


class FormatError(JaxstoreError, ValueError):
    """What is there is not what it should be."""


class MismatchError(JaxstoreError, ValueError):
    """What is given differs from what is there."""


class TooManyDrawsError(JaxstoreError, ValueError):
    """More draws were kept than were declared."""


class TooLargeError(JaxstoreError, MemoryError):
    """What is asked for is more than this machine has memory."""


class BusyError(JaxstoreError, RuntimeError):
    """A collector or store is closed, or in use by another run."""


class LostDrawsError(JaxstoreError, RuntimeError):
    """The program says that it kept draws which never arrived."""
