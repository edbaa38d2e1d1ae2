"""The names of the bases."""

from .basis import IID, AbstractBasis, Orthogonal, Sobol
from .grid import FourierGrid

_BASES = {"grid": FourierGrid, "sobol": Sobol, "iid": IID, "orthogonal": Orthogonal}


def as_basis(call: str, basis: AbstractBasis | str) -> AbstractBasis:
    """A basis by name, or as it is."""
    if isinstance(basis, AbstractBasis):
        return basis
    if isinstance(basis, str) and basis in _BASES:
        return _BASES[basis]()
    raise ValueError(
        f"`{call}` must be one of {', '.join(map(repr, _BASES))}, or an object of "
        f"theirs. Got {basis!r}. Leave it out for 'grid'."
    )
