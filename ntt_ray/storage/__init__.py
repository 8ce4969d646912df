"""Files wherever they are: local paths, ``s3://``, ``gs://``, ``az://``, ``memory://``, ``https://``.

The only user of fsspec. Owns listing, reading, publishing and retries. What is published appears
whole or not at all: a rename on a local disk, one PUT (or one completed upload) on an object store.
"""

from ntt_ray.storage.store import Storage, check_protocol
from ntt_ray.storage.uris import absolute, below, is_uri, join, local_uri, printable, redact

__all__ = [
    "Storage",
    "absolute",
    "below",
    "check_protocol",
    "is_uri",
    "join",
    "local_uri",
    "printable",
    "redact",
]
