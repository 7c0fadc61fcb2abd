"""What is looked at before a cluster is spoken with.

Whoever reaches a scheduler, or stands between it and us, may run any code here: Dask sends objects. And what is wrong
with a certificate, Dask would say in the words of its libraries, when it is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from voicekiln.errors import plain
from voicekiln.settings import Workers

FILES = ("ca", "cert", "key")

_LOOPBACK = re.compile(r"tcp://(?:localhost|127\.\d+\.\d+\.\d+|\[::1\]):")


def problems(workers: Workers) -> Iterator[str]:
    """Yield a line for each problem, beginning with its setting."""
    if workers.engine == "local":
        if workers.scheduler is not None:
            yield "workers.scheduler: is of no use with engine: local; write engine: dask, or scheduler: null"
        return
    if find_spec("distributed") is None:
        yield "workers.engine: dask is not installed; install voicekiln again, with its extra: pip install '.[cluster]'"
    if workers.scheduler is None:
        yield "workers.scheduler: is missing; write the address that dask scheduler says, like tls://gpu1.example:8786"
    elif workers.scheduler.startswith("tls"):
        yield from _certificates(workers)
    elif not (workers.scheduler == "local" or workers.plain_tcp or _LOOPBACK.match(workers.scheduler)):
        yield (
            "workers.scheduler: through plain tcp:// anybody in the network can run programs as voicekiln; use tls://, "
            "or write plain_tcp: true if nobody else is in that network"
        )


def _certificates(workers: Workers) -> Iterator[str]:
    files: dict[str, Path] = {}
    for key in FILES:
        file: Path | None = getattr(workers, key)
        if file is None:
            yield f"workers.{key}: is missing, and tls:// needs it; write the path of a .pem file"
        elif why := _unreadable(file):
            yield f"workers.{key}: {plain(str(file))} cannot be read ({why})"
        else:
            files[key] = file
    if len(files) == len(FILES):
        yield from _unsound(**files)


def _unsound(ca: Path, cert: Path, key: Path) -> Iterator[str]:
    import ssl  # noqa: PLC0415 - megabytes, for those who have a cluster

    try:
        ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        yield "workers.ca: is no certificate in PEM form; it begins with -----BEGIN CERTIFICATE-----"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        why = (error.reason or "").lower().replace("_", " ")
        yield f"workers.key: does not go with workers.cert ({why}); both are PEM files, made together for this host"


def _unreadable(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    return None
