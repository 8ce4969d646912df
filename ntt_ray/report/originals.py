"""Originals of a report's images: a link where a reader's browser can follow one, and a sharp part.

It reads no files, and gives no link that would carry credentials.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote

from ntt_ray import storage
from ntt_ray.evaluate.matching import Matches
from ntt_ray.images import RgbImage
from ntt_ray.pages.pictures import UNITS_PER_PX, Thumbnail, thumbnail
from ntt_ray.records import Detection, ImageLabels
from ntt_ray.references.crops import crop_window

CONTEXT = 0.6  # of the object's box, around it
_SIDE_PX = 200
_MIN_GAIN = 1.5  # a part that is hardly sharper than the picture is not worth its bytes


@dataclass(frozen=True, slots=True)
class SharpPart:
    """The part of a picture around one object, with more pixels than the picture has there.

    Attributes:
        x: its left border in units of the picture's paths.
        y: its upper border in the same units.
        width: its width in the same units.
        height: its height in the same units.
        data_uri: the encoded pixels.
    """

    x: float
    y: float
    width: float
    height: float
    data_uri: str


def link_to(uri: str, output: str) -> str:
    """Where the page of a run finds an image: a relative path or a web address; else empty.

    Args:
        uri: path or URI of the image.
        output: folder or URI prefix of the run, in which the page lies. A page in a store has no
            way to a file on somebody's disk.

    A signed web address gives no link: whoever has the page would have the signature.
    """
    if uri.lower().startswith(("http://", "https://")):
        return uri if storage.redact(uri) == uri else ""
    path, folder = storage.absolute(uri), storage.absolute(output)
    if storage.is_uri(path) or storage.is_uri(folder):
        return ""
    return "./" + quote(os.fsencode(os.path.relpath(path, folder)))


def sharp_part(
    labels: ImageLabels,
    matches: Matches | None,
    image_rgb: RgbImage,
    picture: Thumbnail,
    max_bytes: int,
) -> SharpPart | None:
    """The object that deserves a second look, from the full picture.

    That is the wrong detection with the highest score, or where none is known to be wrong the
    detection with the highest score.

    Args:
        labels: what was found in the image.
        matches: what of that is right; None where it is not known.
        image_rgb: uint8 ``(h, w, 3)``, the whole image.
        picture: the small picture of it on the page.
        max_bytes: lower the JPEG quality to stay below this, as far as that goes; 0 for no part.

    Returns:
        None where there is no detection, or the picture shows it as sharply.
    """
    if not labels.detections or not max_bytes:
        return None
    found = _to_look_at(labels, matches)
    size_hw = (image_rgb.shape[0], image_rgb.shape[1])
    x1, y1, x2, y2 = crop_window(found.bbox_xywh, size_hw, CONTEXT)
    if x2 <= x1 or y2 <= y1:
        return None
    part = thumbnail(image_rgb[y1:y2, x1:x2], _SIDE_PX, max_bytes)
    if part.scale < _MIN_GAIN * picture.scale:
        return None
    unit = picture.scale * UNITS_PER_PX
    return SharpPart(x1 * unit, y1 * unit, (x2 - x1) * unit, (y2 - y1) * unit, part.data_uri)


def _to_look_at(labels: ImageLabels, matches: Matches | None) -> Detection:
    right = matches.right if matches is not None else (None,) * len(labels.detections)
    wrong = [d for d, is_right in zip(labels.detections, right) if is_right is False]
    return max(wrong or labels.detections, key=lambda d: d.score)
