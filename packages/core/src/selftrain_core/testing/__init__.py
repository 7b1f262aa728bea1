"""Contract suites for components: inherit one, name the component, and pytest checks it against its contract.

A plugin's tests are a few lines::

    from selftrain_core.testing import PolicyContract, check_plugin

    class TestMine(PolicyContract):
        spec_name = "mine/policy"
        options = {"threshold": 0.7}

    def test_plugin():
        check_plugin("selftrain_mine.plugin")
"""

from selftrain_core.testing.accelerators import AcceleratorContract
from selftrain_core.testing.augmentations import AugmentationContract
from selftrain_core.testing.backbones import BackboneContract
from selftrain_core.testing.component import assert_equal, is_equal, raises
from selftrain_core.testing.data_sources import DataSourceContract
from selftrain_core.testing.plugins import check_plugin
from selftrain_core.testing.policies import PolicyContract
from selftrain_core.testing.tasks import TaskContract

__all__ = [
    "AcceleratorContract",
    "AugmentationContract",
    "BackboneContract",
    "DataSourceContract",
    "PolicyContract",
    "TaskContract",
    "assert_equal",
    "check_plugin",
    "is_equal",
    "raises",
]
