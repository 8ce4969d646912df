"""All benchmarks by name."""

from __future__ import annotations

from types import MappingProxyType

from ntt_ray.errors import InputError, did_you_mean
from ntt_ray.reproduce.cd_fsod import CD_FSOD
from ntt_ray.reproduce.coco import COCO_20I, COCO_NOVEL
from ntt_ray.reproduce.declaration import Part, Protocol
from ntt_ray.reproduce.isaid import ISAID
from ntt_ray.reproduce.lvis import LVIS_MINIVAL
from ntt_ray.reproduce.voc import VOC

PROTOCOLS = MappingProxyType(
    {p.name: p for p in (COCO_NOVEL, VOC, LVIS_MINIVAL, COCO_20I, CD_FSOD, ISAID)}
)


def find_protocol(name: str) -> Protocol:
    """The benchmark of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PROTOCOLS:
        hint = did_you_mean(name, PROTOCOLS, f"there are {', '.join(PROTOCOLS)}")
        raise InputError(f"unknown protocol {name!r}{hint}")
    return PROTOCOLS[name]


def find_parts(protocol: Protocol, names: list[str]) -> tuple[Part, ...]:
    """The parts of those names, all of them for none.

    Raises:
        InputError: a name is unknown.
    """
    known = {part.name: part for part in protocol.parts}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, f"there are {', '.join(known)}")
            raise InputError(f"{protocol.name} has no part {name!r}{hint}")
    return tuple(known[name] for name in names) or protocol.parts
