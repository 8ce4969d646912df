"""A made-up reference with its picture, for the page of references; its name is hostile."""

import numpy as np

from ntt_ray.masks import encode_mask
from ntt_ray.references.page import render_reference

IMAGE = np.zeros((80, 100, 3), dtype=np.uint8)
MASK = np.zeros((80, 100), dtype=bool)
MASK[30:50, 40:70] = True
HOSTILE = '"><script>alert(1)</script>'


def picture(number, category_id, source, note=""):
    return render_reference(
        IMAGE,
        (40.0, 30.0, 30.0, 20.0),
        encode_mask(MASK),
        {"id": number, "category_id": category_id},
        file_name=HOSTILE,
        source=source,
        note=note,
    )
