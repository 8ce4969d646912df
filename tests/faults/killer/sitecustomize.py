"""On the path of a test's processes: an image file that begins with KILL ends its worker.

Stands for a native decoder or a driver that crashes on one image.
"""

import os
import signal
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder


class _PatchOnImport(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "ntt_ray.images":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def patched(module):
            load(module)
            decode = module.decode_square

            def decode_or_die(data, *arguments):
                if data.startswith(b"KILL"):
                    os.kill(os.getpid(), signal.SIGKILL)
                return decode(data, *arguments)

            module.decode_square = decode_or_die

        spec.loader.exec_module = patched
        return spec


sys.meta_path.insert(0, _PatchOnImport())
