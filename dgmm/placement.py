"""Where a task runs, and where its buffers are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self, cast

__all__ = ["Placed"]


class Placed:
    """A task with a ``device``, which engines can give another one.

    Engines project the memory of the host by ``workspace_bytes`` and that of a device by
    ``device_bytes``.
    """

    device: str

    @property
    def buffer_bytes(self) -> int:
        """Bytes of one thread's buffers, wherever they are."""
        raise NotImplementedError

    @property
    def workspace_bytes(self) -> int:
        """Those in the memory of the host."""
        return 0 if self.device.startswith("cuda") else self.buffer_bytes

    @property
    def device_bytes(self) -> int:
        """Those in the memory of a device."""
        return self.buffer_bytes if self.device.startswith("cuda") else 0

    def on(self, device: str) -> Self:
        """The same task on a device."""
        return cast(Self, replace(cast(Any, self), device=device))
