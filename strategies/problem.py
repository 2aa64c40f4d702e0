"""What one attention call looks like."""

from dataclasses import dataclass
from typing import Literal

import torch

from autotune.strategies.errors import ProblemError

Direction = Literal["forward", "training"]
KvHome = Literal["device", "host"]

DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
DIRECTIONS: tuple[Direction, ...] = ("forward", "training")
KV_HOMES: tuple[KvHome, ...] = ("device", "host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Shape, dtype, causality, direction and device type of an attention call.

    Query is ``(batch, heads, query_len, head_dim)``; key and value are ``(batch, kv_heads, kv_len, head_dim)``.
    Query head ``h`` reads key head ``h // (heads / kv_heads)``. Causal alignment follows
    ``torch.nn.functional.scaled_dot_product_attention``: query ``i`` sees keys ``0 .. i``. ``kv_home``: whether key and
    value lie on the device, as query does, or in the memory of the host, which may hold more than the device can.
    """

    batch: int = 1
    heads: int = 8
    kv_heads: int = 8
    query_len: int
    kv_len: int
    head_dim: int = 64
    dtype: str = "float32"
    causal: bool = False
    direction: Direction = "forward"
    device: str = "cpu"
    kv_home: KvHome = "device"

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "kv_heads", "query_len", "kv_len", "head_dim"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ProblemError(f"{name} is {value}, but must be a whole number of at least 1")
        if self.heads % self.kv_heads:
            raise ProblemError(f"heads is {self.heads}, but must be a multiple of kv_heads, {self.kv_heads}")
        if self.dtype not in DTYPES:
            raise ProblemError(f"dtype is {self.dtype!r}, but must be one of {', '.join(DTYPES)}")
        if self.direction not in DIRECTIONS:
            raise ProblemError(f"direction is {self.direction!r}, but must be one of {', '.join(DIRECTIONS)}")
        if self.kv_home not in KV_HOMES:
            raise ProblemError(f"kv_home is {self.kv_home!r}, but must be one of {', '.join(KV_HOMES)}")

    @classmethod
    def self_attention(
        cls, seq_len: int, *, heads: int = 8, kv_heads: int | None = None, **fields: object
    ) -> "Problem":
        """The problem of a sequence that attends to itself.

        >>> Problem.self_attention(4096, heads=12, kv_heads=4).key
        'cpu/forward/float32/b1/h12x4/l4096x4096/d64/full'
        """
        return cls(
            heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            query_len=seq_len,
            kv_len=seq_len,
            **fields,  # type: ignore[arg-type]
        )

    @property
    def key(self) -> str:
        """A stable text that identifies the problem in the database."""
        mask = "causal" if self.causal else "full"
        home = "" if self.kv_home == "device" else "/kv-host"  # databases hold keys from before there was a choice
        return (
            f"{self.device}/{self.direction}/{self.dtype}/b{self.batch}/h{self.heads}x{self.kv_heads}"
            f"/l{self.query_len}x{self.kv_len}/d{self.head_dim}/{mask}{home}"
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        return DTYPES[self.dtype]

    @property
    def group_size(self) -> int:
        """Query heads per key head."""
        return self.heads // self.kv_heads

    @property
    def training(self) -> bool:
        """Whether gradients are wanted."""
        return self.direction == "training"

    def kv_device(self, device: torch.device) -> torch.device:
        """Where key and value lie if query lies on a device."""
        return device if self.kv_home == "device" else torch.device("cpu")

    @property
    def output_bytes(self) -> int:
        """Size of the output tensor."""
        return self.batch * self.heads * self.query_len * self.head_dim * self.torch_dtype.itemsize

    @property
    def kv_bytes(self) -> int:
        """Size of key and value together."""
        return 2 * self.batch * self.kv_heads * self.kv_len * self.head_dim * self.torch_dtype.itemsize
