"""The one strict, frozen config tree: YAML and ``--set`` in, checked settings out.

All problems are reported at once, each by its dotted path. The blocks `decode` and `method` are the
records of `settings`, which the method takes as they are; the method never sees the tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from ntt_ray import storage
from ntt_ray.errors import ConfigError, did_you_mean
from ntt_ray.settings import (
    EMBEDDING_COLUMNS,
    AnnotatedOrientation,
    BoxSettings,
    DecodeSettings,
    MethodSettings,
    ProposalSettings,
    Settings,
    Share,
    TableColumns,
)
from ntt_ray.yaml_input import MAX_BYTES, MAX_DEPTH, parse_yaml, plain_problems

Profile = Literal[
    "coco", "coco-results", "coco-polygon", "yolo-seg", "labelstudio", "parquet", "semantic-png",
    "webdataset", "hf",
]  # fmt: skip
# channels of a patch feature by the name of the encoder
ENCODER_CHANNELS: Mapping[str, int] = {
    **dict.fromkeys(("dinov2_vits14", "dinov2_vits14_reg"), 384),
    **dict.fromkeys(("dinov2_vitb14", "dinov2_vitb14_reg"), 768),
    **dict.fromkeys(("dinov2_vitl14", "dinov2_vitl14_reg"), 1024),
    **dict.fromkeys(("dinov2_vitg14", "dinov2_vitg14_reg"), 1536),
    "dinov2_demo": 192,
    **dict.fromkeys(("dinov3_vits16", "dinov3_vits16plus"), 384),
    "dinov3_vitb16": 768,
    "dinov3_vitl16": 1024,
    "dinov3_vith16plus": 1280,
    "dinov3_vit7b16": 4096,
}
ENCODER_NAMES = tuple(ENCODER_CHANNELS)
PROPOSER_NAMES = (
    *(f"{family}_hiera_{size}" for family in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")),
    "sam2_demo",
)
DEMO_NAMES = ("dinov2_demo", "sam2_demo")  # they know drawn objects only
PLACES_NAMED = 3  # of a key that stands elsewhere; one with more says nothing
DINOV3_LICENCE = (
    "DINOv3's weights are under the DINOv3 License, which is not an open-source licence: "
    "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
)
_SECRET = re.compile(
    r"secret|token|password|passwd|key|credential|connection_string|sas|auth", re.IGNORECASE
)

# a URI, or a local path, which becomes absolute so that it means the same in every process
Location = Annotated[str, AfterValidator(storage.absolute)]
# empty would be the current folder
Place = Annotated[str, Field(min_length=1), AfterValidator(storage.absolute)]


class NegativesConfig(Settings):
    """Annotated examples: a COCO json with masks and the folder of its images.

    `orientation` says how the images were seen when they were annotated: ``upright``, as nearly
    every tool shows them, or ``stored``, without the turn that EXIF asks for. With ``auto`` the
    size in the file decides, and what it cannot decide is refused. `crowds` says what annotations
    marked ``iscrowd: 1`` are: regions of many objects, which are ignored, or ``objects``.
    """

    annotations: Location
    image_root: Location | None = None
    classes: tuple[str, ...] | None = None
    shots: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 33
    profile: Literal["paper", "plain"] = "paper"
    orientation: AnnotatedOrientation = "auto"
    crowds: Literal["ignore", "objects"] = "ignore"

    def choice(self) -> dict[str, Any]:
        """Which of the annotations become references, as keyword arguments."""
        return self.model_dump(include={"classes", "shots", "seed", "profile", "crowds"})


class BackgroundConfig(Settings):
    """What lies around the references becomes negatives; see `references.background`."""

    per_image: Annotated[int, Field(ge=1, le=100)] = 2


class ReferencesConfig(NegativesConfig):
    """Where classes come from; `extends` is a ready bank that these references are added to."""

    negatives: NegativesConfig | None = None
    background: BackgroundConfig | None = None
    extends: Location | None = None


class Architecture(Settings):
    """A DINOv2 or DINOv3 of another size than the published ones.

    Attributes:
        embed_dim: channels of a token.
        depth: number of blocks.
        num_heads: heads of each attention.
        patch_size: side of a patch in pixels.
    """

    embed_dim: Annotated[int, Field(ge=1)]
    depth: Annotated[int, Field(ge=1)]
    num_heads: Annotated[int, Field(ge=1)]
    patch_size: Annotated[int, Field(ge=1)] = 14


class EncoderConfig(Settings):
    """The DINOv2 encoder, or a DINOv3 one; a name that begins with dinov3 is one of those.

    `positional_debias` is how many directions are taken out of patch features that say where a
    patch lies and not what it shows, see `models.positions`; None takes none. It is less than the
    channels of a feature, and than the patches of an image.

    With `keep_aspect` an image is not stretched to a square: `image_size` is the long side of its
    input, and the short side is in proportion, see `models.aspect`.
    """

    name: str = "dinov2_vitl14"
    checkpoint: Location | None = None
    image_size: Annotated[int, Field(ge=14)] = 518
    architecture: Architecture | None = None
    positional_debias: Annotated[int, Field(ge=1)] | None = None
    keep_aspect: bool = False

    @model_validator(mode="after")
    def _check(self) -> EncoderConfig:
        if self.architecture is None:
            _check_name(self.name, ENCODER_NAMES)
        elif self.checkpoint is None:
            raise ValueError(".checkpoint: is needed when architecture is given")
        if self.is_dinov3 and self.checkpoint is None:
            raise ValueError(f".checkpoint: is needed; ask Meta for the file. {DINOV3_LICENCE}")
        patch = self.architecture.patch_size if self.architecture else 16 if self.is_dinov3 else 14
        if self.image_size % patch:
            near = patch * round(self.image_size / patch)
            raise ValueError(
                f".image_size: {self.image_size} is not a multiple of {patch}; take {near}"
            )
        self._check_debias((self.image_size // patch) ** 2)
        if self.keep_aspect and self.is_dinov3:
            raise ValueError(".keep_aspect: is for DINOv2, whose positions can be interpolated")
        return self

    def options(self) -> dict[str, Any]:
        """The options that are on, as identities of runs and of banks name them.

        What is off is missing, as in those that are older than the option.
        """
        return self.model_dump(include={"positional_debias", "keep_aspect"}, exclude_defaults=True)

    def _check_debias(self, patches: int) -> None:
        """Refuse what no encoder of this size can do without; the rest is refused as it loads."""
        k, architecture = self.positional_debias, self.architecture
        if k is not None and self.keep_aspect:
            raise ValueError(
                ".positional_debias: and keep_aspect exclude each other: directions of places are "
                "those of one input size. Set positional_debias to null, or keep_aspect to false"
            )
        channels = architecture.embed_dim if architecture else ENCODER_CHANNELS[self.name]
        if k is not None and k >= channels:
            raise ValueError(
                f".positional_debias: {k} of {channels} channels leave nothing of a feature; take "
                f"{channels - 1} at most"
            )
        if k is not None and k >= patches:
            raise ValueError(
                f".positional_debias: {k}: features of {patches} patches differ in "
                f"{patches - 1} directions at most"
            )

    @property
    def is_dinov3(self) -> bool:
        """Whether the name is one of DINOv3."""
        return self.name.startswith("dinov3")


class ProposerConfig(Settings):
    """The SAM2 mask proposer."""

    name: str = "sam2_hiera_l"
    checkpoint: Location | None = None
    image_size: Annotated[int, Field(ge=64)] = 1024
    config: Location | None = None

    @model_validator(mode="after")
    def _check(self) -> ProposerConfig:
        if self.config is None:
            _check_name(self.name, PROPOSER_NAMES)
        elif self.checkpoint is None:
            raise ValueError(".checkpoint: is needed when config is given")
        if self.image_size % 32:
            raise ValueError(f".image_size: {self.image_size} is not a multiple of 32")
        return self


class ModelsConfig(Settings):
    """Both models and how they are run."""

    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    proposer: ProposerConfig = Field(default_factory=ProposerConfig)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mirror: Location | None = None
    compile: bool | Literal["cuda-graphs"] = False

    @model_validator(mode="after")
    def _check(self) -> ModelsConfig:
        if self.compile and self.encoder.keep_aspect:
            raise ValueError(
                ".compile: and encoder.keep_aspect exclude each other: the network would be "
                "compiled for every size of input. Set one of both to false"
            )
        return self


class BoxesConfig(BoxSettings):
    """Where boxes come from, see `sources.boxes`, and how SAM2 is asked with them."""

    uri: Place


class ProposalsConfig(ProposalSettings):
    """What SAM2 is asked, and what is kept of its answers.

    `grid` asks it at `method.points_per_side`; `boxes` in boxes that a detector found, besides the
    grid or, with `grid` false, instead of it. A text is the `uri` of boxes.
    """

    grid: bool = True
    boxes: BoxesConfig | None = None

    @field_validator("boxes", mode="before")
    @classmethod
    def _of_uri(cls, boxes: Any) -> Any:
        return {"uri": boxes} if isinstance(boxes, str) else boxes

    @model_validator(mode="after")
    def _check(self) -> ProposalsConfig:
        if self.boxes is None and not self.grid:
            raise ValueError(".grid: false needs boxes: SAM2 would be asked nothing")
        if self.boxes is None:
            return self
        if self.grid and self.boxes.score_power is not None:
            raise ValueError(
                ".boxes.score_power: needs grid: false, for masks of the grid have no such score"
            )
        if self.keep:
            raise ValueError(
                ".keep: nothing is kept of boxes yet; set keep to false, or boxes to null"
            )
        return self


class ActorsRange(Settings):
    """Bounds of a pool that grows and shrinks with the work; `max` null: with the cluster.

    `share` bounds it by what the cluster holds as the run begins.
    """

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=1)] | None = None
    share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> ActorsRange:
        if self.max is not None and self.max < self.min:
            raise ValueError(f".max: {self.max} is less than min, {self.min}")
        return self


class JobConfig(Settings):
    """How the work is divided and run; only `images_per_unit` and `unit_mb` name outputs.

    With ``auto`` a unit has a 64th of all images, at least 4 and at most 256, as the run begins. A
    unit ends before its images have more than `unit_mb` MiB, where their sizes are known.
    """

    images_per_unit: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    unit_mb: Annotated[int, Field(ge=1, le=100_000)] = 128
    actors: Literal["auto"] | Annotated[int, Field(ge=1)] | ActorsRange = "auto"
    gpus_per_actor: Annotated[float, Field(gt=0.0)] = 1.0
    accelerator: str | None = None
    cpus_per_actor: Annotated[float, Field(gt=0.0)] = 4.0
    image_timeout_s: Annotated[float, Field(gt=0.0)] = 60.0
    patience_s: Annotated[float, Field(ge=0.0)] = 600.0
    hang_s: Annotated[float, Field(gt=0.0)] = 300.0
    max_failed_fraction: Share = 0.01
    max_unreachable_fraction: Share = 0.0
    stop_on_drift: bool = False
    strict_versions: bool = False

    @property
    def unit_bytes(self) -> int:
        """`unit_mb` in bytes."""
        return self.unit_mb << 20

    @model_validator(mode="after")
    def _check(self) -> JobConfig:
        if self.gpus_per_actor > 1 and not self.gpus_per_actor.is_integer():
            raise ValueError(f".gpus_per_actor: {self.gpus_per_actor:g}: above 1 only whole GPUs")
        return self


class MergeConfig(Settings):
    """What the merged files hold.

    `profiles` are the formats; None: ``coco``, and with a `ground_truth` also ``coco-results``,
    which it is compared with (`Config.profiles`). `images_per_file` is how many images a file holds
    at most, where it holds many; None: all.
    `image_url` is the address of an image in Label Studio's tasks, a text with ``{file_name}``,
    escaped as in a URL, or ``{uri}``. `val_share` is the share of the images in the list
    that YOLO validates on, drawn with `split_seed`; 0 validates on those it trains on.
    """

    min_score: Share = 0.4
    calibration: Location | None = None
    profiles: tuple[Profile, ...] | None = None
    classes: tuple[str, ...] | None = None
    rename: dict[str, str] = Field(default_factory=dict)
    images_per_file: Annotated[int, Field(ge=1)] | None = None
    image_url: str | None = None
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    split_seed: Annotated[int, Field(ge=0)] = 33

    @field_validator("image_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"[^{}]*\{(file_name|uri)\}[^{}]*", url):
            raise ValueError("must have {file_name} or {uri} in it, once, and no other braces")
        return url

    @field_validator("profiles")
    @classmethod
    def _check(cls, profiles: tuple[Profile, ...] | None) -> tuple[Profile, ...] | None:
        if profiles is not None and len(set(profiles)) < max(1, len(profiles)):
            raise ValueError(f"name one or more of {', '.join(get_args(Profile))}, each once")
        return profiles


class Config(Settings):
    """A whole run."""

    images: Place
    image_root: Location | None = None
    images_allow_local: bool = False
    columns: TableColumns = Field(default_factory=TableColumns)
    output: Place
    storage_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    references: ReferencesConfig | None = None
    bank: Location | None = None
    models: ModelsConfig = Field(default_factory=ModelsConfig)
    decode: DecodeSettings = Field(default_factory=DecodeSettings)
    method: MethodSettings = Field(default_factory=MethodSettings)
    proposals: ProposalsConfig = Field(default_factory=ProposalsConfig)
    job: JobConfig = Field(default_factory=JobConfig)
    merge: MergeConfig = Field(default_factory=MergeConfig)
    ground_truth: Location | None = None
    evaluator: Literal["pycocotools", "faster-coco-eval"] = "pycocotools"

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The formats that a merge writes: `merge.profiles`, or those that are needed."""
        needed: tuple[Profile, ...] = ("coco",)
        if self.ground_truth is not None:
            needed = ("coco", "coco-results")
        return needed if self.merge.profiles is None else self.merge.profiles

    @model_validator(mode="after")
    def _check(self) -> Config:
        if (self.references is None) == (self.bank is None):
            raise ValueError("give either references or bank (exactly one of them)")
        reasons = self.method.unlike_kept() if self.proposals.keep else {}
        for name, why in reasons.items():
            raise ValueError(
                f"proposals.keep and method.{name} exclude each other: {why}. Set method.{name} to "
                "null, or proposals.keep to false"
            )
        if self.proposals.boxes is not None:
            for name in ("prompts", "tiles"):
                if getattr(self.method, name) is not None:
                    raise ValueError(
                        f"proposals.boxes and method.{name} exclude each other; set one of both to "
                        "null"
                    )
        if self.proposals.embeddings and not self.proposals.keep:
            raise ValueError(
                "proposals.embeddings: embeddings are made of what is kept; set proposals.keep to "
                "true"
            )
        taken = EMBEDDING_COLUMNS.intersection(self.columns.keep)
        if self.proposals.embeddings and taken:
            raise ValueError(
                "columns.keep: with proposals.embeddings shards have columns of the name "
                f"{', '.join(sorted(taken))}; rename it in the table"
            )
        return self

    def refuse_boxes(self, what: str, why: str) -> None:
        """Refuse boxes where they cannot be asked.

        Raises:
            ConfigError: the config names boxes.
        """
        if self.proposals.boxes is not None:
            problem = f"{why}; set proposals.boxes to null and proposals.grid to true"
            raise ConfigError(f"{what} takes no boxes:", [f"proposals.boxes: {problem}"])

    def resolved(self) -> dict[str, Any]:
        """All settings as plain data for the run record; secrets are replaced by ``***``."""
        data = self.model_dump(mode="json")
        shown = {k: _redacted(v, named=k == "storage_options") for k, v in data.items()}
        if shown["merge"]["image_url"] != self.merge.image_url:  # a pattern that is not whole
            shown["merge"]["image_url"] = "***"
        return shown


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply ``--set a.b=value`` overrides, check everything.

    Local paths become absolute (relative to the current directory).

    Raises:
        ConfigError: with every problem found, each by its dotted path.
    """
    try:
        with Path(path).open("rb") as file:
            data = parse_yaml(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file", []) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as YAML", [str(error)]) from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a config", ["the top level must be key: value pairs"])
    return build_config(data, overrides, title=f"{path} has problems:")


def build_config(
    data: Mapping[str, Any], overrides: Sequence[str] = (), title: str = "the config has problems:"
) -> Config:
    """Check plain data; see `load_config`."""
    merged, problems = _with_overrides(dict(data), overrides)
    if unusable := plain_problems(merged):
        raise ConfigError(title, problems + unusable)
    try:
        config = Config.model_validate(_tuples(merged))
    except ValidationError as error:
        found = [_problem(e) for e in _of_best_alternatives(error.errors())]
        raise ConfigError(title, problems + found) from None
    if problems:
        raise ConfigError(title, problems)
    return config


def _with_overrides(
    data: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    problems = []
    for text in overrides:
        path, equals, raw = text.partition("=")
        if not equals or not path.strip():
            problems.append(f"--set {text}: write it as --set a.b=value")
            continue
        if path.count(".") >= MAX_DEPTH:
            problems.append(f"--set {path[:40]}...: no setting lies so deep")
            continue
        try:
            value = parse_yaml(raw) if raw else None
        except ValueError as error:
            shown = f"{path}=***: not YAML" if _SECRET.search(path) else f"{text}: {error}"
            problems.append(f"--set {shown}")
            continue
        data = _with_value(data, path.strip().split("."), value)
    return data, problems


def _with_value(data: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    if len(keys) == 1:
        return {**data, keys[0]: value}
    inner = data.get(keys[0])
    inner = inner if isinstance(inner, dict) else {}
    return {**data, keys[0]: _with_value(inner, keys[1:], value)}


def _tuples(value: Any) -> Any:
    """YAML knows lists only; the frozen tree holds tuples, and strict mode tells them apart."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _of_best_alternatives(errors: Sequence[Any]) -> list[Any]:
    """Without those that a block is no number or word, where what is wrong inside it is known."""
    inside = {_location(e)[: len(_location(e)) - (e["type"] != "value_error")] for e in errors}
    simple = ("literal_error", "int_type")
    return [e for e in errors if e["type"] not in simple or _location(e) not in inside]


def _location(error: Any) -> tuple[str, ...]:
    """Keys that lead to a value; the tags of a union are no part of them."""
    parts = [str(part) for part in error["loc"]]
    last = len(parts) - 1 if error["type"] == "extra_forbidden" else None  # any name at all
    return tuple(p for i, p in enumerate(parts) if i == last or not _is_union_tag(p))


PLACES_NAMED = 3


def _problem(error: Any) -> str:
    unknown = error["type"] == "extra_forbidden"
    location = _location(error)
    path = ".".join(location) or "config"
    if unknown:
        if places := _places_of(location[-1]):
            return f"{path}: unknown key here; did you mean {' or '.join(places)}?"
        known = _known_keys(location[:-1])
        hint = did_you_mean(location[-1], known, f"known keys: {', '.join(known)}", str)
        return f"{path}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{path}: is needed and missing"
    message = str(error["msg"]).removeprefix("Value error, ").partition(" or instance of ")[0]
    message = message.replace("a valid tuple", "a list")
    if error["type"] == "value_error":
        return f"{path}{message}" if message.startswith(".") else f"{path}: {message}"
    hidden = _SECRET.search(path) or path.startswith("storage_options")
    shown = "***" if hidden else storage.redact(repr(error["input"]))[:80]
    return f"{path}: {message[:1].lower()}{message[1:]} (it is {shown})"


def _is_union_tag(part: str) -> bool:
    names = ("bool", "int", "float", "str", "ActorsRange")
    return part in names or part.startswith(("literal[", "constrained", "function-after["))


def _known_keys(location: Sequence[str]) -> list[str]:
    model: type[Settings] = Config
    for part in location:
        block = _block(model, part)
        if block is None:
            return []
        model = block
    return sorted(model.model_fields)


def _block(model: type[Settings], key: str) -> type[Settings] | None:
    """The block of settings that stands at a key of another one, if one does."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    types = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type)]
    return next((t for t in types if issubclass(t, Settings)), None)


def _places_of(key: str, model: type[Settings] = Config, path: str = "") -> list[str]:
    """Every place, by dotted path, where a key of this name is known, at most `PLACES_NAMED`.

    >>> _places_of("min_score")
    ['merge.min_score']
    """
    found = []
    for name in model.model_fields:
        where = f"{path}{name}"
        found += [f"{where} at the top of the config" if not path else where] * (name == key)
        block = _block(model, name)
        found += _places_of(key, block, f"{where}.") if block is not None else []
    return found if len(found) <= PLACES_NAMED else []


def _check_name(name: str, known: Sequence[str]) -> None:
    if name not in known:
        # the toys of the example are no answer to what somebody meant
        real = [item for item in known if item not in DEMO_NAMES]
        hint = did_you_mean(name, real, shown=str)
        raise ValueError(f".name: {name!r} is not one of {', '.join(real)}{hint}")


def _redacted(value: Any, *, named: bool) -> Any:
    """Without the secrets in URIs and, if `named`, without what stands under the name of one."""
    if isinstance(value, dict):
        secret = {k for k, item in value.items() if named and item and _SECRET.search(str(k))}
        return {k: "***" if k in secret else _redacted(v, named=named) for k, v in value.items()}
    if isinstance(value, list):
        return [_redacted(item, named=named) for item in value]
    return storage.redact(value) if isinstance(value, str) else value
