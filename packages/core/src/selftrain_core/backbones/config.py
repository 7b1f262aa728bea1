"""Settings of core's backbones."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveInt

from selftrain_core.config_model import BackboneChoice, StrictModel


class TimmConfig(StrictModel):
    """A timm model."""

    init: str = Field(default="imagenet", description="How it starts: random or imagenet.")
    drop_path: NonNegativeFloat = Field(default=0.0, lt=1, description="Largest stochastic-depth rate.")


class FpnConfig(StrictModel):
    """A feature pyramid; it starts as its body does."""

    body: BackboneChoice = Field(description="The backbone below the pyramid.")
    channels: PositiveInt = 256

    @property
    def init(self) -> str:
        """The body's init."""
        return str(self.body.options.init)  # type: ignore[attr-defined]  # every backbone's settings have it
