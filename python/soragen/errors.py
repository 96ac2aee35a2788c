"""The exceptions of the package, by cause. All are `Error`; the message says what to do."""

from __future__ import annotations


class Error(Exception):
    """Any error of the engine."""


class Cancelled(Error):
    """The session was closed while it worked."""


class RequestError(Error, ValueError):
    """The model cannot fulfil a setting. `setting` is its name, such as `size`."""

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message, setting)
        self.setting = setting

    def __str__(self) -> str:
        return str(self.args[0])


class PromptRefused(Error):
    """The policy refuses the prompt. `category` matched in `policy`."""

    def __init__(self, message: str, category: str = "", policy: str = "") -> None:
        super().__init__(message, category, policy)
        self.category, self.policy = category, policy

    def __str__(self) -> str:
        return str(self.args[0])


class NotFound(Error, LookupError):
    """A model or a file is missing."""


class FileError(Error, OSError):
    """A file is damaged, or cannot be read or written."""


class DeviceError(Error):
    """This build or this machine cannot use the device."""


class OutOfMemory(Error, MemoryError):
    """The model needs more memory than there is."""


class GenerationError(Error, RuntimeError):
    """The generation failed."""
