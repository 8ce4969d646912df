"""Files wherever they are: local paths, ``s3://``, ``gs://``, ``az://``, ``memory://``, ``https://``.

The only user of fsspec. Owns listing, reading, publishing and retries. What is published appears
whole or not at all: a rename on a local disk, one PUT (or one completed upload) on an object store.
"""

from ntt_ray.storage.folders import missing_folder
from ntt_ray.storage.listing import LeftOut
from ntt_ray.storage.store import Storage, check_package, check_protocol
from ntt_ray.storage.uploads import LEAST_BYTES, MOST_PARTS, StoredPart, Upload
from ntt_ray.storage.uris import absolute, below, is_uri, join, local_uri, printable, redact

__all__ = [
    "LEAST_BYTES",
    "MOST_PARTS",
    "LeftOut",
    "Storage",
    "StoredPart",
    "Upload",
    "absolute",
    "below",
    "check_package",
    "check_protocol",
    "is_uri",
    "join",
    "local_uri",
    "missing_folder",
    "printable",
    "redact",
]
