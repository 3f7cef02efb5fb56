"""Named groups of tasks: what OLMoE evaluated in its loop, and the third of it that is cheap enough to run often."""
from tasks.mmlu import CATEGORIES
from tasks.prompts import DATA_SETS

FAST = [*DATA_SETS, *(f"mmlu_{category}_var" for category in CATEGORIES)]
LETTERED = [f"mmlu_{category}_mc_5shot{split}" for split in ("", "_test") for category in CATEGORIES]

GROUPS = {"olmoe_in_loop": [*FAST, *LETTERED], "olmoe_fast": FAST}


def lists_of(group):
    """{name: labels} of the lists that a group writes: its own, and those that it contains."""
    return {name: labels for name, labels in GROUPS.items() if set(labels) <= set(GROUPS[group])}
