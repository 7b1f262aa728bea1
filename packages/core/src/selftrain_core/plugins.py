"""Finding plugins and the components they offer, without importing any component.

Stock pluggy stops at the first broken plugin, never calls a misspelt hook and lets one of two equal names win in
silence. Here a broken plugin is set aside with its reason, and the other two are errors that name both culprits.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from selftrain_core import __version__, hookspecs
from selftrain_core.errors import PluginError, UnknownComponentError, did_you_mean
from selftrain_core.hookspecs import ComponentSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

Kind = Literal["tasks", "backbones", "augmentations", "policies", "data_sources", "accelerators"]
KINDS: tuple[Kind, ...] = ("tasks", "backbones", "augmentations", "policies", "data_sources", "accelerators")
SINGULAR: dict[Kind, str] = {
    "tasks": "task",
    "backbones": "backbone",
    "augmentations": "augmentation",
    "policies": "policy",
    "data_sources": "data source",
    "accelerators": "accelerator",
}
SPEC_TYPES: dict[Kind, type[ComponentSpec]] = {
    "tasks": hookspecs.TaskSpec,
    "backbones": hookspecs.BackboneSpec,
    "augmentations": hookspecs.AugmentationSpec,
    "policies": hookspecs.PolicySpec,
    "data_sources": hookspecs.DataSourceSpec,
    "accelerators": hookspecs.AcceleratorSpec,
}


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin that was found: where it came from, and why it could not be used if it could not."""

    name: str
    module: str
    distribution: str
    version: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A component's spec with the plugin that offers it, and the member's name where the spec is a family."""

    spec: ComponentSpec
    plugin: PluginInfo
    member: str = ""


@dataclass
class Registry:
    """Every plugin and every component found. Build one with `load_registry`."""

    manager: pluggy.PluginManager
    plugins: list[PluginInfo] = field(default_factory=list)
    components: dict[Kind, dict[str, Found]] = field(default_factory=dict)

    def find(self, kind: Kind, name: str) -> Found:
        """Return the spec called `name`.

        Raises:
            UnknownComponentError: No plugin offers it. The message lists what exists, the closest name, and the
                plugins that could not be loaded.
        """
        known = self.components[kind]
        if name in known and not name.endswith("/*"):
            return known[name]
        provider, _, member = name.partition("/")
        if member and f"{provider}/*" in known:
            family = known[f"{provider}/*"]
            return Found(family.spec, family.plugin, member)
        lines = [
            f"no {SINGULAR[kind]} is called '{name}'{did_you_mean(name, known) or _with_provider(name, known)}",
            f"  available: {', '.join(sorted(known)) or 'none'}",
        ]
        lines += [
            f"  plugin '{p.name}' of {f'{p.distribution} {p.version}'.rstrip()} could not be loaded: {p.error}"
            for p in self.broken()
        ]
        missing = _PROVIDERS.get(provider)
        if missing and not any(p.distribution == missing for p in self.plugins):
            lines.append(f"  '{provider}/…' comes with another package: pip install {missing}")
        raise UnknownComponentError("\n".join(lines))

    def broken(self) -> Iterator[PluginInfo]:
        """Yield the plugins that could not be loaded."""
        return (plugin for plugin in self.plugins if plugin.error)


_PROVIDERS = {
    "segmentation": "selftrain-segmentation",
    "augment": "selftrain-augment",
    "accel": "selftrain-accel",
}


def _with_provider(member: str, known: Iterable[str]) -> str:
    meant = [f"'{name}'" for name in known if name.partition("/")[2] == member]
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


def resolve(reference: str) -> Any:
    """Return the object that ``"module:name"`` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def config_model(found: Found) -> type[BaseModel]:
    """Return the pydantic model that owns the component's settings."""
    model: type[BaseModel] = resolve(found.spec.config)
    return model


def load_component(found: Found) -> Any:
    """Return the component's class. This is where torch may be imported.

    Raises:
        UnknownComponentError: The class cannot be imported; the message says which package is missing.
    """
    try:
        return resolve(found.spec.load)
    except (ImportError, AttributeError) as error:
        raise UnknownComponentError(
            f"'{found.spec.name}' of {found.plugin.distribution} cannot be loaded: {error}\n"
            f"  if a package is missing: pip install 'selftrain[all]', or the package named above"
        ) from error


@cache
def registry() -> Registry:
    """Return this process's registry: core's own components and every installed plugin."""
    return load_registry()


def load_registry(extra: Sequence[EntryPoint] = (), *, installed: bool = True) -> Registry:
    """Return a fresh registry.

    Args:
        extra: Entry points to load beside the installed ones, for tests.
        installed: Whether to load the entry points of installed distributions; core's own components are always
            there.

    Raises:
        PluginError: A plugin implements a hook that does not exist, or two plugins offer the same name.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    loaded = Registry(manager)
    core = EntryPoint("core", "selftrain_core.builtin", hookspecs.ENTRY_POINT_GROUP)
    found = entry_points(group=hookspecs.ENTRY_POINT_GROUP) if installed else ()
    for entry in sorted({core, *found, *extra}, key=lambda e: (e.value != core.value, e.name, e.value)):
        _load_plugin(loaded, entry)
    _collect(loaded)
    return loaded


def _load_plugin(loaded: Registry, entry: EntryPoint) -> None:
    if entry.dist:
        distribution, version = entry.dist.name, entry.dist.version
    elif entry.name == "core":
        distribution, version = "selftrain-core", __version__
    else:
        distribution, version = "(not installed)", ""
    info = {"name": entry.name, "module": entry.value, "distribution": distribution, "version": version}
    twin = next((p for p in loaded.plugins if p.name == entry.name), None)
    if twin:
        raise PluginError(
            f"two plugins are called '{entry.name}': {twin.module} of {twin.distribution} and "
            f"{entry.value} of {distribution}; uninstall one of them"
        )
    try:
        module = entry.load()
    except Exception as error:  # a plugin may fail in any way; what it does must not stop the others
        loaded.plugins.append(PluginInfo(**info, error=f"{type(error).__name__}: {error}"))
        return
    plugin = PluginInfo(**info)
    loaded.plugins.append(plugin)
    _refuse_unknown_hooks(module, plugin)
    try:
        loaded.manager.register(module, name=entry.name)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin '{entry.name}' of {distribution}: {error}") from error


def _refuse_unknown_hooks(module: object, plugin: PluginInfo) -> None:
    known = [name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_")]
    for name, value in vars(module).items():
        if hasattr(value, f"{hookspecs.PROJECT}_impl") and name not in known:
            raise PluginError(
                f"plugin '{plugin.name}' ({plugin.module} of {plugin.distribution}) implements the hook '{name}', "
                f"which does not exist{did_you_mean(name, known)}; the hooks are: {', '.join(known)}"
            )


def _collect(loaded: Registry) -> None:
    by_name = {plugin.name: plugin for plugin in loaded.plugins}
    for kind in KINDS:
        components = loaded.components.setdefault(kind, {})
        for implementation in getattr(loaded.manager.hook, f"selftrain_{kind}").get_hookimpls():
            plugin = by_name[implementation.plugin_name]
            for spec in _call(implementation, plugin, loaded):
                _check_spec(spec, kind, plugin)
                if spec.name in components:
                    raise PluginError(
                        f"two plugins offer the {SINGULAR[kind]} '{spec.name}': "
                        f"'{components[spec.name].plugin.name}' of {components[spec.name].plugin.distribution} and "
                        f"'{plugin.name}' of {plugin.distribution}; uninstall one of them"
                    )
                components[spec.name] = Found(spec, plugin)


def _call(implementation: Any, plugin: PluginInfo, loaded: Registry) -> Sequence[ComponentSpec]:
    try:
        return list(implementation.function())
    except Exception as error:  # see _load_plugin
        position = loaded.plugins.index(plugin)
        reason = f"{type(error).__name__} in its hook: {error}"
        loaded.plugins[position] = PluginInfo(plugin.name, plugin.module, plugin.distribution, plugin.version, reason)
        return ()


def _check_spec(spec: object, kind: Kind, plugin: PluginInfo) -> None:
    expected = SPEC_TYPES[kind]
    if not isinstance(spec, expected):
        raise PluginError(
            f"plugin '{plugin.name}' of {plugin.distribution} returned a {type(spec).__name__} from selftrain_{kind}; "
            f"a {expected.__name__} was expected"
        )
    provider, slash, member = spec.name.partition("/")
    if not (provider and slash and member):
        raise PluginError(
            f"plugin '{plugin.name}' of {plugin.distribution} offers the {SINGULAR[kind]} '{spec.name}'; "
            "names have the form 'provider/name'"
        )
