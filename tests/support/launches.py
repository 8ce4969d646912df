"""What a device would be asked, counted on tensors without content (``device="meta"``).

Whatever the host would have to know of a tensor's content cannot be asked of such tensors: code
that would wait for the device fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Launches(TorchDispatchMode):
    """Counts operations that would be launched: all but views and the making of empty tensors.

    Attributes:
        operations: how often each was called.
        largest: bytes of the largest tensor that came of one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        returned = [item.alias_info for item in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returned)
        if not is_view and not any(word in function._schema.name for word in ("empty", "view")):
            self.operations[function._schema.name.removeprefix("aten::")] += 1
            for tensor in tree_leaves(found):
                if isinstance(tensor, torch.Tensor):
                    self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return found
