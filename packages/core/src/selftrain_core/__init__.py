"""The core of selftrain: contracts, the normalised objective, and the loop teacher → pseudo labels → student.

The loop itself is `selftrain_core.rounds`; the objective is `selftrain_core.objective`. Importing this package does not
import torch.
"""

from selftrain_core.errors import SelftrainError
from selftrain_core.hookspecs import (
    AcceleratorSpec,
    AugmentationSpec,
    BackboneSpec,
    DataSourceSpec,
    PolicySpec,
    TaskSpec,
    hookimpl,
)

__version__ = "0.1.0"

__all__ = [
    "AcceleratorSpec",
    "AugmentationSpec",
    "BackboneSpec",
    "DataSourceSpec",
    "PolicySpec",
    "SelftrainError",
    "TaskSpec",
    "__version__",
    "hookimpl",
]
