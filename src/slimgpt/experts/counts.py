"""How many experts of a layer stay."""

from __future__ import annotations

import math

from slimgpt.errors import ConfigError
from slimgpt.experts.mixture import Mixture


def count_kept(mixture: Mixture, share: float, multiple_of: int, per_token: int) -> int:
    """The number that is nearest to what ``share`` leaves, a multiple of ``multiple_of``; of two, the larger.

    Args:
        mixture: the model's.
        share: removed fraction of a layer's experts.
        multiple_of: what the number is rounded to.
        per_token: experts that a token is sent to.

    Raises:
        ConfigError: the router cannot work with so many; the message names those that it can work with.
    """
    whole, step, least = mixture.num_experts, math.lcm(multiple_of, mixture.groups), mixture.least(per_token)
    possible = range(-(-least // step) * step, whole, step)
    if not possible:
        raise ConfigError(
            f"--experts {share}: none of the {whole} experts of a layer can go: the router wants at least {least}"
            f"{_in_steps(step)}."
        )
    rounded = round(whole * (1 - share) / multiple_of) * multiple_of
    if rounded in possible:
        return rounded
    near = sorted(possible, key=lambda count: (abs(count - whole * (1 - share)), -count))
    if multiple_of > 1 and near[0] >= least and mixture.groups == 1 and least <= whole * (1 - share) < whole:
        return near[0]
    raise ConfigError(
        f"--experts {share} leaves {rounded} of {whole} experts of a layer, and that cannot be: each token goes to "
        f"{per_token} of them{_grouped(mixture)}, so at least {least}{_in_steps(step)} stay, and one goes. The nearest "
        f"that can: {' or '.join(_said(count, whole) for count in sorted(near[:2]))}."
    )


def _grouped(mixture: Mixture) -> str:
    if mixture.groups == 1:
        return ""
    return f", chosen from {mixture.groups_chosen} of {mixture.groups} groups of equal size"


def _in_steps(step: int) -> str:
    return f" in multiples of {step}" if step > 1 else ""


def _said(count: int, whole: int) -> str:
    return f"--experts {1 - count / whole:.4g} ({count} stay)"
