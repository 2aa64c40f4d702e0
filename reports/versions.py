"""What software a measurement was taken with."""

from autotune.db.records import Environment


def versions(environment: Environment) -> dict[str, str]:
    """Versions by name; empty where there is none."""
    return {
        "Python": environment.python_version,
        "torch": environment.torch_version,
        "triton": environment.triton_version,
        "CUDA": environment.cuda_version,
        "driver": environment.driver,
        "platform": environment.platform,
    }
