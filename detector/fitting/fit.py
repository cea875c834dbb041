"""The automatic recipe: `small` or `standard`, fitted to a data set and a device.

A pure function of facts. Every rule gives its reason in the words that the user reads.
"""

from collections.abc import Mapping

from detector.fitting import base, choice, learning, levels, view
from detector.fitting.choice import Fit
from detector.fitting.facts import Asked, Facts


def fit(facts: Facts, asked: Asked, changes: Mapping[str, object]) -> Fit:
    """Choose; what the user has decided stays, and the rest follows it.

    Args:
        facts: Of the data and the machine.
        asked: What the user has decided, as far as other settings depend on it.
        changes: Everything the user has set, by dotted name.
    """
    recipe = base.of(facts)
    size = view.image_size(facts)
    image_size = choice.decided(asked.image_size, size)
    batch = learning.batch_size(facts, asked, recipe, image_size)
    batch_size = choice.decided(asked.batch_size, batch)
    first, last, scales = view.pyramid(facts, asked, recipe, image_size)
    is_finer = choice.decided(asked.levels.first, first) == levels.FINEST
    choices = (
        view.trunk(facts, recipe),
        size,
        first,
        last,
        scales,
        batch,
        *learning.rates(facts, asked, recipe, batch_size),
        *learning.losses(facts, recipe),
        *learning.norms(facts, asked, batch_size),
        view.crops(facts, recipe),
        *view.flips(facts),
        learning.length(facts, asked, recipe, batch_size, image_size, is_finer=is_finer),
        *view.decoding(facts, recipe),
    )
    about = (
        f"recipe {recipe.name}, fitted to {_images(facts)} with {_objects(facts)} of {_classes(facts)}, "
        f"and to {_place(facts)}"
    )
    settled = choice.settle(recipe.config, choices, about, changes).config
    return choice.settle(recipe.config, (*choices, learning.warm_up(facts, recipe, settled)), about, changes)


def _images(facts: Facts) -> str:
    """All of them, or those that have objects."""
    some = "" if facts.num_with_objects == facts.num_images else f"{facts.num_with_objects:,} of "
    return f"{some}{facts.num_images:,} image{'s' * (facts.num_images != 1)}"


def _objects(facts: Facts) -> str:
    return f"{facts.num_objects:,} object{'s' * (facts.num_objects != 1)}"


def _classes(facts: Facts) -> str:
    seen, many = len(facts.seen), facts.num_classes
    of_all = "" if seen == many else f"{seen} of "
    return f"{of_all}{many} class{'es' * (many != 1)}"


def _place(facts: Facts) -> str:
    machine = facts.machine
    many = f" in {machine.processes} processes" if machine.processes > 1 else ""
    return f"a GPU{many}" if machine.kind == "cuda" else f"a CPU of {machine.cores} cores{many}"
