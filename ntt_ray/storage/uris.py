"""Paths and URIs as text: what they mean, how they are joined, what of them people may see.

It knows no file system.
"""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import quote, unquote_to_bytes

from ntt_ray.errors import InputError

_URI = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
_USER_INFO = re.compile(r"://[^/@\s]*@")
# signed URLs carry their credentials in the query: AWS (both versions), Google, Azure, others
_NAMES = (
    r"(?:x-(?:amz|goog)-[a-z0-9-]+|signature|sig|awsaccesskeyid|googleaccessid|key-pair-id|"
    r"access_?key|api_?key|token|access_token|secret|password)"
)
_SIGNED = re.compile(rf"([?&])(?:{_NAMES}=[^&\s\"'<>)#]*(&|(?=[\s\"'<>)#]|$)))+", re.IGNORECASE)
_AZURE_KEY = re.compile(r"(?<=AccountKey=)[^;\s]+|(?<=SharedAccessSignature=)[^;\s]+")


def is_uri(path: str) -> bool:
    """Whether `path` names its protocol, as in ``s3://bucket/key``."""
    return bool(_URI.match(path))


def absolute(path: str) -> str:
    """Make a local path absolute, so that it means the same in every process; URIs stay."""
    if path.startswith("file://"):
        return os.path.abspath(unescaped(path))
    return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def join(prefix: str, *parts: str) -> str:
    """Join path parts below a prefix.

    Raises:
        InputError: a part is absolute or climbs out of the prefix with ``..``.
    """
    for part in parts:
        if is_uri(part) or part.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", part):
            raise InputError(f"{part!r} leads out of {redact(prefix)}; names must stay below it")
    return posixpath.join(prefix, *parts)


def below(root: str, name: str) -> str:
    """Where the file of that name lies below a root; in a web address the name is escaped.

    Raises:
        InputError: the name is absolute or climbs out of the root with ``..``.
    """
    is_web = root.lower().startswith(("http://", "https://"))
    joined = join(root, name)
    return join(root, quote(name)) if is_web else joined


def local_uri(path: str) -> str:
    """A path as a text that every format can hold.

    Names on disk are bytes. Where they are not UTF-8, Python has lone surrogates in their place,
    which neither Parquet nor JSON takes; such a path becomes a ``file://`` URI with escapes.
    """
    return path if printable(path) == path else "file://" + quote(os.fsencode(path))


def unescaped(uri: str) -> str:
    """The inverse of `local_uri`."""
    if not uri.startswith("file://"):
        return uri
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


def printable(text: str) -> str:
    """A text with what is not Unicode (lone surrogates) written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def redact(text: str) -> str:
    """Remove credentials from the URIs in a text meant for people.

    User names and passwords go, and of a signed URL's query all that signs it; the rest stays:
    ``https://me:pw@host/a?v=1&sig=XYZ`` becomes ``https://host/a?v=1``.
    """
    # the sign before what is removed stays where more of the query follows
    text = _SIGNED.sub(lambda found: found[1] if found[2] else "", _USER_INFO.sub("://", text))
    return _AZURE_KEY.sub("***", text)
