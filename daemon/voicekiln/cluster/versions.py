"""Which voicekiln the Dask workers have: another one, or none, would only be found out in the middle of a voice.

A Dask worker without it cannot even read what a job is, and ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from importlib import metadata

from distributed import Client

from voicekiln import __version__

PACKAGE = "voicekiln"

ASK_S = 3.0
"""What Dask workers are given to answer."""


class Versions:
    """See the module. Lives in the line's thread."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._fitting: set[str] = set()
        self._others: dict[str, str] = {}

    @property
    def trouble(self) -> str | None:
        """Which Dask worker has another one, for people."""
        if not self._others:
            return None
        address, version = min(self._others.items())
        if not version:
            return f"the Dask worker at {address} has no voicekiln; install it there"
        return f"the Dask worker at {address} has voicekiln {version} and not {__version__}; install one on all hosts"

    async def fitting(self, client: Client, present: Collection[str]) -> list[str]:
        """Return who of those present has ours, by address; others are asked anew each time, who may be updated.

        Who does not answer is taken for fitting for now: the next job finds out.
        """
        self._fitting &= {*present}
        self._others = {}
        if new := [address for address in present if address not in self._fitting]:
            said = await _versions(client, new)
            if not said and len(new) > 1:  # Dask waits for all, and one of them may hang
                for each in await asyncio.gather(*(_versions(client, [address]) for address in new)):
                    said |= each
            self._others = {address: version for address, version in said.items() if version != __version__}
            self._fitting |= said.keys() - self._others.keys()
        return [address for address in present if address not in self._others]


async def _versions(client: Client, workers: list[str]) -> dict[str, str]:
    """Return which voicekiln each has, empty for none; without those who do not answer."""
    try:
        run = client.run(metadata.version, PACKAGE, workers=workers, on_error="return")
        said: dict[str, object] = await asyncio.wait_for(run, ASK_S)
    except (OSError, TimeoutError):
        return {}
    none = {address: "" for address, told in said.items() if isinstance(told, metadata.PackageNotFoundError)}
    return none | {address: told for address, told in said.items() if isinstance(told, str)}
