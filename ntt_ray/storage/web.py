"""Web servers: how long they may be silent, and where they may not send us.

A server on the Internet could redirect a request into the network that we run in, and what lies
there (a metadata service with credentials, an administrator's page) would be read in our name.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import ClientSession, TraceRequestRedirectParams, TraceRequestStartParams
    from yarl import URL

SILENCE_S = 60  # how long a server may be silent in the middle of an answer


class RefusedRedirectError(OSError):
    """A server of the Internet redirected to a private, loopback or link-local address."""


@functools.cache
def client_options() -> dict[str, Any]:
    """What the sessions of aiohttp are made with.

    Silence is limited, and not a whole download, as aiohttp's five minutes would.
    """
    from aiohttp import ClientTimeout, TraceConfig

    trace = TraceConfig()
    trace.on_request_start.append(_remember)
    trace.on_request_redirect.append(_check_redirect)
    timeout = ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_S)
    return {"timeout": timeout, "trace_configs": [trace]}


async def _remember(
    _: ClientSession, request: SimpleNamespace, params: TraceRequestStartParams
) -> None:
    request.asked = params.url


async def _check_redirect(
    _: ClientSession, request: SimpleNamespace, params: TraceRequestRedirectParams
) -> None:
    """Refuse a way from outside into a private network; within one, everything may redirect."""
    location = params.response.headers.get("Location") or params.response.headers.get("URI")
    if location is None:
        return
    try:
        target = params.url.join(type(params.url)(location))
    except ValueError:
        return  # aiohttp says what is wrong with it
    if await _is_private(target) and not await _is_private(request.asked):
        raise RefusedRedirectError(
            f"{request.asked.host} redirects to {target.host}, an address of a private network; "
            "give the address itself if it is to be read"
        )


async def _is_private(url: URL) -> bool:
    """Whether any address of a URL's host is none of the Internet; False where it has none."""
    if url.host is None:
        return False
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.host, url.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return False  # a proxy may know it; nobody here can connect to it
    return not all(address.is_global for address in _addresses(found))


def _addresses(found: list[Any]) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        yield getattr(address, "ipv4_mapped", None) or address
