"""What the authors publish: address, size and digest of each checkpoint, by model name.

Also the small weights that come with the package. It knows no network and no cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO

from ntt_ray.errors import WeightsError

_DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2"
_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
_HASH_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint as its authors publish it.

    Attributes:
        url: where the authors publish it.
        sha256: SHA-256 of the file in hex; None where it is not known to us.
        size_bytes: size of the file; None where it is not known to us.
    """

    url: str
    sha256: str | None
    size_bytes: int | None = None

    @property
    def file_name(self) -> str:
        """Name of the file below a mirror prefix, and the end of its name in the cache."""
        return self.url.rsplit("/", 1)[1]

    def problem(self, path: Path) -> str | None:
        """What is wrong with a local copy; None when it is the published file."""
        size = path.stat().st_size
        if self.size_bytes is not None and size != self.size_bytes:
            return f"it has {size} bytes, published are {self.size_bytes}"
        if self.sha256 is not None and (found := file_digest(path)) != self.sha256:
            return f"its SHA-256 is {found}, published is {self.sha256}"
        return None


# SHA-256 and bytes of each file by the size of its model, as recorded independently by several
# public projects that pin these files; None where they are not known to us.
_DINOV2: Mapping[str, tuple[str | None, int | None]] = {
    "s14": ("b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88_283_115),
    "b14": ("0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346_378_731),
    "l14": ("d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1_217_586_395),
    "g14": (None, None),
    "s14_reg": ("f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb", None),
    "b14_reg": ("73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71", 346_393_545),
    "l14_reg": ("36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51", 1_217_607_321),
    "g14_reg": (None, None),
}
_SAM2: Mapping[str, Mapping[str, tuple[str, int | None]]] = {
    "sam2": {
        "t": ("65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125", 155_906_050),
        "s": ("95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3", 184_309_650),
        "b+": ("d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071", None),
        "l": ("7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b", 897_952_466),
    },
    "sam2.1": {
        "t": ("7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69", 156_008_466),
        "s": ("6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38", 184_416_285),
        "b+": ("a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5", 323_606_802),
        "l": ("2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318", 898_083_611),
    },
}
_SAM2_FOLDERS = {"sam2": "072824", "sam2.1": "092824"}
_SAM2_SIZES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}


def _dinov2(size: str) -> PublishedFile:
    base = f"dinov2_vit{size.removesuffix('_reg')}"
    registers = "_reg4" if size.endswith("_reg") else ""
    return PublishedFile(f"{_DINOV2_URL}/{base}/{base}{registers}_pretrain.pth", *_DINOV2[size])


def _sam2(family: str, size: str) -> PublishedFile:
    path = f"{_SAM2_FOLDERS[family]}/{family}_hiera_{_SAM2_SIZES[size]}.pt"
    return PublishedFile(f"{_SAM2_URL}/{path}", *_SAM2[family][size])


PUBLISHED: Mapping[str, PublishedFile] = {
    **{f"dinov2_vit{size}": _dinov2(size) for size in _DINOV2},
    **{f"{family}_hiera_{size}": _sam2(family, size) for family in _SAM2 for size in _SAM2[family]},
}
# Small weights that come with the package, see ntt_ray/demo/weights. For the example only.
BUNDLED: Mapping[str, str] = {n: f"{n}.safetensors" for n in ("dinov2_demo", "sam2_demo")}


def bundled_file(file_name: str) -> Path:
    """Path of a file that comes with the package, checked against its recorded digest.

    Raises:
        WeightsError: the file is missing, or has changed since its digest was recorded.
    """
    folder = Path(str(resources.files("ntt_ray"))) / "demo" / "weights"
    lines = (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    recorded = {name: digest for digest, name in map(str.split, lines)}
    path = folder / file_name
    if not path.is_file() or file_digest(path) != recorded.get(file_name):
        raise WeightsError(f"{path}: missing or damaged; install the package again")
    return path


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return stream_digest(stream)


def stream_digest(stream: IO[bytes]) -> str:
    """SHA-256 of the rest of a stream, in hex; blocks are large, for streams over a network."""
    digest = hashlib.sha256()
    while block := stream.read(_HASH_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
