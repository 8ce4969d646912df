"""``ray job submit -- python jobs/rematch.py CONFIG``: the command ``ntt-ray rematch``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ntt_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "rematch")
    main()
