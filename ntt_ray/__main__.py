"""``python -m ntt_ray`` is the command ``ntt-ray``."""

from ntt_ray.cli import main

if __name__ == "__main__":
    main()
