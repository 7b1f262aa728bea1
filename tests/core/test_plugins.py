"""Finding plugins: one that is broken is set aside, what contradicts is an error that names both sides."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from selftrain_core.errors import PluginError, UnknownComponentError
from selftrain_core.plugins import KINDS, Found, Registry, config_model, load_component, load_registry, resolve

Add = Callable[[str, str], EntryPoint]
HEAD = "from selftrain_core.hookspecs import BackboneSpec, PolicySpec, TaskSpec, hookimpl\n"


def policy(name: str, hook: str = "selftrain_policies", spec: str = "PolicySpec") -> str:
    return (
        f"{HEAD}\n@hookimpl\ndef {hook}():\n    return [{spec}(name='{name}', summary='', "
        "config='selftrain_core.policy_config:FixedPolicyConfig', load='selftrain_core.policies:FixedPolicy')]\n"
    )


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> EntryPoint:
        module = f"plugin_{name}_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{module}.py").write_text(text)
        return EntryPoint(name, module, "selftrain")

    return write


def registry_of(*extra: EntryPoint) -> Registry:
    return load_registry(extra, installed=False)


def test_builtins_are_found_and_resolve() -> None:
    registry = registry_of()
    assert set(registry.components) == set(KINDS)
    assert {"timm/*", "core/fpn"} <= set(registry.components["backbones"])
    for components in registry.components.values():
        for found in components.values():
            assert found.plugin.name == "core"
            assert found.plugin.distribution == "selftrain-core"
            assert config_model(found).__name__
            assert load_component(found).__doc__


def test_installed_plugins_are_found() -> None:
    assert "segmentation/semantic" in load_registry().components["tasks"]


def test_a_plugin_adds_its_components(add: Add) -> None:
    registry = registry_of(add("mine", policy("mine/p")))
    found = registry.find("policies", "mine/p")
    assert (found.plugin.name, found.plugin.distribution, found.member) == ("mine", "(not installed)", "")
    assert [plugin.name for plugin in registry.plugins] == ["core", "mine"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise RuntimeError('on import')", "RuntimeError: on import"),
        ("def broken(:", "SyntaxError"),
        (f"{HEAD}\n@hookimpl\ndef selftrain_tasks():\n    raise KeyError('x')\n", "KeyError in its hook: 'x'"),
    ],
)
def test_a_broken_plugin_is_set_aside(add: Add, text: str, reason: str) -> None:
    registry = registry_of(add("bad", text), add("good", policy("good/p")))
    assert registry.find("policies", "good/p").plugin.name == "good"
    (broken,) = registry.broken()
    assert broken.name == "bad"
    assert reason in broken.error


def test_a_missing_module_is_set_aside() -> None:
    (broken,) = registry_of(EntryPoint("gone", "no_such_module", "selftrain")).broken()
    assert broken.error == "ModuleNotFoundError: No module named 'no_such_module'"


def test_a_misspelt_hook_names_plugin_and_hook(add: Add) -> None:
    match = (
        r"plugin 'mine' \(plugin_mine_\d+ of \(not installed\)\) implements the hook 'selftrain_polices', which does "
        r"not exist \(did you mean 'selftrain_policies'\?\); the hooks are: selftrain_tasks, .*"
    )
    with pytest.raises(PluginError, match=match):
        registry_of(add("mine", policy("mine/p", hook="selftrain_polices")))


def test_a_hook_with_unknown_arguments_names_the_plugin(add: Add) -> None:
    text = f"{HEAD}\n@hookimpl\ndef selftrain_policies(registry):\n    return []\n"
    with pytest.raises(PluginError, match=r"plugin 'mine' of \(not installed\): (.|\n)*registry"):
        registry_of(add("mine", text))


def test_two_components_of_one_name_name_both_plugins(add: Add) -> None:
    match = (
        r"two plugins offer the policy 'x/p': 'one' of \(not installed\) and 'two' of \(not installed\); "
        "uninstall one of them"
    )
    with pytest.raises(PluginError, match=match):
        registry_of(add("one", policy("x/p")), add("two", policy("x/p")))


def test_a_builtin_name_cannot_be_taken(add: Add) -> None:
    with pytest.raises(PluginError, match=r"two plugins offer the policy 'core/fixed': 'core' of selftrain-core and"):
        registry_of(add("mine", policy("core/fixed")))


def test_two_plugins_of_one_name_name_both_modules(add: Add) -> None:
    one, other = add("one", policy("x/a")), add("two", policy("x/b"))
    match = r"two plugins are called 'one': plugin_one_\d+ of \(not installed\) and plugin_two_\d+ of \(not installed\)"
    with pytest.raises(PluginError, match=match):
        registry_of(one, EntryPoint("one", other.value, "selftrain"))


def test_a_spec_of_another_kind_is_refused(add: Add) -> None:
    match = "returned a BackboneSpec from selftrain_policies; a PolicySpec was expected"
    with pytest.raises(PluginError, match=match):
        registry_of(add("mine", policy("mine/p", spec="BackboneSpec")))


@pytest.mark.parametrize("name", ["plain", "/p", "mine/"])
def test_a_name_without_provider_is_refused(add: Add, name: str) -> None:
    with pytest.raises(PluginError, match=f"offers the policy '{name}'; names have the form 'provider/name'"):
        registry_of(add("mine", policy(name)))


def test_a_family_hands_on_the_member() -> None:
    found = registry_of().find("backbones", "timm/resnet18")
    assert (found.spec.name, found.member) == ("timm/*", "resnet18")


def test_an_unknown_name_lists_what_there_is(add: Add) -> None:
    registry = registry_of(add("bad", "import no_such_package"))
    with pytest.raises(UnknownComponentError) as error:
        registry.find("policies", "core/fixd")
    assert str(error.value).splitlines() == [
        "no policy is called 'core/fixd' (did you mean 'core/fixed'?)",
        "  available: core/adaptive, core/fixed, core/per-class, core/soft",
        "  plugin 'bad' of (not installed) could not be loaded: ModuleNotFoundError: No module named 'no_such_package'",
    ]


def test_an_unknown_name_of_a_known_package_says_how_to_install_it() -> None:
    match = (
        r"no task is called 'segmentation/other'\n  available: core/classification\n.*"
        "pip install selftrain-segmentation"
    )
    with pytest.raises(UnknownComponentError, match=match):
        registry_of().find("tasks", "segmentation/other")


def test_a_component_whose_class_is_missing_says_which_package(add: Add) -> None:
    found = registry_of(add("mine", policy("mine/p").replace("selftrain_core.policies", "no_such_package"))).find(
        "policies", "mine/p"
    )
    match = r"'mine/p' of \(not installed\) cannot be loaded: No module named 'no_such_package'\n.*pip install"
    with pytest.raises(UnknownComponentError, match=match):
        load_component(found)


def test_a_reference_resolves() -> None:
    assert resolve("selftrain_core.plugins:Found") is Found
