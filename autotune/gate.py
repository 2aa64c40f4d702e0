"""The gate: no candidate is timed before its output has been compared with the float64 oracle."""

from dataclasses import dataclass

import torch

from autotune.inputs import Inputs
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.reference import reference_rows, sample_rows

# Largest relative error (L2 over head_dim) of any checked row, by dtype. A few units in the last place of the
# dtype's rounding of scores, weights and output; attending to one wrong key among a thousand is far outside.
GATE = {"float64": 1e-10, "float32": 5e-5, "bfloat16": 3e-2, "float16": 4e-3}
ROUNDING = 1e-6  # of float32, in differences of numbers around one
ROWS = 48  # query rows checked, over all heads and batch elements

Outputs = tuple[torch.Tensor, ...]  # the output; when training also the gradients of query, key and value


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far an output is from the oracle, and why it is wrong; an empty reason means it is right."""

    rel_error: float
    max_abs_error: float
    reason: str


@dataclass(frozen=True, slots=True)
class Oracle:
    """The right answers for one problem, pattern and set of inputs, in float64."""

    problem: Problem
    rows: torch.Tensor
    output: torch.Tensor  # (B, Hq, R, D)
    gradients: tuple[torch.Tensor, ...]  # whole gradients of query, key and value; empty for the forward direction

    @classmethod
    def of(cls, problem: Problem, pattern: Pattern, inputs: Inputs, rows: torch.Tensor) -> "Oracle":
        """Compute the answers."""
        rows = rows.to(inputs.query.device)
        if inputs.grad is None:
            output = reference_rows(problem, pattern, inputs.query, inputs.key, inputs.value, rows)
            return cls(problem, rows, output, ())
        leaves = [x.detach().double().requires_grad_() for x in (inputs.query, inputs.key, inputs.value)]
        query, key, value = leaves
        output = reference_rows(problem, pattern, query, key, value, rows)
        gradients = torch.autograd.grad(output, leaves, inputs.grad[:, :, rows].double())
        return cls(problem, rows, output.detach(), gradients)

    def judge(self, outputs: Outputs) -> Verdict:
        """Compare a candidate's output, and its gradients when training."""
        out = outputs[0].detach()
        shape = (self.problem.batch, self.problem.heads, self.problem.query_len, self.problem.head_dim)
        if out.shape != shape or out.dtype != self.problem.torch_dtype:
            return Verdict(float("inf"), float("inf"), f"output is {out.dtype} {tuple(out.shape)}, expected {shape}")
        if reason := _corruption(out):
            return Verdict(float("inf"), float("inf"), reason)
        gate = GATE[self.problem.dtype]
        worst = _compare(out[:, :, self.rows], self.output, proof_channel=self.problem.head_dim > 1)
        names = ("output", "query gradient", "key gradient", "value gradient")
        errors = [worst, *(_compare_whole(x, y) for x, y in zip(outputs[1:], self.gradients, strict=True))]
        rel_error, max_abs_error = max(rel for rel, _ in errors), max(absolute for _, absolute in errors)
        for name, (rel, _) in zip(names, errors, strict=False):
            if not rel <= gate:
                return Verdict(rel_error, max_abs_error, f"{name}: relative error {rel:.3g} is over the gate, {gate:g}")
        if self.problem.head_dim > 1 and (wrong := (out[..., -1].float() - 1.0).abs() > 4 * gate).any():
            share = float(wrong.float().mean())
            return Verdict(rel_error, max_abs_error, f"softmax weights do not sum to one in {share:.2%} of the rows")
        return Verdict(rel_error, max_abs_error, "")


def checked_rows(problem: Problem) -> torch.Tensor:
    """The query rows that are compared with the oracle."""
    return sample_rows(problem.query_len, ROWS)


def _corruption(out: torch.Tensor) -> str:
    """What is plainly wrong in any row of the whole output."""
    if not bool((finite := torch.isfinite(out)).all()):
        return f"output holds NaN or infinity in {1 - float(finite.float().mean()):.2%} of its values"
    return "output is all zeros" if not bool(out.any()) else ""


def _compare(out: torch.Tensor, reference: torch.Tensor, *, proof_channel: bool) -> tuple[float, float]:
    """Worst relative error of a row, and worst absolute error, leaving out the channel of ones."""
    if proof_channel:
        out, reference = out[..., :-1], reference[..., :-1]
    difference = out.double() - reference
    norms = torch.linalg.vector_norm(reference, dim=-1)
    if reference.shape[-1] < 4:  # a value or two can be near zero by chance
        norms = norms.clamp_min(0.1 * float(norms.square().mean().sqrt()))
    norms = norms.clamp_min(torch.finfo(torch.float64).tiny)
    return float((torch.linalg.vector_norm(difference, dim=-1) / norms).max()), float(difference.abs().max())


def _compare_whole(out: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """Relative error of a whole gradient (most of its rows are zero), and worst absolute error.

    That of a softmax over a single key is zero: a difference of equal numbers, of which float32 leaves some rounding.
    """
    difference = out.double() - reference
    error, norm = float(torch.linalg.vector_norm(difference)), float(torch.linalg.vector_norm(reference))
    rounding = ROUNDING * reference.numel() ** 0.5
    vanishes = norm <= rounding and error <= rounding
    return 0.0 if vanishes else error / max(norm, rounding), float(difference.abs().max())
