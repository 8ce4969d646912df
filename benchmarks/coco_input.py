"""What reading a COCO file of train2017's size takes: CPU seconds and the most memory.

    python -m benchmarks.coco_input [--annotations 860000]

It writes the file below the temporary folder, checks it as a ground truth, as references without
their masks, and as an image list, each in a process of its own, and deletes it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES_PER_ANNOTATION = 118_000 / 860_000
POINTS = (12, 20, 23, 30)  # of a polygon; about 450 MB with 860,000 annotations


def write_file(path: Path, annotations: int) -> None:
    """Write a made-up file, the same for the same number."""
    stream = random.Random(0)
    images = max(1, round(annotations * IMAGES_PER_ANNOTATION))
    host = "http://images.cocodataset.org/train2017"
    with path.open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for number in range(images):
            name = f"{number:012d}.jpg"
            image = {"license": 3, "file_name": name, "coco_url": f"{host}/{name}", "height": 480,
                     "width": 640, "date_captured": "2013-11-14 11:18", "id": number}  # fmt: skip
            file.write((", " if number else "") + json.dumps(image))
        file.write('], "annotations": [')
        for number in range(annotations):
            polygon = [round(stream.uniform(0, 480), 2) for _ in range(2 * stream.choice(POINTS))]
            box = [round(stream.uniform(0, 200), 2) for _ in range(4)]
            annotation = {"segmentation": [polygon], "area": 9.5, "iscrowd": 0, "bbox": box,
                          "image_id": stream.randrange(images), "category_id": 1 + number % 80,
                          "id": number}  # fmt: skip
            file.write((", " if number else "") + json.dumps(annotation))
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def read_as(use: str, path: str) -> None:
    """Read a file for one use, and print what it took."""
    from ntt_ray.coco_input import ListedImage, checked_truth, read_coco
    from ntt_ray.references.validate import choose_annotations
    from ntt_ray.storage import Storage

    begun = time.process_time()
    coco = read_coco(path, Storage())
    if use == "truth":
        checked_truth(coco)
    elif use == "sample":
        choose_annotations(coco, shots=30)
    else:
        coco.items("images", ListedImage)
    seconds = time.process_time() - begun
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{use}: {seconds:.1f} CPU seconds, {peak_gb:.2f} GB at most")


def main() -> None:
    """Write the file, read it for each use, delete it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--annotations", type=int, default=860_000, help="how many to write")
    annotations = parser.parse_args().annotations
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_file(path, annotations)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {annotations} annotations")
        for use in ("truth", "sample", "images"):
            code = f"from benchmarks.coco_input import read_as; read_as({use!r}, {str(path)!r})"
            subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main()
