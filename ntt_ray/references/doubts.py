"""What is odd about references, though they can be used: said once, by class, with counts.

Masks and boxes only; the images are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from ntt_ray.masks import decode_rle, rle_area, rle_bbox_xywh
from ntt_ray.records import Reference, ReferenceSet

BOX_IOU = 0.5  # below it a box is far from that of its mask
_NAMED = 3  # annotations of a class that are named


def doubts(references: ReferenceSet) -> list[str]:
    """Warnings about the references of a file, a line for each class and kind.

    Masks that are nothing but their box are of tools that save boxes as polygons; what counts of a
    rectangular class is that most are. A box far from its mask's decides the crop (METHOD 6). A
    mask that covers most of its image with all corners is probably what is around the object.
    """
    lines = []
    for label in references.classes:
        own = references.of_class(label.category_id)
        for is_odd, share, text in _KINDS:
            odd = [r.annotation_id for r in own if is_odd(r)]
            if odd and len(odd) > share * len(own):
                named = ", ".join(map(str, odd[:_NAMED])) + (" ..." if len(odd) > _NAMED else "")
                lines.append(
                    f"class {label.name!r}: {len(odd)} of {len(own)} {text} (annotations {named})"
                )
    return lines


def _is_its_box(reference: Reference) -> bool:
    _, _, width, height = rle_bbox_xywh(reference.rle)
    return rle_area(reference.rle) == width * height


def _is_far_from_its_box(reference: Reference) -> bool:
    x, y, width, height = reference.bbox_xywh
    left, top, mask_width, mask_height = rle_bbox_xywh(reference.rle)
    inner_width = min(x + width, left + mask_width) - max(x, left)
    inner_height = min(y + height, top + mask_height) - max(y, top)
    common = max(0.0, inner_width) * max(0.0, inner_height)
    return common < BOX_IOU * (width * height + mask_width * mask_height - common)


def _is_inverted(reference: Reference) -> bool:
    height, width = reference.size_hw
    if 2 * rle_area(reference.rle) <= height * width or rle_area(reference.rle) == height * width:
        return False
    mask = decode_rle(reference.rle)
    return bool(mask[0, 0] and mask[0, -1] and mask[-1, 0] and mask[-1, -1])


_KINDS: tuple[tuple[Callable[[Reference], bool], float, str], ...] = (
    (
        _is_its_box,
        0.5,
        "masks are just their boxes; let SAM2 make masks of them: ntt-ray references from-boxes "
        "CONFIG --replace --output REFS.json",
    ),
    (
        _is_far_from_its_box,
        0.0,
        f"boxes are far from their masks' (IoU below {BOX_IOU}), and the box decides what is cut "
        "out around an object; correct bbox",
    ),
    (
        _is_inverted,
        0.0,
        "masks cover most of the image and all its corners, as if object and background were "
        "exchanged",
    ),
)
