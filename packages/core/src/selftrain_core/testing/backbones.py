"""What every backbone must do (`selftrain_core.interfaces.Backbone`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Backbone
from selftrain_core.testing.component import ComponentContract, assert_equal, is_equal, raises
from selftrain_core.testing.samples import draws


class BackboneContract(ComponentContract):
    """Inherit and name the backbone; a family is named with a member, such as ``timm/resnet18``."""

    kind = "backbones"
    interface = Backbone
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    """Strides to ask for, ascending."""
    output_strides: ClassVar[tuple[int, ...]] = ()
    """Output strides that it can keep."""
    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((64, 96), (96, 32))
    """Heights and widths of images; multiples of 32, as canvases are."""
    offline_inits: ClassVar[tuple[str, ...]] = ("random",)
    """The inits whose weights are on this machine."""

    def build(self, strides: Sequence[int] | None = None, output_stride: int | None = None) -> Backbone:
        """Return the backbone, not yet initialised."""
        member = self.found().member
        backbone: Backbone = self.load()(self.settings(), member, strides or self.strides, output_stride)
        return backbone

    def initialised(self, init: str = "random", seed: int = 0) -> Backbone:
        """Return the backbone as `init` starts it, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = self.build()
            backbone.initialise(init)
        return backbone.eval()

    def features(self, backbone: Backbone, size: tuple[int, int] = (64, 64)) -> dict[int, Tensor]:
        """Return the features of two drawn images."""
        found: dict[int, Tensor] = backbone(draws((2, 3, *size), 1))
        return found

    def test_features(self) -> None:
        """Features come for exactly the strides asked for, with the channels declared, ⌈side/stride⌉ large."""
        self._assert_features(self.initialised(), self.strides)

    def _assert_features(self, backbone: Backbone, strides: tuple[int, ...]) -> None:
        assert set(backbone.channels) == set(strides), f"channels are declared for {sorted(backbone.channels)}"
        for height, width in self.sizes:
            with torch.no_grad():
                found = self.features(backbone, (height, width))
            assert tuple(found) == strides, f"strides are {tuple(found)}, asked for {strides}"
            for stride, feature in found.items():
                sides = math.ceil(height / stride), math.ceil(width / stride)
                expected = (2, backbone.channels[stride], *sides)
                assert feature.shape == expected, f"stride {stride}: {tuple(feature.shape)}, expected {expected}"
                assert torch.isfinite(feature).all(), f"stride {stride}: not finite"

    def test_impossible_stride(self) -> None:
        """A stride that the backbone does not offer is an error for the user."""
        with raises(ConfigError, "a backbone of stride 3"):
            self.build((3,))

    def test_output_strides(self) -> None:
        """With an output stride the strides up to it are offered, and no parameter is left out."""
        for output_stride in self.output_strides:
            strides = tuple(stride for stride in self.strides if stride <= output_stride)
            backbone = self.build(strides, output_stride)
            self._assert_features(backbone.eval(), strides)
            self._assert_gradients(backbone.train())

    def test_impossible_output_stride(self) -> None:
        """An output stride that the backbone cannot keep, or finer than a stride asked for, is a user's error."""
        with raises(ConfigError, "a backbone of output stride 3"):
            self.build(self.strides[:1], 3)
        for output_stride in self.output_strides:
            with raises(ConfigError, f"stride {2 * output_stride} at the output stride {output_stride}"):
                self.build((2 * output_stride,), output_stride)

    def test_inits(self) -> None:
        """Inits have distinct names, ``random`` among them, and say where their weights come from."""
        inits = self.build().inits()
        names = [init.name for init in inits]
        assert "random" in names and len(set(names)) == len(names), f"inits are {names}"
        for init in inits:
            assert init.origin and init.licence, f"init '{init.name}' tells no origin or licence"
            assert len(init.mean) == len(init.std) == 3 and min(init.std) > 0, f"normalisation of {init}"

    def test_unknown_init(self) -> None:
        """An unknown init is an error that lists those there are."""
        backbone = self.build()
        with raises(ConfigError, "the init 'no-such-init'") as text:
            backbone.initialise("no-such-init")
        for init in backbone.inits():
            assert init.name in text[0], f"the error does not name the init '{init.name}': {text[0]}"

    def test_random_init_is_a_function_of_the_seed(self) -> None:
        """The same seed gives the same weights, another seed others."""
        first = self.initialised(seed=1).state_dict()
        assert_equal(self.initialised(seed=1).state_dict(), first, "weights of the same seed")
        assert not is_equal(self.initialised(seed=2).state_dict(), first), "another seed gives the same weights"

    def test_pretrained_inits_load(self) -> None:
        """An init other than ``random`` changes the weights, always to the same."""
        random = self.initialised(seed=1)
        for name in self.offline_inits:
            if name != "random":
                one, other = self.initialised(name, seed=1), self.initialised(name, seed=1)
                assert_equal(dict(one.named_parameters()), dict(other.named_parameters()), f"weights of '{name}'")
                same = is_equal(dict(one.named_parameters()), dict(random.named_parameters()))
                assert not same, f"the weights of '{name}' are the random ones"

    def test_normalisation_comes_from_the_init(self) -> None:
        """The init's mean and deviation are kept with the model, and the features depend on them."""
        for name in self.offline_inits:
            backbone = self.initialised(name)
            init = next(init for init in backbone.inits() if init.name == name)
            normalising = [module for module in backbone.modules() if isinstance(module, Backbone)]
            kept = [
                torch.allclose(m.get_buffer("mean"), torch.tensor(init.mean))
                and torch.allclose(m.get_buffer("std"), torch.tensor(init.std))
                for m in normalising
            ]
            assert any(kept), f"after the init '{name}' no buffers hold its mean {init.mean} and deviation {init.std}"
            with torch.no_grad():
                before = self.features(backbone)
                for module in normalising:
                    module.get_buffer("mean").add_(0.3)
                    module.get_buffer("std").mul_(0.5)
                after = self.features(backbone)
            assert not is_equal(after, before), "features do not depend on the normalisation"

    def test_gradients_reach_every_parameter(self) -> None:
        """No parameter is left out: an unused one stops training on several devices."""
        self._assert_gradients(self.initialised().train())

    def _assert_gradients(self, backbone: Backbone) -> None:
        total = sum((f * draws(tuple(f.shape), stride)).sum() for stride, f in self.features(backbone).items())
        assert isinstance(total, Tensor)
        total.backward()
        for name, parameter in backbone.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"no gradient reaches {name}"
                assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"

    def test_state_round_trip(self) -> None:
        """The state holds everything, normalisation included: another instance that takes it up is the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            backbone, other = self.initialised(seed=1), self.build().eval()
        other.load_state_dict(backbone.state_dict())
        with torch.no_grad():
            assert_equal(self.features(other), self.features(backbone), "features after the state was taken up")

    def test_evaluation_is_deterministic(self) -> None:
        """In evaluation mode the same images give the same features."""
        backbone = self.initialised()
        with torch.no_grad():
            assert_equal(self.features(backbone), self.features(backbone), "features of a second pass")
