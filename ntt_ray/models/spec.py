"""From settings to loaded models, in whatever process needs them.

It holds plain values only, so that a `ModelSpec` travels to every worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ntt_ray.config import ModelsConfig
from ntt_ray.errors import InputError
from ntt_ray.models.cache import local_checkpoint
from ntt_ray.models.published import file_digest
from ntt_ray.storage import Storage

if TYPE_CHECKING:
    import torch

    from ntt_ray.models.compilation import CompileOptions
    from ntt_ray.models.interfaces import Proposer
    from ntt_ray.models.sam2.boxes import Sam2BoxPrompter
    from ntt_ray.models.vit import VitEncoder
    from ntt_ray.settings import RefinementSettings


@dataclass(frozen=True)
class ModelSpec:
    """How to load both models: the `models` settings with device and precision decided.

    Attributes:
        settings: the checked `models` settings.
        device: where the models run, ``cpu`` or ``cuda``.
        precision: precision of weights and activations, ``fp32`` or ``bf16``.
        store: access to remote checkpoints.
    """

    settings: ModelsConfig
    device: str = "cpu"
    precision: str = "fp32"
    store: Storage = field(default_factory=Storage)

    @classmethod
    def here(cls, settings: ModelsConfig, store: Storage) -> ModelSpec:
        """The models in this process: ``auto`` is decided by the GPU that torch sees, if any.

        Raises:
            InputError: the settings want a GPU and there is none.
        """
        import torch

        has_gpu = torch.cuda.is_available()
        if settings.device == "cuda" and not has_gpu:
            raise InputError("models.device: cuda, but there is no GPU here; use cpu or auto")
        on_gpu, precision = has_gpu and settings.device != "cpu", settings.precision
        if precision == "auto":
            has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if has_bf16 else "fp32"
        return cls(settings, "cuda" if on_gpu else "cpu", precision, store)

    def uncompiled(self) -> ModelSpec:
        """This spec without compiling, which is not worth it for a few images."""
        return replace(self, settings=self.settings.model_copy(update={"compile": False}))

    def set_up_torch(self) -> None:
        """Keep the number of cores, and shortcuts of the GPU, out of the results of a task."""
        import torch

        if self.device == "cpu":
            torch.set_num_threads(1)
        use_full_precision()

    def checkpoint(self, which: Literal["encoder", "proposer"]) -> Path:
        """The checkpoint of one of the models on this node."""
        block = getattr(self.settings, which)
        return local_checkpoint(
            block.name, block.checkpoint, mirror=self.settings.mirror, store=self.store
        )

    def _proposer_config(self) -> Path | None:
        config = self.settings.proposer.config
        return local_checkpoint("", config, mirror=None, store=self.store) if config else None

    def _dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def _compile_options(self) -> CompileOptions:
        from ntt_ray.models.compilation import CompileOptions

        return CompileOptions(cuda_graphs=self.settings.compile == "cuda-graphs")

    def load_encoder(self) -> VitEncoder:
        """The encoder, ready to run."""
        from ntt_ray.models.aspect import AspectEncoder
        from ntt_ray.models.dinov2 import Dinov2Encoder
        from ntt_ray.models.dinov3 import Dinov3Encoder

        use_full_precision()
        load = Dinov3Encoder.load if self.settings.encoder.is_dinov3 else Dinov2Encoder.load
        if self.settings.encoder.keep_aspect:
            load = AspectEncoder.load
        encoder: VitEncoder = load(
            self.checkpoint("encoder"),
            name=self.settings.encoder.name,
            image_size=self.settings.encoder.image_size,
            architecture=self.settings.encoder.architecture,
            device=self.device,
            dtype=self._dtype(),
            positional_debias=self.settings.encoder.positional_debias,
        )
        if self.settings.compile:
            encoder.compile(self._compile_options())
        return encoder

    def load_proposer(
        self,
        points_per_side: int,
        all_outputs: bool = False,
        refinement: RefinementSettings | None = None,
    ) -> Proposer:
        """The proposer, ready to run; of the arguments see `settings.MethodSettings`."""
        from ntt_ray.models.sam2.proposer import Sam2Proposer

        use_full_precision()
        proposer = Sam2Proposer.load(
            self.checkpoint("proposer"),
            name=self.settings.proposer.name,
            image_size=self.settings.proposer.image_size,
            points_per_side=points_per_side,
            config=self._proposer_config(),
            device=self.device,
            dtype=self._dtype(),
            all_outputs=all_outputs,
            refinement=refinement,
        )
        if self.settings.compile:
            proposer.compile(self._compile_options())
        return proposer

    def load_box_prompter(self) -> Sam2BoxPrompter:
        """The proposer's model, ready to be asked with boxes; always in float32."""
        from ntt_ray.models.sam2.boxes import Sam2BoxPrompter
        from ntt_ray.models.sam2.proposer import load_sam2

        use_full_precision()
        block, config = self.settings.proposer, self._proposer_config()
        model = load_sam2(self.checkpoint("proposer"), block.name, block.image_size, config)
        return Sam2BoxPrompter(model, self.device)

    def checked_digests(self) -> dict[str, str]:
        """SHA-256 of both checkpoints in hex, after both were found to fit their models.

        The models are built on the CPU for this.

        Returns:
            Digests by name: ``encoder``, ``proposer``, and ``proposer_config`` where the proposer
            has a YAML of its own.

        Raises:
            WeightsError: a checkpoint is missing, damaged or does not fit its model.
            ConfigError: the encoder says less of places than is to be taken out of its features.
        """
        on_cpu = replace(self.uncompiled(), device="cpu", precision="fp32")
        on_cpu.load_encoder()
        on_cpu.load_proposer(points_per_side=1)
        files = {
            "encoder": self.checkpoint("encoder"),
            "proposer": self.checkpoint("proposer"),
            "proposer_config": self._proposer_config(),
        }
        return {name: file_digest(path) for name, path in files.items() if path is not None}

    def encoder_digest(self) -> str:
        """SHA-256 of the encoder's checkpoint in hex.

        Raises:
            WeightsError: it is missing or damaged.
        """
        return file_digest(self.checkpoint("encoder"))

    def encoder_record(self, digest: str) -> dict[str, Any]:
        """What identifies the encoder in a memory bank."""
        encoder = self.settings.encoder
        record = {"name": encoder.name, "image_size": encoder.image_size, "checkpoint": digest}
        if encoder.architecture is not None:  # the number of heads is not in a checkpoint
            record["architecture"] = encoder.architecture.model_dump()
        return record | encoder.options()


def use_full_precision() -> None:
    """Forbid torch what it may do on a GPU instead of what it is asked to do, in this process.

    TF32 has 10 bits where float32 has 23; torch takes it for convolutions unless told not to.
    Products of bfloat16 may add up partial sums in bfloat16. Whatever loads a model calls this, so
    that a bank, a calibration, masks from boxes and labels are computed alike.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
