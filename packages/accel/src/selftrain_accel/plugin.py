"""What this package offers to selftrain. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain_core.hookspecs import AcceleratorSpec, hookimpl


@hookimpl
def selftrain_accelerators() -> Sequence[AcceleratorSpec]:
    """Return the two kinds of GPU."""
    return [
        AcceleratorSpec(
            name="accel/cuda",
            summary="NVIDIA GPUs, and AMD's under ROCm; several ranks over NCCL",
            config="selftrain_core.config_model:StrictModel",
            load="selftrain_accel.cuda:CudaAccelerator",
        ),
        AcceleratorSpec(
            name="accel/mps",
            summary="the GPU of an Apple-silicon Mac",
            config="selftrain_core.config_model:StrictModel",
            load="selftrain_accel.mps:MpsAccelerator",
        ),
    ]
