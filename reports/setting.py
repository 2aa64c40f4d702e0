"""Everything about a problem but its length: figures compare only within one setting."""

from dataclasses import dataclass

from autotune.strategies.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the rows of one table have in common besides the environment."""

    device: str
    dtype: str
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    direction: str
    kv_home: str
    query_len: int | None  # where it differs from the key length, which is then the length of the row

    @classmethod
    def of(cls, problem: Problem) -> "Setting":
        """The setting of a problem."""
        return cls(
            device=problem.device,
            dtype=problem.dtype,
            batch=problem.batch,
            heads=problem.heads,
            kv_heads=problem.kv_heads,
            head_dim=problem.head_dim,
            causal=problem.causal,
            direction=problem.direction,
            kv_home=problem.kv_home,
            query_len=None if problem.query_len == problem.kv_len else problem.query_len,
        )

    @property
    def text(self) -> str:
        """The setting as a person reads it.

        >>> Setting.of(Problem.self_attention(4096, heads=12, kv_heads=4, causal=True)).text
        'float32, batch 1, 12 heads, 4 key heads, head_dim 64, causal, forward'
        """
        parts = [self.dtype, f"batch {self.batch}", f"{self.heads} heads"]
        if self.kv_heads != self.heads:
            parts.append(f"{self.kv_heads} key heads")
        parts += [f"head_dim {self.head_dim}", "causal" if self.causal else "not causal", self.direction]
        if self.kv_home == "host":
            parts.append("keys and values in host memory")
        if self.query_len is not None:
            parts.append(f"query length {self.query_len:,}")
        return ", ".join(parts)
