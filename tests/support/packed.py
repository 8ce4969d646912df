"""The same images in every form that a run takes them in."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Images = Mapping[str, bytes]  # file names, sorted, and what the files hold
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PARTS = 2  # files of a data set
ROWS_PER_GROUP = 100


def write_folder(images: Images, folder: Path) -> str:
    """Loose files."""
    for name, data in images.items():
        path = folder / "loose" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder / "loose")


def write_tar(images: Images, folder: Path, name: str = "a.tar") -> str:
    """A tar, or a packed one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar:
        for path, data in images.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(folder / name)


def write_zip(images: Images, folder: Path) -> str:
    """A zip whose members are deflated."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in images.items():
            archive.writestr(name, data)
    return str(folder / "a.zip")


def write_parquet(images: Images, folder: Path) -> str:
    """One Parquet file with a column of bytes, which have no names."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"jpg": pa.array(list(images.values()), pa.binary())})
    pq.write_table(table, folder / "a.parquet", row_group_size=ROWS_PER_GROUP)
    return str(folder / "a.parquet")


def write_hub_folder(images: Images, folder: Path) -> str:
    """A folder as `datasets` pushes it: Parquet files with structs of bytes and path."""
    (folder / "set" / "data").mkdir(parents=True)
    rows = [{"bytes": data, "path": name} for name, data in images.items()]
    size = -(-len(rows) // PARTS)
    for part in range(PARTS):
        table = pa.table({"image": pa.array(rows[part * size : (part + 1) * size], STRUCT)})
        name = f"train-{part:05d}-of-{PARTS:05d}.parquet"
        pq.write_table(table, folder / "set" / "data" / name, row_group_size=ROWS_PER_GROUP)
    return str(folder / "set")


FORMS: dict[str, Callable[[Images, Path], str]] = {
    "loose files": write_folder,
    "tar": write_tar,
    "tar.gz": lambda images, folder: write_tar(images, folder, "b.tar.gz"),
    "zip": write_zip,
    "Parquet": write_parquet,
    "Hugging Face folder": write_hub_folder,
}
