"""Model configuration: a frozen, torch-free description from which a model is rebuilt."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from medcli.config_checks import MlpKind, Norm, check_parts, check_stages
from medcli.errors import ConfigError
from medcli.ladder import check_ladder

Family = Literal["dit", "sit", "edt", "mdtv2"]
FAMILIES: tuple[str, ...] = get_args(Family)

Positions = Literal["interpolate", "anew"]
"""Positions of a network at another resolution: those of its old grid, interpolated, or those of a new network."""

OPTIONAL_FIELDS = frozenset(
    ("stage_depths", "stage_widths", "stage_heads", "decoder_depth", "positions_side")
    + ("norm", "mlp", "rope", "qk_norm", "has_shift", "latent_mean", "latent_std")
)
"""Fields left out of JSON at their defaults."""

MAX_SIZE = 2**24
"""Bound of widths, depths and numbers of classes, far above any network's."""
MAX_RATIO = 1024
"""Bound of ratios."""

SD_AUTOENCODER, SD_CHANNELS, SD_SCALE = "stabilityai/sd-vae-ft-ema", 4, 0.18215
"""Autoencoder of the published DiT and SiT models, with channels and factor of its latents."""
VAVAE, VAVAE_CHANNELS = "hustvl/vavae-imagenet256-f16d32-dinov2", 32  # of LightningDiT's


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Architecture of a class-conditional diffusion transformer.

    Raises:
        ConfigError: If a value is out of range or two values contradict each other.
    """

    family: Family
    """`sit` predicts the velocity at a float time; `dit`, `edt` and `mdtv2` the noise at an integer timestep. `edt`
    down-samples its tokens and up-samples them again, `mdtv2` joins encoder and decoder by skips."""
    hidden_size: int
    """Width D of the residual stream and of the condition, in `edt` that of the outer stages; a multiple of 4 and of
    `num_heads`."""
    depth: int
    """Number of transformer blocks."""
    num_heads: int
    """Attention heads H, in `edt` those of the first stage."""
    patch_size: int = 2
    """Side of a patch, in latent pixels."""
    latent_size: int = 32
    """Side of the square latent: image side / `latent_downsample`."""
    in_channels: int = 4
    """Latent channels C."""
    mlp_ratio: float = 4.0
    """MLP hidden width divided by `hidden_size`."""
    num_classes: int = 1000
    """Labels, the null class not counted."""
    has_null_class: bool = True
    """True: the label table has one more row, index `num_classes`, for the unconditional branch."""
    learn_sigma: bool = True
    """True: the final layer emits 2C channels (DiT uses both halves, SiT keeps the first)."""
    qk_ratio: float = 1.0
    """Query and key width divided by `hidden_size`: the paper's q-k compression ablation. Values keep full width."""
    mediators: tuple[int, ...] = ()
    """The ladder: rising perfect squares, all living in this one model. Empty: attention is full everywhere."""
    mediator_layers: tuple[int, ...] = ()
    """Blocks (from 0) whose attention goes through mediators. Empty exactly when `mediators` is."""
    stage_depths: tuple[int, ...] = ()
    """`edt` only: blocks of each stage. The token grid halves from stage to stage to the middle one, then grows."""
    stage_widths: tuple[int, ...] = ()
    """`edt` only: width of each stage, the same read from either end."""
    stage_heads: tuple[int, ...] = ()
    """`edt` only: attention heads of each stage."""
    decoder_depth: int = 0
    """`mdtv2` only: blocks of the decoder; the others are an encoder of two equal halves."""
    norm: Norm = "layer"
    """Norm of the tokens, and with `qk_norm` of queries and keys: LayerNorm without parameters, or RMSNorm."""
    mlp: MlpKind = "gelu"
    """`swiglu`: two products, one through SiLU, multiplied."""
    rope: bool = False
    """True: queries and keys are rotated by their tokens' row and column."""
    qk_norm: bool = False
    """True: each head's queries and keys are normalised before they are rotated."""
    has_shift: bool = True
    """True: the condition shifts the tokens in the blocks, not only scales them."""
    autoencoder: str | None = SD_AUTOENCODER
    """Decoder of the latents; None for a model of pixels in [-1, 1]."""
    latent_scale: float = SD_SCALE
    """Model latents are autoencoder latents times this (after subtracting `latent_shift`)."""
    latent_shift: float = 0.0
    """Subtracted from autoencoder latents before scaling."""
    latent_downsample: int = 8
    """Image pixels a latent pixel covers along one side."""
    positions_side: int = 0
    """Tokens along one side of the grid that the fixed position table was made for, if the network has another one: its
    coordinates 0 .. `positions_side` - 1 are spread over the tokens. 0: the network's own grid."""
    latent_mean: tuple[float, ...] = ()
    """Mean of each channel of autoencoder latents, subtracted before `latent_shift` and `latent_scale`; empty: none."""
    latent_std: tuple[float, ...] = ()
    """Standard deviation of each channel, by which latents are divided after that."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"unknown family {self.family!r}, expected one of {', '.join(FAMILIES)}")
        self._check_numbers()
        if self.hidden_size % 4 or self.hidden_size % self.num_heads:
            raise ConfigError(f"width {self.hidden_size} must be a multiple of 4 and of the {self.num_heads} heads")
        if self.latent_size % self.patch_size:
            raise ConfigError(f"latent side {self.latent_size} is not a multiple of the patch size {self.patch_size}")
        if self.qk_size % self.num_heads or not 0 < self.qk_ratio <= 1:
            raise ConfigError(
                f"q-k ratio {self.qk_ratio} must be in (0, 1] and give each of {self.num_heads} heads a whole width",
                hint="the paper's are 0.875, 0.75 and 0.5",
            )
        check_stages(self)
        check_parts(self)
        if bool(self.decoder_depth) != (self.family == "mdtv2"):
            raise ConfigError("decoder_depth is required for mdtv2 and only for it")
        if self.decoder_depth and (self.decoder_depth >= self.depth or (self.depth - self.decoder_depth) % 2):
            raise ConfigError(
                f"a decoder of {self.decoder_depth} blocks leaves no two equal halves of an encoder in {self.depth}"
            )
        check_ladder(self.mediators)
        layers = list(self.mediator_layers)
        if layers != sorted(set(layers)) or (layers and not 0 <= layers[0] <= layers[-1] < self.depth):
            raise ConfigError(
                f"mediator layers {list(self.mediator_layers)} must be rising block numbers in 0..{self.depth - 1}"
            )
        if bool(self.mediators) != bool(self.mediator_layers):
            raise ConfigError("a mediator ladder and mediator layers must be given together or not at all")
        if self.mediators and self.qk_ratio != 1.0:
            raise ConfigError("q-k compression and mediators are alternatives; use one of them")
        if self.has_relative_bias and self.qk_ratio != 1.0:
            raise ConfigError(f"q-k compression is for dit and sit, not for {self.family}")

    def _check_numbers(self) -> None:
        """Check the range of each number."""
        for name in ("hidden_size", "depth", "num_heads", "patch_size", "latent_size", "in_channels", "num_classes"):
            if not 1 <= getattr(self, name) <= MAX_SIZE:
                raise ConfigError(f"{name} must be at least 1 and at most {MAX_SIZE}, got {getattr(self, name)}")
        ranges = {
            "mlp_ratio": 1 / MAX_SIZE < self.mlp_ratio <= MAX_RATIO,
            "latent_scale": 0 < self.latent_scale < math.inf,
            "latent_shift": math.isfinite(self.latent_shift),
            "latent_downsample": 1 <= self.latent_downsample <= MAX_RATIO,
            "decoder_depth": 0 <= self.decoder_depth <= MAX_SIZE,
            "positions_side": 0 <= self.positions_side <= MAX_SIZE,
        }
        if wrong := next((name for name, is_right in ranges.items() if not is_right), None):
            raise ConfigError(f"{wrong} is {getattr(self, wrong)}, which no model has")

    @property
    def is_gaussian(self) -> bool:
        """True if the model predicts the noise of a discrete diffusion at integer timesteps, as DiT does."""
        return self.family != "sit"

    @property
    def has_relative_bias(self) -> bool:
        """True if attention adds a learned bias for the offset between two tokens."""
        return self.family in ("edt", "mdtv2")

    @property
    def halvings(self) -> int:
        """Factor by which a side of the token grid shrinks from the outer to the middle stage; 1 without stages."""
        return 2 ** (len(self.stage_depths) // 2)

    @property
    def resolution_px(self) -> int:
        """Side of the square image, in pixels."""
        return self.latent_size * self.latent_downsample

    @property
    def tokens_side(self) -> int:
        """Tokens along one side of the grid."""
        return self.latent_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Latent tokens N."""
        return self.tokens_side**2

    @property
    def head_dim(self) -> int:
        """Head width K."""
        return self.hidden_size // self.num_heads

    @property
    def qk_size(self) -> int:
        """Total width of the queries (and of the keys)."""
        return round(self.hidden_size * self.qk_ratio)

    @property
    def mlp_size(self) -> int:
        """Hidden width of the MLP."""
        return round(self.hidden_size * self.mlp_ratio)

    @property
    def out_channels(self) -> int:
        """Channels the final layer emits."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def null_class(self) -> int:
        """Label id of the unconditional branch."""
        return self.num_classes

    @property
    def num_label_rows(self) -> int:
        """Rows of the label table."""
        return self.num_classes + int(self.has_null_class)

    def resolve_count(self, num_mediators: int | None) -> int:
        """Resolve a requested mediator count: None means the largest of the ladder, 0 full attention.

        Raises:
            ConfigError: If the count is not in the ladder.
        """
        if num_mediators is None:
            return self.mediators[-1] if self.mediators else 0
        if num_mediators and num_mediators not in self.mediators:
            held = ", ".join(map(str, self.mediators)) or "none"
            raise ConfigError(
                f"{num_mediators} mediator tokens are not in this model's ladder ({held})",
                hint="convert with --mediators to make the ladder, or use 0 for full attention",
            )
        return num_mediators

    @property
    def position_scale(self) -> float:
        """Tokens along a side, divided by those of the grid that the fixed position table was made for."""
        return self.tokens_side / (self.positions_side or self.tokens_side)

    def at_resolution(self, resolution_px: int, *, positions: Positions = "anew") -> ModelConfig:
        """Return the same network for another image side.

        Args:
            resolution_px: Image side in pixels.
            positions: Fixed positions: `interpolate` keeps the coordinates of the grid they were made for.

        Raises:
            ConfigError: If the side is not a multiple of patch size times autoencoder stride.
        """
        unit = self.patch_size * self.latent_downsample * self.halvings
        if resolution_px < unit or resolution_px % unit:
            near = max(unit, round(resolution_px / unit) * unit)
            raise ConfigError(
                f"resolution {resolution_px} px is not a positive multiple of {unit} "
                f"(patch x autoencoder stride{' x down-sampling' if self.halvings > 1 else ''})",
                hint=f"try --res {near}",
            )
        sized = replace(self, latent_size=resolution_px // self.latent_downsample, positions_side=0)
        if positions == "anew" or self.family == "mdtv2":  # it learns its positions
            return sized
        side = self.positions_side or self.tokens_side
        return replace(sized, positions_side=0 if side == sized.tokens_side else side)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, one per field; `OPTIONAL_FIELDS` are left out at their defaults."""
        usual = {field.name: field.default for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value != usual[key] or key not in OPTIONAL_FIELDS
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelConfig:
        """Rebuild from `to_json`.

        Raises:
            ConfigError: If keys are unknown or missing, or values of another type.
        """
        types = {field.name: str(field.type) for field in fields(cls)}
        if unknown := sorted(set(data) - set(types)):
            raise ConfigError(f"unknown model setting {unknown[0]!r}", hint="the file was made by a newer medcli")
        for key, value in data.items():
            if not _has_type(value, types[key]):
                raise ConfigError(f"model setting {key} is {value!r}, expected {types[key]}")
        try:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
            }
            return cls(**values)
        except TypeError as err:
            raise ConfigError(f"incomplete model settings: {err}") from err


def _has_type(value: Any, annotation: str) -> bool:
    """Check that a JSON value has the type of a field of `ModelConfig`."""
    if annotation.startswith("tuple"):
        return isinstance(value, list) and all(_has_type(part, annotation[6:].partition(",")[0]) for part in value)
    if annotation == "float":
        return type(value) in (int, float) and math.isfinite(value)
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "bool": (bool,), "str | None": (str, type(None))}
    return type(value) in kinds.get(annotation, (str,))
