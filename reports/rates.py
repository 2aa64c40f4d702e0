"""What a device reaches at best: no attention can honestly pass its matrix product."""

from collections.abc import Iterable
from dataclasses import replace

from autotune.db.records import Environment, Rate

NO_RATES = "none, so that no row was held against the device's peak"


def best_rates(rates: Iterable[Rate]) -> dict[tuple[Environment, str], Rate]:
    """For each environment and dtype the fastest matrix product and the fastest copy of all that were stored."""
    best: dict[tuple[Environment, str], Rate] = {}
    for rate in rates:
        key = (rate.environment, rate.dtype)
        known = best.get(key, rate)
        best[key] = replace(
            rate,
            created_at=max(known.created_at, rate.created_at),
            matmul_flops_per_s=max(known.matmul_flops_per_s, rate.matmul_flops_per_s),
            copy_bytes_per_s=max(known.copy_bytes_per_s, rate.copy_bytes_per_s),
        )
    return best
