"""Checkpoints: where the authors publish them, how they get onto a node, how they are read.

A checkpoint is named by model name (the published file, downloaded once per node or taken from a
mirror prefix), by path or by URI. It is read with safetensors or ``torch.load(weights_only=True)``,
never unpickled. It does not know what the tensors mean; the model files do.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError
from torch import Tensor, nn

from ntt_ray import storage
from ntt_ray.errors import NttRayError, WeightsError
from ntt_ray.storage import Storage

_DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2"
_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
HASH_BLOCK_BYTES = 8 << 20
SHOWN_DIFFERENCES = 5


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint as its authors publish it; `sha256` is None where no digest is known to us."""

    url: str
    sha256: str | None

    @property
    def file_name(self) -> str:
        """Name in the cache and below a mirror prefix."""
        return self.url.rsplit("/", 1)[1]


def _dinov2(size: str, digest: str | None, registers: str = "") -> PublishedFile:
    base = f"dinov2_vit{size}14"
    return PublishedFile(f"{_DINOV2_URL}/{base}/{base}{registers}_pretrain.pth", digest)


# Digests: as recorded independently by several public projects that pin these files.
PUBLISHED: Mapping[str, PublishedFile] = {
    "dinov2_vits14": _dinov2(
        "s", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"
    ),
    "dinov2_vitb14": _dinov2(
        "b", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"
    ),
    "dinov2_vitl14": _dinov2(
        "l", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
    ),
    "dinov2_vitg14": _dinov2("g", None),
    "dinov2_vits14_reg": _dinov2(
        "s", "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb", "_reg4"
    ),
    "dinov2_vitb14_reg": _dinov2(
        "b", "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71", "_reg4"
    ),
    "dinov2_vitl14_reg": _dinov2(
        "l", "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51", "_reg4"
    ),
    "dinov2_vitg14_reg": _dinov2("g", None, "_reg4"),
    "sam2_hiera_t": PublishedFile(
        f"{_SAM2_URL}/072824/sam2_hiera_tiny.pt",
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    ),
    "sam2_hiera_s": PublishedFile(
        f"{_SAM2_URL}/072824/sam2_hiera_small.pt",
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    "sam2_hiera_b+": PublishedFile(
        f"{_SAM2_URL}/072824/sam2_hiera_base_plus.pt",
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    "sam2_hiera_l": PublishedFile(
        f"{_SAM2_URL}/072824/sam2_hiera_large.pt",
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    ),
    "sam2.1_hiera_t": PublishedFile(
        f"{_SAM2_URL}/092824/sam2.1_hiera_tiny.pt",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    "sam2.1_hiera_s": PublishedFile(
        f"{_SAM2_URL}/092824/sam2.1_hiera_small.pt",
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    "sam2.1_hiera_b+": PublishedFile(
        f"{_SAM2_URL}/092824/sam2.1_hiera_base_plus.pt",
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    "sam2.1_hiera_l": PublishedFile(
        f"{_SAM2_URL}/092824/sam2.1_hiera_large.pt",
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
}
# Small weights that come with the package, see ntt_ray/demo/weights. For the example only.
BUNDLED: Mapping[str, str] = {
    "dinov2_demo": "dinov2_demo.safetensors",
    "sam2_demo": "sam2_demo.safetensors",
}


def bundled_file(file_name: str) -> Path:
    """Path of a file that comes with the package, checked against its recorded digest.

    Raises:
        WeightsError: missing or changed since it was recorded.
    """
    folder = Path(str(resources.files("ntt_ray"))) / "demo" / "weights"
    lines = (folder / "SHA256SUMS").read_text(encoding="ascii").split("\n")
    recorded = {name: digest for digest, name in (line.split() for line in lines if line)}
    path = folder / file_name
    if not path.is_file() or file_digest(path) != recorded.get(file_name):
        raise WeightsError(f"{path}: missing or damaged; install the package again")
    return path


def cache_dir() -> Path:
    """Where downloaded checkpoints are kept: ``$NTT_RAY_CACHE`` or ``~/.cache/ntt-ray``."""
    root = os.environ.get("NTT_RAY_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "ntt-ray"


def local_checkpoint(
    name: str, checkpoint: str | None, *, mirror: str | None, store: Storage
) -> Path:
    """Path of the checkpoint on this node, fetched into the cache first when it is remote.

    Args:
        name: model name, used when `checkpoint` is None.
        checkpoint: path or URI, or None for the authors' published file (or the bundled one).
        mirror: prefix that holds the published files, asked instead of the authors' server.
        store: access to files.

    Raises:
        WeightsError: not there, not to be had, or of another digest than published.
    """
    if checkpoint is not None and not storage.is_uri(checkpoint):
        path = Path(checkpoint)
        if not path.is_file():
            raise WeightsError(f"{checkpoint}: no such checkpoint file")
        return path
    if checkpoint is not None:
        return _cached(checkpoint, None, store)
    if name in BUNDLED:
        return bundled_file(BUNDLED[name])
    published = PUBLISHED[name]
    uri = storage.join(mirror, published.file_name) if mirror else published.url
    return _cached(uri, published.sha256, store)


def _cached(uri: str, sha256: str | None, store: Storage) -> Path:
    """Download once per node: a lock against the other actors, a temporary name, a digest check."""
    tag = hashlib.sha256(uri.encode()).hexdigest()[:12]
    target = cache_dir() / f"{tag}-{uri.rsplit('/', 1)[1]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_file():
            return target
        incoming = target.with_name(target.name + ".incoming")
        try:
            store.download(uri, incoming)
        except (FileNotFoundError, NttRayError) as error:
            raise WeightsError(
                f"{storage.redact(uri)}: the checkpoint cannot be fetched ({error}). Name a file "
                "with models.<model>.checkpoint, or a prefix that holds it with models.mirror"
            ) from None
        if sha256 is not None and (found := file_digest(incoming)) != sha256:
            incoming.unlink()
            raise WeightsError(
                f"{storage.redact(uri)}: damaged or another file; its SHA-256 is {found}, "
                f"published is {sha256}"
            )
        os.replace(incoming, target)
    return target


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file onto the CPU.

    A ``.pt`` file that holds ``{"model": tensors}``, as SAM2's do, is unwrapped.

    Raises:
        WeightsError: not a checkpoint, damaged, or one that would run code when loaded.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it is not a plain file of tensors "
            f"({str(error).splitlines()[0]}); only tensors are loaded, never code"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, zipfile.BadZipFile) as e:
        raise WeightsError(f"{path}: not a readable checkpoint ({e})") from None
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise WeightsError(f"{path}: holds something else than named tensors")
    return loaded


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a model; every key and shape must fit.

    Raises:
        WeightsError: with the first differences, and what the file seems to be.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    differences = [
        *(f"missing: {key} {list(expected[key])}" for key in expected if key not in found),
        *(f"unexpected: {key} {list(found[key])}" for key in found if key not in expected),
        *(
            f"other shape: {key} is {list(found[key])}, the model has {list(expected[key])}"
            for key in expected
            if key in found and found[key] != expected[key]
        ),
    ]
    if differences:
        shown = "\n".join(f"  - {line}" for line in differences[:SHOWN_DIFFERENCES])
        rest = len(differences) - SHOWN_DIFFERENCES
        more = f"\n  and {rest} more" if rest > 0 else ""
        raise WeightsError(
            f"{path} does not fit the model: {len(differences)} of {len(expected)} tensors "
            f"differ\n{shown}{more}"
        )
    model.load_state_dict(dict(tensors), strict=True)
