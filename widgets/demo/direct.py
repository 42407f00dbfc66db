"""The way to this machine's own server: through no proxy."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["direct"]

_NAMES = ("no_proxy", "NO_PROXY")


@contextmanager
def direct(host: str = "localhost") -> Iterator[None]:
    """While it lasts, a server in this network is asked without the proxy that the environment or system names.

    Gradio asks its own server before it goes on, and proxies know no way back. Not for longer than needed: where the
    proxy is the system's, any variable about proxies hides it.

    Args:
        host: Of the server; a name is somebody else's, and left to the proxy.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost":
            yield
            return
    before = {name: os.environ.get(name) for name in _NAMES}
    hosts = dict.fromkeys([host, "127.0.0.1", "localhost", "::1"])
    listed = ",".join([*filter(None, {before["no_proxy"], before["NO_PROXY"]}), *hosts])
    try:
        os.environ.update(dict.fromkeys(_NAMES, listed))
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
