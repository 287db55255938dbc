"""What texts on nodes say of the families: their names, and what the presets are."""

from collections.abc import Iterable

from .registry import FAMILIES


def listed(names: Iterable[str], last: str = "and") -> str:
    """ "A, B and C"."""
    *most, final = names
    return f"{', '.join(most)} {last} {final}" if most else final


def family_names(last: str = "and") -> str:
    return listed((family.name for family in FAMILIES), last)


def sharing_families() -> str:
    """The families that have classes whose passes several cards can share."""
    sharing = (
        family for family in FAMILIES if any(each.splits for each in family.classes.values())
    )
    return listed(family.name for family in sharing)


def preset_values(setting: str) -> str:
    """What a setting is in the presets: "1 for Wan; 0 for HunyuanVideo and Mochi"."""
    groups = {}
    for family in FAMILIES:
        values = {preset.name: getattr(preset, setting) for preset in family.presets}
        same = len(set(values.values())) == 1
        for name, value in values.items():
            groups.setdefault(f"{value:g}", {})[family.name if same else name] = None
    return "; ".join(f"{value} for {listed(names)}" for value, names in groups.items())


def frames_per_latent_frame() -> str:
    """ "4 video frames each, 6 in Mochi"."""
    groups: dict[str, dict[str, None]] = {}
    for family in FAMILIES:
        for entry in family.catalog.values():
            steps = {entry.length(n + 1) - entry.length(n) for n in range(1, 10)}
            groups.setdefault(listed(map(str, sorted(steps)), "or"), {})[family.name] = None
    (usual, _), *others = groups.items()
    return ", ".join(
        [f"{usual} video frames each", *(f"{n} in {listed(names)}" for n, names in others)]
    )
