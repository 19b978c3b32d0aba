"""Every error that this package raises on purpose; each text names the thing, the value and what was expected."""

from __future__ import annotations


class StreamworkerError(Exception):
    """The root of all errors that are raised on purpose."""


class ConfigurationError(StreamworkerError):
    """A setting, an argument or an installed part does not fit; nothing was started (exit code 2)."""


class InvalidMessage(StreamworkerError):
    """A job that cannot be run; it goes to the dead stream.

    `reason` is one of the contract's words (`invalid_message`, `message_too_large`, ...), `detail` a sentence.
    """

    def __init__(self, detail: str, reason: str = "invalid_message") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class InvalidSubmission(StreamworkerError, ValueError):
    """Items or options given to `Client.submit` that no worker could run; nothing was submitted."""


class BatchNotFound(StreamworkerError, LookupError):
    """No batch has this id."""


class LeaseLost(StreamworkerError):
    """The batch belongs to another worker, or was cancelled: nothing more may be written."""


class SchemaError(StreamworkerError):
    """The database's schema is missing, newer than this program, or was changed by hand."""
