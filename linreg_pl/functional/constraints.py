"""Linear constraints on coefficients, from text such as ``rooms = 2 * age, {city=Rome} = 0``."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from linreg_pl.errors import InputError, suggestion

NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"


def parse_constraints(text: str, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return ``C`` and ``d`` of the constraints ``C θ = d``, shapes ``(q, p)`` and ``(q,)``.

    Args:
        text: constraints as patsy reads them, separated by commas; without ``=`` the expression is to be zero. Any name
            may stand in braces, and one that is a number must.
        names: of the coefficients θ.

    Raises:
        InputError: the text cannot be read, or the constraints contradict or repeat each other.
    """
    from patsy import DesignInfo, PatsyError

    if not text.strip():
        raise InputError("no constraints given; such are 'x0 = 2 * x1, x2 = 0'")

    places = {name: number for number, name in enumerate(names) if not re.fullmatch(NUMBER, name)}
    places |= {f"__{number}__": number for number in range(len(names))}  # what stands for a name in braces

    def stand_in(found: re.Match[str]) -> str:
        if found[1] not in names:
            raise _unknown(text, found[1], names)
        return f"__{names.index(found[1])}__"

    words = re.sub(r"\{([^}]*)\}", stand_in, text)
    try:
        with np.errstate(all="ignore"):
            found = DesignInfo(list(places)).linear_constraint(words)
    except (PatsyError, RecursionError) as error:
        for word in re.findall(r"[^\W\d][\w.\[\]]*", words):
            if word not in places:
                raise _unknown(text, word, names) from error
        said = str(error).splitlines()[0]
        raise InputError(
            f"{text}: is no list of linear constraints ({said}); such are 'x0 = 2 * x1, x2 = 0'"
        ) from error
    d = torch.from_numpy(found.constants[:, 0])
    C = d.new_zeros(len(d), len(names))
    C.index_add_(1, torch.tensor(list(places.values())), torch.from_numpy(found.coefs))
    sizes = C.norm(dim=1, keepdim=True)
    if not (sizes > 0).all() or not C.isfinite().all() or not d.isfinite().all():
        raise InputError(f"{text}: every constraint must name a coefficient, with finite numbers")
    if (rank := int(torch.linalg.matrix_rank(C / sizes))) < len(C):
        both = torch.cat([C, d[:, None]], dim=1) / sizes
        contradict = int(torch.linalg.matrix_rank(both / both.norm(dim=1, keepdim=True))) > rank
        how = "contradict each other" if contradict else "follow from each other: leave out what is said twice"
        raise InputError(f"{text}: the constraints {how}")
    return C, d


def _unknown(text: str, name: str, names: Sequence[str]) -> InputError:
    return InputError(f"{text}: there is no coefficient {name!r}{suggestion(name, names, 'there are')}")
