"""Dense flash attention that also returns the log-sum-exp, and its backward, on each kind of device."""

from dataclasses import dataclass
from typing import Protocol

import torch

aten = torch.ops.aten


class Kernel(Protocol):
    """A dense attention kernel; all tensors (B, H, L, D), log-sum-exp (B, H, Lq) in float32 and natural log.

    Causal calls are square: kernels disagree about which corner the diagonal of others starts from.
    """

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output and log-sum-exp. Strided and overlapping views are fine."""
        ...

    def backward(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of query, key and value.

        Fed the output and log-sum-exp of a softmax over *more* keys than this tile's, it gives the tile's exact share
        of the gradients: the probabilities are exp(score - lse), whatever the tile holds of them.
        """
        ...


@dataclass(frozen=True)
class CpuFlash:
    """Torch's flash attention for CPUs."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Kernel`."""
        result: tuple[torch.Tensor, torch.Tensor] = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return result

    def backward(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Kernel`."""
        gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (
            aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad, query, key, value, out, lse, 0.0, causal, scale=scale
            )
        )
        return gradients


@dataclass(frozen=True)
class CudaFlash:
    """FlashAttention-2 as built into torch; float16 and bfloat16, head_dim a multiple of 8 up to 256."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Kernel`."""
        out, lse, *_ = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)
        return out, lse

    def backward(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Kernel`."""
        unused = torch.zeros((), dtype=torch.int64, device=query.device)  # random state: there is no dropout
        gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = aten._scaled_dot_product_flash_attention_backward(
            grad,
            query,
            key,
            value,
            out,
            lse.contiguous(),
            None,
            None,
            query.shape[2],
            key.shape[2],
            0.0,
            causal,
            unused,
            unused,
            scale=scale,
        )
        return gradients


@dataclass(frozen=True)
class CudaEfficient:
    """Memory-efficient attention as built into torch; old GPUs too."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Kernel`."""
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
        return out, lse[..., : query.shape[2]]  # the kernel pads its rows to a multiple of 32

    def backward(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Kernel`."""
        padding = -query.shape[2] % 32
        unused = torch.zeros((), dtype=torch.int64, device=query.device)  # random state: there is no dropout
        d_query, d_key, d_value, _ = aten._scaled_dot_product_efficient_attention_backward(
            grad,
            query,
            key,
            value,
            None,
            out.transpose(1, 2).contiguous().transpose(1, 2),  # the kernel takes (B, L, H, D) in memory for granted
            torch.nn.functional.pad(lse, (0, padding), value=torch.inf).contiguous(),
            unused,
            unused,
            0.0,
            [True, True, True, False],
            causal,
            scale=scale,
        )
        return d_query, d_key, d_value
